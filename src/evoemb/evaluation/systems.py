"""What can be put into the table: anything that scores the turns of a stream for its questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from evoemb.evaluation.metrics import Scores
from evoemb.evaluation.schema import EvalStream
from evoemb.ranking import best_first
from evoemb.retrieval import TurnScorer
from evoemb.time_ordered import TurnReranker

Vectors = NDArray[np.floating]


class System(Protocol):
    """A way to rank turns."""

    name: str

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score turns for every question that has evidence.

        Args:
            streams: Read side by side where the system can.

        Returns:
            For each stream, in the order of ``stream.scored``, scores ``(asked_at,)`` of the turns seen, higher is
            better.
        """
        ...


class StaticVectors:
    """Vectors of turns and questions, each text by itself; kept for the streams asked for last.

    Several anchors share one, so that every text is encoded once.

    Args:
        model: Any sentence-transformers model; an evoemb model is read without memory.
        batch_size: Texts of one forward.
    """

    def __init__(self, model: SentenceTransformer, batch_size: int = 32) -> None:
        self.model = model
        self._batch_size = batch_size
        self._kept: dict[str, tuple[Vectors, Vectors]] = {}

    def of(self, streams: Sequence[EvalStream]) -> list[tuple[Vectors, Vectors]]:
        """Return turn vectors ``(n, D)`` and question vectors ``(q, D)`` of each stream."""
        if any(stream.stream_id not in self._kept for stream in streams):
            turns = self._encode([text for stream in streams for text in stream.texts], queries=False)
            asked = self._encode([query.query for stream in streams for query in stream.scored], queries=True)
            self._kept = {
                stream.stream_id: (
                    np.stack([turns[text] for text in stream.texts]),
                    np.stack([asked[query.query] for query in stream.scored]) if stream.scored else np.zeros((0, 0)),
                )
                for stream in streams
            }
        return [self._kept[stream.stream_id] for stream in streams]

    def _encode(self, texts: Sequence[str], *, queries: bool) -> dict[str, Vectors]:
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        encode = self.model.encode_query if queries else self.model.encode_document
        vectors = encode(distinct, batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True)
        return dict(zip(distinct, np.asarray(vectors.float().cpu()), strict=True))


class StaticSystem:
    """A model without memory: the similarity of each turn with the question."""

    def __init__(self, vectors: StaticVectors, name: str = "static") -> None:
        self.name = name
        self._vectors = vectors

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the model's own similarity."""
        return [
            [
                similarity(self._vectors.model, asked[number], turns[: query.asked_at])
                for number, query in enumerate(stream.scored)
            ]
            for stream, (turns, asked) in zip(streams, self._vectors.of(streams), strict=True)
        ]


class ScoredSystem:
    """A system's similarities of vectors, joined with what tokens and words say, as ``retrieve`` joins them.

    Args:
        vectors: Scores turns by their vectors.
        scorer: Joins these scores with others.
    """

    def __init__(self, vectors: System, scorer: TurnScorer, name: str) -> None:
        self.name = name
        self._vectors = vectors
        self._scorer = scorer

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score what each question sees; rarity is counted among these turns alone."""
        return [
            self._scorer.scores(stream.texts, [query.query for query in stream.scored], found)
            for stream, found in zip(streams, self._vectors.score(streams), strict=True)
        ]


class FusedSystem:
    """Reciprocal-rank fusion of several systems."""

    def __init__(self, parts: Sequence[System], name: str = "hybrid") -> None:
        self.name = name
        self._parts = parts

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the sum of reciprocal ranks."""
        scored = [part.score(streams) for part in self._parts]
        return [
            [reciprocal_rank_fusion(rankings) for rankings in zip(*of_stream, strict=True)]
            for of_stream in zip(*scored, strict=True)
        ]


class RerankedSystem:
    """A system's candidates, ranked by the reranker that was trained with the model.

    Args:
        vectors: Scores turns by their vectors; of a long stream the best are looked at.
        reranker: Reads what each question sees in time order.
    """

    def __init__(self, vectors: System, reranker: TurnReranker, name: str) -> None:
        self.name = name
        self._vectors = vectors
        self._reranker = reranker

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the probability that a turn answers the question as of when it is asked."""
        return [
            [*self._reranker.probabilities(stream.texts, [query.query for query in stream.scored], found)]
            for stream, found in zip(streams, self._vectors.score(streams), strict=True)
        ]


def reciprocal_rank_fusion(rankings: Sequence[Scores], smoothing: float = 60.0) -> Scores:
    """Fuse several scorings of the same texts into one: the sum of ``1 / (smoothing + rank)``.

    Args:
        rankings: Scores ``(n,)`` each, higher is better; of equal ones the earlier text ranks first.
        smoothing: How little the first ranks stand out.

    Returns:
        ``(n,)``, higher is better.

    Source: Cormack, Clarke and Buettcher 2009.
    """
    fused = np.zeros(len(rankings[0]))
    for scores in rankings:
        ranking = best_first(scores)
        fused[ranking] += 1 / (smoothing + np.arange(1, len(ranking) + 1))
    return fused


class CrossEncoderSystem:
    """The best turns of another system, ranked anew by a cross-encoder; the others follow as they were.

    Args:
        first: Chooses the candidates.
        cross_encoder: Anything with ``predict(pairs)``, such as sentence-transformers' ``CrossEncoder``.
        num_candidates: Turns ranked anew.
    """

    def __init__(
        self, first: System, cross_encoder: Any, num_candidates: int = 50, name: str = "cross-encoder"
    ) -> None:
        self.name = name
        self._first = first
        self._cross_encoder = cross_encoder
        self._num_candidates = num_candidates

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score the candidates by the cross-encoder, above everything else."""
        return [
            [self._again(stream, query.query, scores) for query, scores in zip(stream.scored, found, strict=True)]
            for stream, found in zip(streams, self._first.score(streams), strict=True)
        ]

    def _again(self, stream: EvalStream, query: str, scores: Scores) -> Scores:
        # In the order of the stream: a reranker with a memory reads the candidates as they were said.
        best = np.sort(np.argsort(-scores, kind="stable")[: self._num_candidates])
        pairs = [(query, stream.texts[turn]) for turn in best]
        judged = np.asarray(self._cross_encoder.predict(pairs, show_progress_bar=False), dtype=np.float64)
        return put_above(scores, best, judged)


def put_above(scores: Scores, chosen: NDArray[np.integer], judged: Scores) -> Scores:
    """Return the scores with those of ``chosen`` replaced by ``judged``, shifted to stand above all others."""
    found = np.asarray(scores, dtype=np.float64).copy()
    found[chosen] = judged - judged.min() + found.max() + 1
    return found


def similarity(model: SentenceTransformer, query: Vectors, turns: Vectors) -> Scores:
    """The model's own similarity of one question ``(D,)`` with turns ``(n, D)``: ``(n,)`` float32."""
    found = model.similarity(torch.as_tensor(query)[None].float(), torch.as_tensor(turns).float())
    return np.asarray(found[0].cpu())
