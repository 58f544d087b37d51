"""Late interaction: every word of a question finds its best match in a turn, and rare words count more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoemb.ranking.hits import Scores

PREVIOUS_WEIGHT = 0.2
"""What the turn before adds to a turn's score. Chosen on two development sets of conversations."""


@dataclass(frozen=True, slots=True)
class TokenStates:
    """A text's tokens, without special ones.

    Args:
        ids: Token ids ``(T,)``.
        states: Hidden states of the same tokens ``(T, H)``, of unit length.
    """

    ids: NDArray[np.int64]
    states: NDArray[np.floating[Any]]


def late_scores(
    query: TokenStates, turns: Sequence[TokenStates], *, previous_weight: float = PREVIOUS_WEIGHT
) -> Scores:
    """Score turns for a query by MaxSim, weighted by how rare the query's tokens are among the turns.

    Args:
        query: The question's tokens.
        turns: The tokens of every turn read so far, in order: rarity is counted among these alone, so nothing is known
            of later turns.
        previous_weight: How much of the score of the turn before is added to a turn's: an answer often names its
            subject there.

    Returns:
        ``(n,)``, about -1 to 1 times ``1 + previous_weight``; higher is better.

    Source: MaxSim of ColBERT (Khattab and Zaharia 2020, arXiv 2004.12832); the inverse document frequency of BM25.
    """
    if not turns:
        return np.zeros(0, dtype=np.float32)
    if not len(query.ids):
        return np.zeros(len(turns), dtype=np.float32)
    found = Counter(int(token) for turn in turns for token in set(turn.ids.tolist()))
    counts = np.array([found[int(token)] for token in query.ids], dtype=np.float64)
    rarity = np.log1p((len(turns) - counts + 0.5) / (counts + 0.5))
    best = np.stack([_best_matches(query.states, turn.states) for turn in turns])  # (n, T)
    scores = best @ rarity / rarity.sum()
    before = np.concatenate([[scores.mean()], scores[:-1]])
    joined: Scores = (scores + previous_weight * before).astype(np.float32)
    return joined


def _best_matches(query: NDArray[Any], turn: NDArray[Any]) -> NDArray[Any]:
    """Return each query token's best cosine in a turn ``(T,)``; zero in a turn without tokens."""
    if not len(turn):
        return np.zeros(len(query))
    best: NDArray[Any] = (query @ turn.T).max(axis=1)
    return best
