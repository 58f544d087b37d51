"""The states of streams at chosen moments, from one reading: what a question asked then would have seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from evoemb._errors import InputError
from evoemb.state import MemoryState

__all__ = ["Moment", "ReadingModel", "read_moments"]


class ReadingModel(Protocol):
    """What a model needs for its streams to be read: :class:`evoemb.EvoEmbedding` has it."""

    def new_state(self, batch_size: int = 1) -> MemoryState:
        """Return an empty memory."""
        ...

    def encode_document(self, *args: Any, **kwargs: Any) -> Any:
        """Encode turns, as ``EvoEmbedding.encode_document`` does."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """One stream at one moment.

    Args:
        num_turns: Turns that were read until then.
        state: The memory of one stream as it was then. Later reading leaves it as it is. Who keeps many of them keeps
            ``state.clone()``, which holds nothing beside its value.
        vectors: ``(n, D)``, of the turns since the moment before, each made with the memory of its time. Those of all
            turns as this moment sees them are ``model.encode_document(turns[:num_turns], state=state)``.
    """

    num_turns: int
    state: MemoryState
    vectors: NDArray[Any]


def read_moments(
    model: ReadingModel,
    streams: Sequence[Sequence[str]],
    moments: Sequence[Sequence[int]],
    *,
    remember: int | None = None,
    **options: Any,
) -> Iterator[dict[int, Moment]]:
    """Read streams side by side, each once and from an empty memory, and stop at chosen moments.

    The state at a moment is that of reading only so far.

    Args:
        model: The model that reads.
        streams: Turns of each stream.
        moments: For each stream, the numbers of turns to stop after, 1 or more, in any order. Turns after the last
            moment are not read.
        remember: Turns of each stream that enter its memory; later ones are encoded on the memory of these. None: all.
        **options: Passed on to ``model.encode_document``.

    Yields:
        In each step, by the number of the stream, the next moment of every stream that has one left.

    Raises:
        InputError: A moment lies outside its stream, or there is not one list of moments a stream.
    """
    plans = [_plan(stops, turns, index, remember) for index, (stops, turns) in enumerate(_paired(moments, streams))]
    states = [model.new_state() for _ in streams]
    since: list[list[NDArray[Any]]] = [[] for _ in streams]  # vectors since the last moment
    for step in range(max(len(plan) for plan in plans)):
        pieces = {index: plan[step] for index, plan in enumerate(plans) if step < len(plan)}
        for is_written in (True, False):
            chosen = [index for index, piece in pieces.items() if piece.is_written is is_written]
            if not chosen:
                continue
            joined = MemoryState.stack([states[index] for index in chosen])
            turns = [streams[index][pieces[index].begin : pieces[index].end] for index in chosen]
            found = model.encode_document(turns, stateful=is_written, state=joined, **options)
            for place, index in enumerate(chosen):
                states[index] = joined[place]
                since[index].append(np.asarray(found[place]))
        reached = {}
        for index in [index for index, piece in pieces.items() if piece.is_moment]:
            reached[index] = Moment(pieces[index].end, states[index], np.concatenate(since[index]))
            since[index] = []
        if reached:
            yield reached


class _Piece(NamedTuple):
    """Turns ``begin`` to ``end`` of a stream, whether they enter its memory, and whether their end is a moment."""

    begin: int
    end: int
    is_written: bool
    is_moment: bool


def _paired(moments: Sequence[Sequence[int]], streams: Sequence[Sequence[str]]) -> Iterator[tuple[Any, Any]]:
    if len(moments) != len(streams) or not streams:
        raise InputError(
            f"{len(moments)} lists of moments were given for {len(streams)} streams. Pass one list a stream, and at "
            "least one stream."
        )
    return zip(moments, streams, strict=True)


def _plan(moments: Sequence[int], turns: Sequence[str], index: int, remember: int | None) -> list[_Piece]:
    """Return the pieces in which a stream is read: they end at its moments, and where its memory stops."""
    stops = set(moments)
    if not stops or min(stops) < 1 or max(stops) > len(turns):
        raise InputError(
            f"The moments {sorted(stops)!r:.80} were given for stream {index} of {len(turns)} turns. Pass at least one "
            "number of turns, each from 1 to the number of turns."
        )
    cuts = {remember} if remember and remember < max(stops) else set[int]()
    ends = sorted(stops | cuts)
    return [
        _Piece(begin, end, remember is None or begin < remember, end in stops)
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
