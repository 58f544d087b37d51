"""Reading streams with a model as a benchmark asks: every stream once, questions on the state of their moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evoemb.encoding import MemoryMode
from evoemb.evaluation.controls import Control, donated_turns, permute_ages
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.systems import Vectors
from evoemb.model import EvoEmbedding
from evoemb.state import MemoryState

Transform = Callable[[MemoryState], MemoryState]


@dataclass(slots=True)
class StreamVectors:
    """What reading one stream gave.

    Args:
        turns: Turn vectors ``(n, D)``, each made with the memory of its time.
        queries: A vector ``(D,)`` for every question of ``stream.scored``, in order.
        turns_at: With the memory of the end of what was seen, turn vectors ``(asked_at, D)`` for each moment of asking.
    """

    turns: list[Vectors] = field(default_factory=list)
    queries: dict[int, Vectors] = field(default_factory=dict)
    turns_at: dict[int, Vectors] = field(default_factory=dict)

    def seen(self, asked_at: int) -> Vectors:
        """The vectors of the turns that a question asked then may be compared with."""
        if self.turns_at:
            return self.turns_at[asked_at]
        return np.stack(self.turns[:asked_at])


class StreamReader:
    """Reads groups of streams side by side under one control.

    Args:
        model: Its memory is read and written through ``encode`` only.
        memory: As in :meth:`evoemb.EvoEmbedding.encode`.
        control: What is done to the memory.
        batch_size: Rows of one forward.
    """

    def __init__(
        self, model: EvoEmbedding, memory: MemoryMode = "causal", control: Control | None = None, batch_size: int = 32
    ) -> None:
        self.model = model
        self.memory = memory
        self.control = control or Control()
        self._options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}

    def read(self, streams: Sequence[EvalStream], donors: Sequence[Sequence[str]] | None = None) -> list[StreamVectors]:
        """Read streams from an empty memory.

        Args:
            donors: For the shuffled control, the turns that each stream's memory is made from; None takes those of
                the other streams in this group.
        """
        kind = self.control.kind
        if kind == "shuffled":
            written: Sequence[Sequence[str]] = donors if donors is not None else donated_turns(streams)
            return self._read_stepwise(streams, written, lambda state: state)
        if kind == "ages":
            return self._read_stepwise(
                streams, [stream.texts for stream in streams], lambda state: permute_ages(state, self.control.seed)
            )
        return self._read_in_pieces(streams)

    def _read_in_pieces(self, streams: Sequence[EvalStream]) -> list[StreamVectors]:
        """Read on from question to question; the pieces of a stream give what one reading would."""
        found = [StreamVectors() for _ in streams]
        texts = [stream.texts for stream in streams]
        stops = [self._stops(stream) for stream in streams]
        states = [self.model.new_state() for _ in streams]
        at = [0] * len(streams)
        for step in range(max(len(one) for one in stops)):
            active = [index for index, one in enumerate(stops) if step < len(one)]
            pieces = {index: texts[index][at[index] : stops[index][step]] for index in active}
            self._read_piece(found, states, pieces, at)
            for index in active:
                at[index] = stops[index][step]
            asking = {index: at[index] for index in active}
            self._ask(found, streams, {index: states[index] for index in active}, asking)
        return found

    def _stops(self, stream: EvalStream) -> list[int]:
        """Where reading pauses: at questions, where the memory freezes, and where a causal reading ends.

        Turns after the last question are never looked at.
        """
        stops = {query.asked_at for query in stream.scored} or {len(stream.turns)}
        freeze = self.control.frozen_after
        return sorted(stops | ({freeze} if self.control.kind == "frozen" and freeze < max(stops) else set()))

    def _read_piece(
        self, found: list[StreamVectors], states: list[MemoryState], pieces: dict[int, list[str]], at: Sequence[int]
    ) -> None:
        """Encode the next turns of some streams; those whose memory still moves advance it."""
        moving = [index for index in pieces if self._moves(at[index])]
        still = [index for index in pieces if index not in moving]
        for chosen, stateful in ((moving, True), (still, False)):
            if not chosen or (not stateful and self.memory == "final"):
                continue
            joined = MemoryState.stack([states[index] for index in chosen])
            turns = [pieces[index] for index in chosen]
            vectors = self.model.encode_document(turns, stateful=stateful, state=joined, **self._options)
            for place, index in enumerate(chosen):
                found[index].turns += list(np.asarray(vectors[place]))
                states[index] = joined[place]

    def _moves(self, num_turns: int) -> bool:
        if self.control.kind == "off":
            return False
        return self.control.kind != "frozen" or num_turns < self.control.frozen_after

    def _ask(
        self,
        found: list[StreamVectors],
        streams: Sequence[EvalStream],
        states: dict[int, MemoryState],
        moments: dict[int, int],
    ) -> None:
        """Encode the questions asked at these moments and, with the final memory, the turns seen so far."""
        due = {
            index: [number for number, query in enumerate(streams[index].scored) if query.asked_at == moment]
            for index, moment in moments.items()
        }
        due = {index: numbers for index, numbers in due.items() if numbers}
        if not due:
            return
        joined = MemoryState.stack([states[index] for index in due])
        asked = [[streams[index].scored[number].query for number in numbers] for index, numbers in due.items()]
        vectors = self.model.encode_query(asked, state=joined, **self._options)
        for place, (index, numbers) in enumerate(due.items()):
            found[index].queries.update(zip(numbers, np.asarray(vectors[place]), strict=True))
        if self.memory == "final":
            seen = [streams[index].texts[: moments[index]] for index in due]
            again = self.model.encode_document(seen, state=joined, **self._options)
            for place, index in enumerate(due):
                found[index].turns_at[moments[index]] = np.asarray(again[place])

    def _read_stepwise(
        self, streams: Sequence[EvalStream], written: Sequence[Sequence[str]], transform: Transform
    ) -> list[StreamVectors]:
        """Read turn by turn, where what is remembered or how it is read is not the stream's own."""
        found = [StreamVectors() for _ in streams]
        texts = [stream.texts for stream in streams]
        ends = [max(self._stops(stream)) for stream in streams]
        states = [self.model.new_state() for _ in streams]
        for turn in range(max(ends)):
            active = [index for index, end in enumerate(ends) if turn < end]
            joined = MemoryState.stack([states[index] for index in active])
            if self.memory == "causal":
                now = [[texts[index][turn]] for index in active]
                vectors = self.model.encode_document(now, state=transform(joined), **self._options)
                for place, index in enumerate(active):
                    found[index].turns.append(np.asarray(vectors[place])[0])
            self.model.encode_document(
                [[written[index][turn]] for index in active], stateful=True, state=joined, **self._options
            )
            for place, index in enumerate(active):
                states[index] = joined[place]
            readable = transform(joined)
            self._ask(
                found,
                streams,
                {index: readable[place] for place, index in enumerate(active)},
                dict.fromkeys(active, turn + 1),
            )
        return found
