"""Finding turns: exact ranking by cosine in one stream or in all of a user's, as of now or of then, with filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evoemb._errors import InputError, InputTypeError
from evoemb.ranking import best_first, checked_top_k
from evoemb.state import MemoryState
from evoemb.store import rows
from evoemb.store.candidates import Candidates, candidates_of
from evoemb.store.core import Core
from evoemb.store.incoming import checked_metadata
from evoemb.store.moments import Moment, seq_at
from evoemb.store.reading import to_unit
from evoemb.store.rows import StreamRow
from evoemb.store.times import Instant, instant_of, same_zone
from evoemb.store.types import StoredHit, StoredTurn, TurnId

_TRIES = 20


class Filters(NamedTuple):
    """Which turns may be found.

    Args:
        where: Values that a turn's metadata has; a list stands for any of its values.
        after: Turns of this time or later.
        before: Turns of an earlier time.
        speaker: Name, or role where the message had no name.
    """

    where: Mapping[str, Any]
    after: Instant | None
    before: Instant | None
    speaker: str | None

    @classmethod
    def of(cls, where: Mapping[str, Any] | None, after: object, before: object, speaker: object) -> Filters:
        """Check filters as callers give them."""
        if speaker is not None and not isinstance(speaker, str):
            raise InputTypeError(f"speaker is {type(speaker).__name__}, expected a name.")
        return cls(
            checked_metadata(_plain(where), "where"),
            None if after is None else instant_of(after, "after"),
            None if before is None else instant_of(before, "before"),
            speaker,
        )

    def chosen(self, turns: Candidates, stream: StreamRow) -> NDArray[np.bool_]:
        """Say of every turn whether it may be found ``(n,)``."""
        found = np.ones(len(turns.seqs), bool)
        if self.after is not None:
            same_zone(stream.zone or "aware", self.after, "after")
            found &= turns.times >= self.after.micros
        if self.before is not None:
            same_zone(stream.zone or "aware", self.before, "before")
            found &= turns.times < self.before.micros
        if self.speaker is not None:
            found &= turns.speakers == self.speaker
        for name, value in self.where.items():
            allowed = value if isinstance(value, list) else [value]
            found &= np.fromiter((_has(one, name, allowed) for one in turns.parsed), bool, len(found))
        return found


class Query(NamedTuple):
    """What is asked.

    Args:
        as_of: The moment whose memory answers, and behind which nothing is found; None for now.
        current_only: Leave out turns that others took the place of.
    """

    text: str
    top_k: int | None
    filters: Filters
    as_of: Moment | None = None
    current_only: bool = False

    @classmethod
    def of(cls, text: object, top_k: object, filters: Filters, as_of: Moment | None, *, current_only: bool) -> Query:
        """Check a question as callers give it."""
        if not isinstance(text, str):
            raise InputTypeError(f"The query is {type(text).__name__}, expected a text.")
        return cls(text, checked_top_k(top_k), filters, as_of, current_only)


class _View(NamedTuple):
    """One stream as a query sees it."""

    stream: StreamRow
    turns: Candidates
    chosen: NDArray[np.bool_]
    up_to: int


def search_stream(core: Core, name: str, query: Query) -> list[StoredHit]:
    """Rank the turns of a stream on the memory of the stream."""
    return _search(core, query, name=name)


def search_user(core: Core, user: str | None, query: Query) -> list[StoredHit]:
    """Rank the turns of all streams of a user (of all users for None) with one vector, made without a memory."""
    return _search(core, query, user=user)


def _search(core: Core, query: Query, name: str | None = None, user: str | None = None) -> list[StoredHit]:
    for _ in range(_TRIES):
        state: MemoryState | None = None
        with core.database.read() as connection:
            generation = core.generation(connection)
            if name is not None:
                streams = [rows.known_stream(connection, core.tenant, name)]
            else:
                streams = rows.streams_of(connection, core.tenant, user)
                if not streams:
                    raise InputError(f"There is no stream of user={user!r} in this store. Only add() makes one.")
            views = []
            for stream in streams:
                up_to = stream.head if query.as_of is None else seq_at(connection, stream, query.as_of)
                turns = candidates_of(core, connection, generation, stream)
                chosen = query.filters.chosen(turns, stream) & (turns.seqs <= up_to)
                views.append(_View(stream, turns, chosen, up_to))
            if query.current_only:
                views = [_without_replaced(connection, view, views) for view in views]
            if name is not None:
                state = core.state(connection, generation, streams[0], views[0].up_to).clone()
        if state is None:
            state = MemoryState.of_turns(generation.spec, [], num_turns=0)
        vector = core.model.encode_query(query.text, state=state, show_progress_bar=False)
        found = _best(views, to_unit(np.asarray(vector, dtype=np.float32)), query.top_k)
        with core.database.read() as connection:
            stored = rows.stored_turns(connection, [(view.stream.id, seq) for view, seq, _ in found])
        if len(stored) == len(found):  # else turns were forgotten meanwhile: look again
            return [_hit(stored[view.stream.id, seq], score, views) for view, seq, score in found]
    raise InputError("Turns were forgotten faster than they could be searched. Search again.")


def _best(views: Sequence[_View], vector: NDArray[np.float32], top_k: int | None) -> list[tuple[_View, int, float]]:
    """Return the best turns of all views: view, number and score."""
    found: list[tuple[_View, int, float]] = []
    for view in views:
        places = np.flatnonzero(view.chosen)
        every = len(places) == len(view.chosen)
        scores = (view.turns.vectors if every else view.turns.vectors[places]) @ vector
        found += [(view, int(view.turns.seqs[places[n]]), float(scores[n])) for n in best_first(scores, top_k)]
    return sorted(found, key=lambda one: -one[2])[:top_k]


def _without_replaced(connection: Any, view: _View, views: Iterable[_View]) -> _View:
    """Leave out the turns that others had replaced by then."""
    seen = {one.stream.name: one.up_to for one in views}
    places = [(view.stream.id, int(seq)) for seq in view.turns.seqs[view.chosen]]
    gone = {
        seq
        for (_, seq), followers in rows.replaced_by(connection, places).items()
        if any(one.seq <= seen.get(one.stream, one.seq) for one in followers)
    }
    return view._replace(chosen=view.chosen & ~np.isin(view.turns.seqs, list(gone)))


def _hit(turn: StoredTurn, score: float, views: Sequence[_View]) -> StoredHit:
    """Return a turn as a hit that knows nothing of what came after the moment asked for."""
    seen = {view.stream.name: view.up_to for view in views}
    values = {field.name: getattr(turn, field.name) for field in fields(StoredTurn)}
    values["replaced_by"] = tuple(TurnId(*one) for one in turn.replaced_by if one.seq <= seen.get(one.stream, one.seq))
    return StoredHit(**values, score=score)


def _plain(where: Any) -> Any:
    """Return conditions with lists in the place of sets and tuples."""
    if not isinstance(where, Mapping):
        return where
    several = (set, frozenset, tuple)
    return {name: list(value) if isinstance(value, several) else value for name, value in where.items()}


def _has(metadata: Mapping[str, Any], name: str, allowed: Sequence[Any]) -> bool:
    """Whether a value is one of those allowed; true is not 1 here."""
    if name not in metadata:
        return False
    found = metadata[name]
    return any(one == found and isinstance(one, bool) is isinstance(found, bool) for one in allowed)
