"""Compare and set: a change is kept only if its stream is still as it was read."""

from __future__ import annotations

import random
import time

from sqlalchemy import Connection, select, update

from evoemb.store import schema
from evoemb.store.reading import Generation
from evoemb.store.rows import StreamRow

TRIES = 200


def wait_a_little(attempt: int) -> None:
    """Wait before the next try: the longer the more were in vain, and never in step with others."""
    time.sleep(random.random() * 0.002 * min(attempt + 1, 50))


def moved(connection: Connection, stream: StreamRow, generation: Generation, **values: object) -> bool:
    """Set a stream's values if it is still as it was read, and say whether it was: compare and set."""
    s = schema.stream.c
    asked = select(schema.meta.c.value).where(schema.meta.c.name == "generation")
    chosen = connection.scalar(asked.with_for_update(read=True))  # a change of the model waits for this commit
    if chosen != str(generation.id):
        return False
    same = update(schema.stream).where(s.id == stream.id, s.version == stream.version)
    return connection.execute(same.values(version=stream.version + 1, **values)).rowcount == 1
