"""A model with memory as a system of the table, under any control."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers import SentenceTransformer

from evoemb.encoding import MemoryMode
from evoemb.evaluation.controls import Control, donated_turns
from evoemb.evaluation.metrics import Scores
from evoemb.evaluation.reading import StreamReader
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.systems import StaticSystem, StaticVectors, System, similarity
from evoemb.model import EvoEmbedding


class EvolvingSystem:
    """An evoemb model that reads each stream once and ranks the turns seen for every question.

    Args:
        model: Read through ``encode`` only.
        memory: As in :meth:`evoemb.EvoEmbedding.encode`.
        control: What is done to the memory; None leaves it as it is.
        batch_size: Rows of one forward.
        all_streams: The whole set, from which the shuffled control takes other streams' turns; None takes those of
            the group that is scored.
        name: In the table.
    """

    def __init__(
        self,
        model: EvoEmbedding,
        memory: MemoryMode = "causal",
        control: Control | None = None,
        *,
        batch_size: int = 32,
        all_streams: Sequence[EvalStream] | None = None,
        name: str | None = None,
    ) -> None:
        self.reader = StreamReader(model, memory, control, batch_size)
        self.name = name or f"memory {self.reader.control.name}"
        self._all_streams = all_streams
        self._donated: dict[str, list[str]] = {}

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the model's own similarity."""
        read = self.reader.read(streams, self._donors(streams))
        return [
            [
                similarity(self.reader.model, vectors.queries[number], vectors.seen(query.asked_at))
                for number, query in enumerate(stream.scored)
            ]
            for stream, vectors in zip(streams, read, strict=True)
        ]

    def _donors(self, streams: Sequence[EvalStream]) -> list[list[str]] | None:
        if self.reader.control.kind != "shuffled":
            return None
        if not self._donated:
            whole = self._all_streams or streams
            self._donated = dict(zip([one.stream_id for one in whole], donated_turns(whole), strict=True))
        return [self._donated[stream.stream_id] for stream in streams]


def model_system(
    model: SentenceTransformer,
    vectors: StaticVectors,
    memory: MemoryMode = "causal",
    control: Control | None = None,
    *,
    batch_size: int = 32,
    all_streams: Sequence[EvalStream] | None = None,
) -> System:
    """Return a model as a system: with its memory if it has one.

    A model without memory ignores memory mode and control, so all its rows are equal to the last digit.
    """
    control = control or Control()
    if isinstance(model, EvoEmbedding):
        return EvolvingSystem(model, memory, control, batch_size=batch_size, all_streams=all_streams)
    return StaticSystem(vectors, name=f"memory {control.name}")
