"""Hits: the texts that score best, best first."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from evoemb._errors import InputError

Scores = NDArray[np.floating[Any]]
"""Scores ``(n,)`` of ``n`` texts; higher is better."""


class RankedId(TypedDict):
    """The place of a text in a ranking: its index among the texts ranked, from 0, and its score, higher is better."""

    corpus_id: int
    score: float


class _RankedText(RankedId):
    text: str


class Hit(_RankedText, total=False):
    """A ranked text: ``corpus_id`` and ``score`` as in :class:`RankedId`, and ``text``, the text itself.

    Where scorings were joined, ``score`` is the joined score, and ``cosine`` the similarity of the vectors.
    """

    cosine: float


def checked_top_k(top_k: object) -> int | None:
    """Return how many hits are wanted, as an int; None wants all.

    Raises:
        InputError: ``top_k`` is no whole number, or less than 1.
    """
    if top_k is None:
        return None
    if isinstance(top_k, bool | np.bool_) or not isinstance(top_k, Integral) or top_k < 1:
        raise InputError(f"top_k={top_k!r} was given. Use a whole number of 1 or more, or None for all.")
    return int(top_k)


def best_first(scores: Scores, top_k: int | None = None) -> NDArray[np.intp]:
    """Return the indices of the best scores, best first; of equal scores the earlier one stands first.

    Args:
        scores: ``(n,)``, higher is better.
        top_k: Indices returned at most; None returns all.
    """
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:top_k]


def top_hits(scores: Scores, texts: Sequence[str], top_k: int | None = None) -> list[Hit]:
    """Return the texts that score best, best first.

    Args:
        scores: ``(n,)``, one a text; higher is better.
        texts: What was scored.
        top_k: Hits returned at most; None returns all.
    """
    return [Hit(corpus_id=int(n), score=float(scores[n]), text=texts[n]) for n in best_first(scores, top_k)]
