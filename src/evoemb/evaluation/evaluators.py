"""Evaluators in sentence-transformers' way: called with a model, in the trainer or by hand, they give figures."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from evoemb._errors import InputError
from evoemb.encoding import MEMORY_MODES, MemoryMode
from evoemb.evaluation.anchors import Bm25System
from evoemb.evaluation.controls import Control
from evoemb.evaluation.evolving import model_system
from evoemb.evaluation.metrics import CUTOFFS, Outcome, summary
from evoemb.evaluation.probe import with_probes
from evoemb.evaluation.runs import run_systems
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.streams import read_streams
from evoemb.evaluation.systems import CrossEncoderSystem, StaticVectors, System

Streams = Sequence[EvalStream] | str | os.PathLike[str]
RANKING_FIGURES = (*(f"recall@{k}" for k in CUTOFFS), *(f"hit@{k}" for k in CUTOFFS), "ndcg@10", "mrr")
ORDER_FIGURES = ("order_acc", "order_chance", "recall@1", "mrr")


class StreamEvaluator(BaseEvaluator, ABC):
    """What the evaluators over streams share: reading, figures, CSV and model card.

    Args:
        streams: Streams with questions, or a file in evoemb's stream format.
        name: Put before every figure's name.
        batch_size: Rows of one forward.
        group_size: Streams read side by side.
        write_csv: Whether a line of figures is added to ``<name>_results.csv`` in the trainer's output folder.

    Raises:
        InputError: No stream has a question with evidence.
    """

    def __init__(
        self,
        streams: Streams,
        name: str = "",
        *,
        batch_size: int = 32,
        group_size: int = 8,
        write_csv: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of sentence-transformers
        given = read_streams(streams) if isinstance(streams, str | os.PathLike) else list(streams)
        self.streams = self._prepared(given)
        if not any(stream.scored for stream in self.streams):
            raise InputError(
                "No question here has evidence, so nothing can be scored. Give streams with evidence_turns."
            )
        self.name = name
        self.batch_size = batch_size
        self.group_size = group_size
        self.write_csv = write_csv

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Read the streams and give the figures.

        Args:
            model: An evoemb model, or any sentence-transformers model, which is scored without memory.
            output_path: Folder of the CSV file; None writes none.
            epoch: Epoch of the trainer; -1 outside of it.
            steps: Step of the trainer; -1 at the end of an epoch.

        Returns:
            Figures by name, ``self.primary_metric`` among them.
        """
        figures = self.prefix_name_to_metrics(self._figures(model), self.name)
        self.store_metrics_in_model_card_data(model, figures, epoch, steps)
        if output_path is not None and self.write_csv:
            self._append(Path(output_path), {"epoch": epoch, "steps": steps, **figures})
        return figures

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this evaluation."""
        asked = sum(len(stream.scored) for stream in self.streams)
        return {"streams": len(self.streams), "questions": asked}

    def _prepared(self, streams: list[EvalStream]) -> list[EvalStream]:
        return streams

    @abstractmethod
    def _figures(self, model: Any) -> dict[str, float]: ...

    def _outcomes(self, system: System) -> list[Outcome]:
        return run_systems([system], self.streams, group_size=self.group_size)[0].outcomes

    def _with_memory(self, model: SentenceTransformer, memory: MemoryMode) -> list[Outcome]:
        vectors = StaticVectors(model, self.batch_size)
        return self._outcomes(model_system(model, vectors, memory, Control(), batch_size=self.batch_size))

    def _append(self, folder: Path, row: Mapping[str, float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name or type(self).__name__}_results.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


class StreamRetrievalEvaluator(StreamEvaluator):
    """Recall@k, hit@k, nDCG@10 and MRR over the turns seen when each question is asked.

    Args:
        streams: As in :class:`StreamEvaluator`.
        name: As in :class:`StreamEvaluator`.
        memory: Readings to score, ``"causal"``, ``"final"`` or both; the first gives the primary metric, its
            Recall@10. A final reading encodes the turns again for every moment at which something is asked.
        by_category: Whether to give Recall@10 and nDCG@10 for each category too.
        **kwargs: As in :class:`StreamEvaluator`.
    """

    def __init__(
        self,
        streams: Streams,
        name: str = "",
        *,
        memory: Sequence[MemoryMode] = ("causal",),
        by_category: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(streams, name, **kwargs)
        self.memory = check_memory(memory)
        self.by_category = by_category
        self.primary_metric = f"{self.memory[0]}_recall@10"

    def _figures(self, model: Any) -> dict[str, float]:
        figures: dict[str, float] = {}
        for memory in self.memory:
            found = summary(self._with_memory(model, memory))
            figures.update(_picked(found["overall"], RANKING_FIGURES, f"{memory}_"))
            for category, values in found["by_category"].items() if self.by_category else ():
                picked = _picked(values, ("recall@10", "ndcg@10"), f"{memory}_")
                figures.update({f"{name}_{category}": value for name, value in picked.items()})
        return figures

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this evaluation."""
        return {**super().get_config_dict(), "memory": list(self.memory)}


