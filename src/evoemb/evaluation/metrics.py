"""The figures: pure functions from where the right turns were ranked to Recall@k, hit@k, nDCG@10, MRR and order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from evoemb.evaluation.schema import EvalStream, StreamQuery

Scores = NDArray[np.floating]

CUTOFFS = (1, 5, 10)
EXCLUDED_CATEGORY = "adversarial"
"""LoCoMo's questions whose premise is false; shown by themselves, not in the main figures, as the reference does."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one question was answered: all that any figure needs.

    Args:
        ranks: Rank of each evidence turn among the turns seen, from 1, in the order of ``evidence_turns``.
        order: 1 if a right mention scores above all competing ones, 0 if not, 0.5 on a tie; None without rivals.
        top: Turn ranked first.
    """

    stream_id: str
    query: StreamQuery
    ranks: tuple[int, ...]
    order: float | None
    top: int


def outcome(stream: EvalStream, query: StreamQuery, scores: Scores) -> Outcome:
    """Rank the turns by their scores ``(asked_at,)``; of equal ones the earlier comes first."""
    ranking = np.argsort(-scores, kind="stable")
    rank_of = np.empty(len(ranking), dtype=np.int64)
    rank_of[ranking] = np.arange(1, len(ranking) + 1)
    order = None
    if rivals := query.rivals:
        right, wrong = scores[list(query.evidence_turns)].max(), scores[list(rivals)].max()
        order = 0.5 if math.isclose(right, wrong, rel_tol=0, abs_tol=1e-9) else float(right > wrong)
    ranks = tuple(int(rank_of[turn]) for turn in query.evidence_turns)
    return Outcome(stream.stream_id, query, ranks, order, int(ranking[0]))


def recall(ranks: Sequence[int], k: int) -> float:
    """Share of the evidence among the first ``k``."""
    return sum(rank <= k for rank in ranks) / len(ranks)


def hit(ranks: Sequence[int], k: int) -> float:
    """1 if any evidence is among the first ``k``, else 0."""
    return float(min(ranks) <= k)


def reciprocal_rank(ranks: Sequence[int]) -> float:
    """One over the rank of the best evidence."""
    return 1 / min(ranks)


def ndcg(ranks: Sequence[int], k: int = 10) -> float:
    """Discounted gain within the first ``k``, over that of a perfect ranking; every evidence turn gains 1."""
    gained = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(len(ranks), k)))


def _at(figure: Callable[[Sequence[int], int], float], k: int) -> Callable[[Outcome], float]:
    return lambda one: figure(one.ranks, k)


FIGURES: dict[str, Callable[[Outcome], float]] = {
    **{f"recall@{k}": _at(recall, k) for k in CUTOFFS},
    **{f"hit@{k}": _at(hit, k) for k in CUTOFFS},
    "mrr": lambda one: reciprocal_rank(one.ranks),
    "ndcg@10": lambda one: ndcg(one.ranks),
}
"""Name to figure of one question; a set's figure is the mean over its questions."""


def averages(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means over questions: ``n``, every figure of `FIGURES` and, where questions have rivals, order accuracy.

    ``order_acc`` is over the questions that have rivals, ``order_chance`` what guessing among the mentions would give.
    """
    if not outcomes:
        return {"n": 0}
    means: dict[str, float] = {"n": len(outcomes)}
    means.update({name: fmean(map(figure, outcomes)) for name, figure in FIGURES.items()})
    if ordered := [one for one in outcomes if one.order is not None]:
        means["order_acc"] = fmean(float(one.order or 0) for one in ordered)
        asked = [one.query for one in ordered]
        means["order_chance"] = fmean(len(q.evidence_turns) / len({*q.evidence_turns, *q.rivals}) for q in asked)
    return means


def joint_first_and_last(outcomes: Iterable[Outcome]) -> tuple[list[bool], list[str]]:
    """For each slot asked for first and last: were both in the right order? With the stream of each."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = defaultdict(dict)
    for one in outcomes:
        if one.query.group and one.query.kind in ("first", "last") and one.order is not None:
            groups[one.stream_id, one.query.group][one.query.kind] = one
    pairs = {key: pair for key, pair in groups.items() if len(pair) == 2}
    return [all(one.order == 1 for one in pair.values()) for pair in pairs.values()], [key[0] for key in pairs]


def evolving_groups(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Questions of one wording, asked of one stream at several times, whose right answers differ."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.stream_id, one.query.query].append(one)
    return [
        group
        for group in groups.values()
        if len({one.query.asked_at for one in group}) > 1 and len({one.query.evidence_turns for one in group}) > 1
    ]


class _Main(TypedDict):
    overall: dict[str, float]
    all_categories: dict[str, float]
    by_category: dict[str, dict[str, float]]


class Summary(_Main, total=False):
    """The figures of one system on one set; the last two only where the set has such questions."""

    pairwise: dict[str, float]
    evolving: dict[str, float]


def summary(outcomes: Sequence[Outcome]) -> Summary:
    """All figures of one system on one set.

    Returns:
        ``overall`` (without the category `EXCLUDED_CATEGORY`), ``all_categories``, ``by_category`` and, where the set
        has such questions, ``pairwise`` (``pairs``, ``joint_first_and_last``) and ``evolving`` (``groups``,
        ``joint_recall@1``, ``joint_order``: the question was right each time it was asked).
    """
    main = [one for one in outcomes if one.query.category != EXCLUDED_CATEGORY]
    names = sorted({one.query.category for one in outcomes})
    found: Summary = {
        "overall": averages(main),
        "all_categories": averages(outcomes),
        "by_category": {name: averages([one for one in outcomes if one.query.category == name]) for name in names},
    }
    pairs, _ = joint_first_and_last(outcomes)
    if pairs:
        found["pairwise"] = {"pairs": len(pairs), "joint_first_and_last": fmean(pairs)}
    if groups := evolving_groups(outcomes):
        found["evolving"] = {
            "groups": len(groups),
            "joint_recall@1": fmean(all(hit(one.ranks, 1) for one in group) for group in groups),
            "joint_order": fmean(all(one.order == 1 for one in group) for group in groups),
        }
    return found
