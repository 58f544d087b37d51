"""The vectors of a stream's turns, held in memory and brought up to date with the rows written since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from evoemb.store import schema
from evoemb.store.core import Core
from evoemb.store.reading import Generation, unit_vectors
from evoemb.store.rows import StreamRow


@dataclass(frozen=True)
class Candidates:
    """What is ranked of a stream, in order.

    Args:
        edition: Of the stream: turns that were taken away make another one.
        version: Of the stream: rows written later are missing.
        seqs: Numbers of the turns ``(n,)``.
        vectors: Of unit length ``(n, D)``.
        times: Microseconds ``(n,)``, as given or else as recorded.
        speakers: Who spoke, by name or else by role ``(n,)``.
        metadata: As JSON ``(n,)``.
    """

    edition: int
    version: int
    seqs: NDArray[np.int64]
    vectors: NDArray[np.float32]
    times: NDArray[np.int64]
    speakers: NDArray[np.object_]
    metadata: NDArray[np.object_]

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        texts = sum(len(text) + 60 for text in self.metadata)
        return int(self.seqs.nbytes + self.vectors.nbytes + self.times.nbytes + 8 * len(self.seqs) + texts)

    @cached_property
    def parsed(self) -> list[Mapping[str, Any]]:
        """The metadata of every turn."""
        return [json.loads(text) if len(text) > 2 else {} for text in self.metadata]


def candidates_of(core: Core, connection: Connection, generation: Generation, stream: StreamRow) -> Candidates:
    """Return the turns of a stream as they are in the transaction of ``connection``."""
    key = (generation.id, stream.id)
    held: Candidates | None = core.vectors.get(key)
    if held is not None and held.edition == stream.edition and held.version == stream.version:
        return held
    if held is None or held.edition != stream.edition or held.version > stream.version:
        held = _empty(stream.edition, generation.dimension)
    found = _joined(held, _rows_since(connection, generation, stream, held.version))
    core.vectors.put(key, found)
    return found


def _empty(edition: int, dimension: int) -> Candidates:
    whole, words = np.zeros(0, np.int64), np.zeros(0, object)
    return Candidates(edition, -1, whole, np.zeros((0, dimension), np.float32), whole, words, words)


def _rows_since(connection: Connection, generation: Generation, stream: StreamRow, version: int) -> Candidates:
    r, t = schema.reading.c, schema.turn.c
    columns = (r.seq, r.vector, t.speaker, t.role, t.metadata, func.coalesce(t.time, t.recorded).label("time"))
    same = (r.generation == generation.id, r.stream == stream.id, t.stream == r.stream, t.seq == r.seq)
    new = connection.execute(select(*columns).where(*same, r.written > version).order_by(r.seq)).all()
    return Candidates(
        stream.edition,
        stream.version,
        np.array([row.seq for row in new], np.int64),
        unit_vectors([row.vector for row in new], generation),
        np.array([row.time for row in new], np.int64),
        np.array([row.speaker or row.role for row in new], object),
        np.array([row.metadata for row in new], object),
    )


def _joined(old: Candidates, new: Candidates) -> Candidates:
    """Return both; where a turn is in both, the new one stands."""
    kept = (
        slice(None)
        if not len(new.seqs) or not len(old.seqs) or old.seqs[-1] < new.seqs[0]
        else ~np.isin(old.seqs, new.seqs)
    )
    parts = [
        np.concatenate([getattr(old, name)[kept], getattr(new, name)])
        for name in ("seqs", "vectors", "times", "speakers", "metadata")
    ]
    order = np.argsort(parts[0], kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        parts = [part[order] for part in parts]
    return Candidates(new.edition, new.version, *parts)