class KnowledgeUpdateEvaluator(StreamEvaluator):
    """Whether the right one of several competing mentions is found: first, last, previous, and as it changes.

    Order accuracy: the right mention scores above all competing ones. Joint: first and last of one slot are both right.
    Evolving: one question, asked at several times with other right answers, is right each time.

    Args:
        streams: As in :class:`StreamEvaluator`; questions need ``mentions``.
        name: As in :class:`StreamEvaluator`.
        memory: The reading to score.
        **kwargs: As in :class:`StreamEvaluator`.

    Raises:
        InputError: No question has mentions that compete.
    """

    def __init__(self, streams: Streams, name: str = "", *, memory: MemoryMode = "causal", **kwargs: Any) -> None:
        super().__init__(streams, name, **kwargs)
        if not any(query.rivals for stream in self.streams for query in stream.scored):
            raise InputError("No question here has competing mentions, so order cannot be scored. Give `mentions`.")
        (self.memory,) = check_memory([memory])
        self.primary_metric = "order_acc"

    def _figures(self, model: Any) -> dict[str, float]:
        found = summary(self._with_memory(model, self.memory))
        figures = _picked(found["overall"], ORDER_FIGURES)
        joint = {**found.get("pairwise", {}), **found.get("evolving", {})}
        figures.update({name: value for name, value in joint.items() if name.startswith("joint")})
        for category, values in found["by_category"].items():
            if "order_acc" in values:
                figures[f"order_acc_{category}"] = values["order_acc"]
        return figures


class TemporalProbeEvaluator(StreamEvaluator):
    """Whether "What did I mention firstly / in the middle / lastly?" finds the first, middle and last turn.

    A position feature alone solves it: it shows that order reaches the embeddings, and nothing about content.

    Args:
        streams: Any streams of three turns or more; their own questions are not used.
        name: As in :class:`StreamEvaluator`.
        max_turns: Turns read of each stream.
        memory: The reading to score.
        **kwargs: As in :class:`StreamEvaluator`.

    Source: EvoEmbedding (arXiv 2606.21649), figure 6.
    """

    def __init__(
        self,
        streams: Streams,
        name: str = "",
        *,
        max_turns: int = 256,
        memory: MemoryMode = "causal",
        **kwargs: Any,
    ) -> None:
        if max_turns < 3:
            raise InputError(f"max_turns={max_turns} was given. First, middle and last need 3 turns or more.")
        self.max_turns = max_turns
        super().__init__(streams, name, **kwargs)
        (self.memory,) = check_memory([memory])
        self.primary_metric = "order_acc"

    def _prepared(self, streams: list[EvalStream]) -> list[EvalStream]:
        return [with_probes(stream, self.max_turns) for stream in streams if len(stream.turns) >= 3]

    def _figures(self, model: Any) -> dict[str, float]:
        found = summary(self._with_memory(model, self.memory))
        figures = _picked(found["overall"], (*ORDER_FIGURES, "recall@10"))
        for category, values in found["by_category"].items():
            figures[f"recall@1_{category}"] = values["recall@1"]
        return figures


class StreamRerankingEvaluator(StreamEvaluator):
    """What a reranker makes of the candidates of a first stage, which it gets in the order of the stream.

    Args:
        streams: As in :class:`StreamEvaluator`.
        name: As in :class:`StreamEvaluator`.
        first: Chooses the candidates; None takes BM25.
        num_candidates: Turns that are ranked anew.
        **kwargs: As in :class:`StreamEvaluator`.

    Calling it takes a reranker: :class:`evoemb.EvoReranker`, a ``CrossEncoder``, or anything with ``predict(pairs)``.
    Figures of the first stage stand beside, with ``first_`` before their names.
    """

    def __init__(
        self,
        streams: Streams,
        name: str = "",
        *,
        first: System | None = None,
        num_candidates: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(streams, name, **kwargs)
        self.first = first or Bm25System()
        self.num_candidates = num_candidates
        self.primary_metric = "ndcg@10"

    def _figures(self, model: Any) -> dict[str, float]:
        reranked = CrossEncoderSystem(self.first, model, self.num_candidates, name="reranked")
        before, after = run_systems([self.first, reranked], self.streams, group_size=self.group_size)
        return {
            **_picked(summary(after.outcomes)["overall"], RANKING_FIGURES),
            **_picked(summary(before.outcomes)["overall"], RANKING_FIGURES, "first_"),
        }


def sts_evaluator(path: str | os.PathLike[str], name: str = "sts") -> EmbeddingSimilarityEvaluator:
    """Return sentence-transformers' evaluator of stateless similarity: nothing may be lost on texts without a stream.

    Args:
        path: CSV of two texts and a score; a first line ``sentence1,sentence2,score`` is passed over.
        name: Put before every figure's name.

    Raises:
        InputError: A line has other columns, a score is no number, or there is no pair at all.
    """
    first: list[str] = []
    second: list[str] = []
    scores: list[float] = []
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        for row in (rows := csv.reader(file)):
            where = f"{path}, line {rows.line_num}"
            if row == ["sentence1", "sentence2", "score"] and not scores:
                continue
            if len(row) != 3:
                raise InputError(f"{where}: {len(row)} columns were found. Expected sentence1, sentence2, score.")
            try:
                scores.append(float(row[2]))
            except ValueError:
                raise InputError(f"{where}, score: {row[2]!r} is no number.") from None
            first.append(row[0])
            second.append(row[1])
    if not scores:
        raise InputError(f"{path} holds no pairs. Expected lines of sentence1, sentence2, score.")
    return EmbeddingSimilarityEvaluator(first, second, scores, name=name)


def check_memory(memory: Sequence[MemoryMode]) -> tuple[MemoryMode, ...]:
    """Refuse readings that do not exist, and none at all."""
    unknown = [one for one in memory if one not in MEMORY_MODES]
    if unknown or not memory or isinstance(memory, str):
        raise InputError(f'memory={memory!r} was given. Give a list of "causal" and "final".')
    return tuple(memory)


def _picked(values: Any, names: Sequence[str], prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": float(values[name]) for name in names if name in values}
