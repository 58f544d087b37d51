"""Joining scorings of the same texts: each is put on one scale, then they are added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evoemb.ranking.hits import Scores

# Scores that differ by less, as a share of the largest, are equal up to the rounding of float32.
_ROUNDING = 1e-6


def standardised(scores: Scores) -> Scores:
    """Return scores by how many standard deviations they lie above their mean.

    Args:
        scores: ``(n,)``, on any scale; higher is better.

    Returns:
        ``(n,)`` float64 of mean 0 and standard deviation 1; all zero where all scores are equal, so that a scoring
        that tells nothing apart adds nothing.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return values
    spread = values.std()
    if spread <= _ROUNDING * np.abs(values).max():
        return np.zeros_like(values)
    found: Scores = (values - values.mean()) / spread
    return found


def weighted_sum(scorings: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Join several scorings of the same texts: the weighted sum of their standardised scores.

    Args:
        scorings: Scores ``(n,)`` each, one scoring at least; higher is better.
        weights: One a scoring.

    Returns:
        ``(n,)`` float64, higher is better.
    """
    parts = [weight * standardised(scores) for scores, weight in zip(scorings, weights, strict=True)]
    found: Scores = np.sum(parts, axis=0)
    return found
