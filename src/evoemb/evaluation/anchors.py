"""The cheap baselines that stand in every table: what a sceptic would try before any memory."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from evoemb._errors import InputError
from evoemb.evaluation.metrics import Scores
from evoemb.evaluation.schema import EvalStream, StreamQuery
from evoemb.evaluation.systems import FusedSystem, StaticSystem, StaticVectors, System, Vectors, put_above
from evoemb.ranking.lexical import Bm25Index

ANCHORS = {
    "bm25": "BM25 over the turns seen",
    "static": "the model without any memory",
    "centred": "static, the mean of the turns seen subtracted from turns and question",
    "mix": "static, each turn's vector plus 1/2 and 1/4 of the two before it",
    "newest3": "static, its best three put newest first",
    "position": "static, its best five put in the order that first / last / previous / middle asks for",
    "hybrid": "reciprocal-rank fusion of BM25 and static",
}
"""Names that :func:`make_anchor` takes, and what they are."""

MIX_WEIGHTS = (0.5, 0.25)
"""Weights of the previous turn's vector and of the one before, beside 1 for the turn's own."""

NEWEST_DEPTH = 3
"""Turns that ``newest3`` puts into order."""

POSITION_DEPTH = 5
"""Turns that the position rule puts into order."""

# Read when a data set does not say the kind of a question.
_KIND_WORDS = (
    ("previous", re.compile(r"\b(previous(ly)?|just before|before (my|the) (latest|last))\b", re.IGNORECASE)),
    ("middle", re.compile(r"\b(middle|midway|halfway)\b", re.IGNORECASE)),
    ("first", re.compile(r"\b((first|initial|original)(ly)?|at the (start|beginning)|earliest)\b", re.IGNORECASE)),
    ("last", re.compile(r"\b((last|current|most recent|final)(ly)?|latest|now|these days)\b", re.IGNORECASE)),
)


def make_anchor(name: str, vectors: StaticVectors) -> System:
    """Return an anchor by its name.

    Raises:
        InputError: The name is none of `ANCHORS`.
    """
    if name == "bm25":
        return Bm25System()
    if name == "static":
        return StaticSystem(vectors)
    if name == "centred":
        return CentredSystem(vectors)
    if name == "mix":
        return MixSystem(vectors)
    if name == "newest3":
        return NewestSystem(vectors)
    if name == "position":
        return PositionSystem(vectors)
    if name == "hybrid":
        return FusedSystem([Bm25System(), StaticSystem(vectors)])
    raise InputError(f"There is no anchor {name!r}. Choose among {', '.join(ANCHORS)}.")


class Bm25System:
    """BM25; the index holds the turns seen when the question is asked, no later ones."""

    name = "bm25"

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by words; one index for each moment at which something is asked."""
        return [self._score_one(stream) for stream in streams]

    def _score_one(self, stream: EvalStream) -> list[Scores]:
        texts = stream.texts
        indexes = {asked_at: Bm25Index(texts[:asked_at]) for asked_at in {query.asked_at for query in stream.scored}}
        return [indexes[query.asked_at].scores(query.query) for query in stream.scored]


class CentredSystem:
    """Static vectors without what all turns have in common."""

    name = "centred"

    def __init__(self, vectors: StaticVectors) -> None:
        self._vectors = vectors

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the cosine after subtracting the mean of the turns seen."""
        found = []
        for stream, (turns, asked) in zip(streams, self._vectors.of(streams), strict=True):
            means = np.cumsum(turns, axis=0, dtype=np.float64) / np.arange(1, len(turns) + 1)[:, None]
            scores = []
            for number, query in enumerate(stream.scored):
                mean = means[query.asked_at - 1]
                scores.append(_cosine(asked[number] - mean, turns[: query.asked_at] - mean))
            found.append(scores)
        return found


class MixSystem:
    """Static vectors with a fading share of the two turns before: context without any learning."""

    name = "mix"

    def __init__(self, vectors: StaticVectors, weights: Sequence[float] = MIX_WEIGHTS) -> None:
        self._vectors = vectors
        self._weights = weights

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score by the cosine with the mixed vectors."""
        found = []
        for stream, (turns, asked) in zip(streams, self._vectors.of(streams), strict=True):
            mixed = turns.copy()
            for lag, weight in enumerate(self._weights, 1):
                mixed[lag:] += weight * turns[:-lag]
            found.append([_cosine(asked[i], mixed[: query.asked_at]) for i, query in enumerate(stream.scored)])
        return found


class NewestSystem:
    """Static, its best turns put newest first: what "the newest is right" is worth without any memory."""

    name = "newest3"

    def __init__(self, vectors: StaticVectors) -> None:
        self._static = StaticSystem(vectors)

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score as static does, with the best three turns in the order of their age, whatever is asked."""
        return [[_newest_first(scores) for scores in found] for found in self._static.score(streams)]


class PositionSystem:
    """Static, with a rule for questions of order: its best five turns, sorted by where they stand.

    The rule takes the question's kind from the data set if it is given there, else it reads the question's words. That
    favours this anchor: it solves every probe that needs a clock alone.
    """

    name = "position"

    def __init__(self, vectors: StaticVectors) -> None:
        self._static = StaticSystem(vectors)

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score as static does, with the best turns put in the order asked for."""
        return [
            [_in_order(query, scores) for query, scores in zip(stream.scored, found, strict=True)]
            for stream, found in zip(streams, self._static.score(streams), strict=True)
        ]


def kind_of(query: StreamQuery) -> str:
    """The kind of a question: as the data set says, else by its words; empty if it is about no order."""
    return query.kind or next((kind for kind, words in _KIND_WORDS if words.search(query.query)), "")


def _newest_first(scores: Scores) -> Scores:
    """Put the best turns above all others, the newest highest."""
    best = np.argsort(-scores, kind="stable")[:NEWEST_DEPTH]
    return put_above(scores, best, best.astype(np.float64))


def _in_order(query: StreamQuery, scores: Scores) -> Scores:
    """Put the best turns where the question's kind wants them."""
    best = np.sort(np.argsort(-scores, kind="stable")[:POSITION_DEPTH])
    kind = kind_of(query)
    wanted = list(range(len(best)))
    if kind in ("last", "previous"):
        wanted.reverse()
    if kind == "previous" and len(wanted) > 1:
        wanted[0], wanted[1] = wanted[1], wanted[0]
    if kind == "middle":
        middle = (len(best) - 1) / 2
        wanted.sort(key=lambda place: abs(place - middle))
    if kind not in ("first", "last", "previous", "middle"):
        return scores
    return put_above(scores, best[wanted], np.arange(len(best), 0, -1, dtype=np.float64))


def _cosine(query: Vectors, turns: Vectors) -> Scores:
    """Cosine of one vector ``(D,)`` with several ``(n, D)``; 0 for a vector of no length."""
    lengths = np.linalg.norm(turns, axis=1) * np.linalg.norm(query)
    return np.asarray((turns @ query) / np.maximum(lengths, 1e-12))
