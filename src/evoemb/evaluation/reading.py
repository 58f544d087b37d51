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
from evoemb.timeline import Moment, read_moments

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
        remember = {"off": 0, "frozen": self.control.frozen_after}.get(self.control.kind)
        for reached in read_moments(self.model, texts, stops, remember=remember, **self._options):
            for index, moment in reached.items():
                found[index].turns += list(moment.vectors)
            self._ask(found, streams, reached, {index: moment.state for index, moment in reached.items()})
        return found

    def _stops(self, stream: EvalStream) -> list[int]:
        """Where reading pauses: at questions, or at the end if there are none.

        Turns after the last question are never looked at.
        """
        return sorted({query.asked_at for query in stream.scored} or {len(stream.turns)})

    def _read_stepwise(
        self, streams: Sequence[EvalStream], written: Sequence[Sequence[str]], transform: Transform
    ) -> list[StreamVectors]:
        """Read turn by turn, where what is remembered or how it is read is not the stream's own."""
        found = [StreamVectors() for _ in streams]
        moments = [range(1, max(self._stops(stream)) + 1) for stream in streams]
        before = [self.model.new_state() for _ in streams]
        for reached in read_moments(self.model, written, moments, **self._options):
            if self.memory == "causal":
                seen = transform(MemoryState.stack([before[index] for index in reached]))
                now = [[streams[index].texts[moment.num_turns - 1]] for index, moment in reached.items()]
                vectors = self.model.encode_document(now, state=seen, **self._options)
                for place, index in enumerate(reached):
                    found[index].turns.append(np.asarray(vectors[place])[0])
            for index, moment in reached.items():
                before[index] = moment.state
            readable = transform(MemoryState.stack([moment.state for moment in reached.values()]))
            self._ask(found, streams, reached, {index: readable[place] for place, index in enumerate(reached)})
        return found

    def _ask(
        self,
        found: list[StreamVectors],
        streams: Sequence[EvalStream],
        reached: dict[int, Moment],
        states: dict[int, MemoryState],
    ) -> None:
        """Encode the questions asked at these moments on these states and, with the final memory, the turns so far."""
        due = {
            index: [n for n, query in enumerate(streams[index].scored) if query.asked_at == moment.num_turns]
            for index, moment in reached.items()
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
            seen = [streams[index].texts[: reached[index].num_turns] for index in due]
            again = self.model.encode_document(seen, state=joined, **self._options)
            for place, index in enumerate(due):
                found[index].turns_at[reached[index].num_turns] = np.asarray(again[place])
