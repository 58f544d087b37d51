"""Moments of a stream: a turn's number, a time, or the name of a snapshot."""

from __future__ import annotations

from datetime import date
from typing import TypeAlias

from sqlalchemy import Connection, func, select

from evoemb._errors import InputError, InputTypeError
from evoemb.store import schema
from evoemb.store.rows import StreamRow
from evoemb.store.times import instant_of, same_zone

Moment: TypeAlias = int | date | str
"""After the turn of this number; or before anything later than this time was said; or a snapshot's name."""


def seq_at(connection: Connection, stream: StreamRow, moment: object, name: str = "as_of") -> int:
    """Return the number up to which turns had been read at a moment.

    Args:
        moment: A turn's number (0 is before the first turn), a datetime or date, or a text: a snapshot's name, or a
            time in ISO 8601. A time takes the turns before the first one that is later than it.

    Raises:
        InputError: The stream has not come so far, or the text is neither.
        InputTypeError: It is of another kind.
    """
    if isinstance(moment, int) and not isinstance(moment, bool):
        if not 0 <= moment < stream.next_seq:
            raise InputError(
                f"{name}={moment} was given, but the last turn of the stream {stream.name!r} is {stream.head}. Pass a "
                "turn's number from 1, or 0 for before all."
            )
        return moment
    if not isinstance(moment, date | str):
        raise InputTypeError(
            f"{name} is {type(moment).__name__}, expected a turn's number, a datetime, or a snapshot's name."
        )
    if isinstance(moment, str):
        p = schema.snapshot.c
        found = connection.scalar(select(p.seq).where(p.stream == stream.id, p.name == moment))
        if found is not None:
            return int(found)
        try:
            instant = instant_of(moment, name)
        except InputError as error:
            raise InputError(
                f"{name}={moment!r:.60} is no snapshot of the stream {stream.name!r} and no time. Pass the name of a "
                "snapshot, a turn's number, or a time such as 2026-11-20T09:00Z."
            ) from error
    else:
        instant = instant_of(moment, name)
    same_zone(stream.zone or "aware", instant, name)
    t = schema.turn.c
    later = select(func.min(t.seq)).where(t.stream == stream.id, func.coalesce(t.time, t.recorded) > instant.micros)
    first = connection.scalar(later)
    return stream.head if first is None else int(first) - 1
