"""How sure a figure is: bootstrap over streams, paired where two systems answered the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from evoemb.evaluation.metrics import EXCLUDED_CATEGORY, FIGURES, Outcome

RESAMPLES = 2000
LEVEL = 0.95

Figure = Callable[[Outcome], float | None]


class Interval(NamedTuple):
    """A mean over questions and the interval that holds 95 % of its resamples."""

    mean: float
    low: float
    high: float


def figure_named(name: str) -> Figure:
    """Return a figure of one question: one of `FIGURES`, or ``order_acc``, which is None where nothing competes."""
    if name == "order_acc":
        return lambda one: one.order
    return FIGURES[name]


def interval(outcomes: Sequence[Outcome], figure: str) -> Interval | None:
    """Mean of a figure with its interval; None if no question has it."""
    return _resampled(outcomes, [figure_named(figure)(one) for one in outcomes])


def paired_difference(ours: Sequence[Outcome], theirs: Sequence[Outcome], figure: str) -> Interval | None:
    """Mean of ``ours - theirs`` with its interval; None if no question has the figure.

    Args:
        ours: Outcomes of one system.
        theirs: Outcomes of another on the same questions, in the same order.
    """
    value = figure_named(figure)
    differences: list[float | None] = []
    for mine, other in zip(ours, theirs, strict=True):
        first, second = value(mine), value(other)
        differences.append(None if first is None or second is None else first - second)
    return _resampled(ours, differences)


def _resampled(outcomes: Sequence[Outcome], values: Sequence[float | None]) -> Interval | None:
    kept = [
        (one.stream_id, value)
        for one, value in zip(outcomes, values, strict=True)
        if value is not None and one.query.category != EXCLUDED_CATEGORY
    ]
    return mean_interval([stream_id for stream_id, _ in kept], [value for _, value in kept])


def mean_interval(stream_ids: Sequence[str], values: Sequence[float]) -> Interval | None:
    """Mean of values with its interval, drawing whole streams: questions of one are not independent of each other.

    Args:
        stream_ids: The stream of each value.
        values: As many; None is given back for none.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for stream_id, value in zip(stream_ids, values, strict=True):
        sums[stream_id] = sums.get(stream_id, 0.0) + value
        counts[stream_id] = counts.get(stream_id, 0) + 1
    if not counts:
        return None
    total, number = np.array(list(sums.values())), np.array(list(counts.values()), dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(total), size=(RESAMPLES, len(total)))
    means = total[drawn].sum(axis=1) / number[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(total.sum() / number.sum()), float(low), float(high))
