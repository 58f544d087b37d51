"""Late interaction: every word of a question finds its best match in a turn, and rare words count more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoemb.ranking.hits import Scores

LONG_STREAM_TURNS = 1000
"""Turns of a stream up to which the tokens of every turn are compared; of a longer one the best by cheaper scores."""

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
    rarity = token_rarity(held_tokens(query.ids, [turn.ids for turn in turns]))
    scores = late_sums(np.stack([best_matches(query.states, turn.states) for turn in turns]), rarity)
    joined: Scores = with_previous(scores, scores.mean(), previous_weight).astype(np.float32)
    return joined


def held_tokens(query_ids: NDArray[np.int64], turn_ids: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Say of every turn which of a query's tokens it holds, ``(n, T)``."""
    wanted = query_ids.tolist()
    found = [[token in held for token in wanted] for held in (set(ids.tolist()) for ids in turn_ids)]
    return np.array(found, dtype=bool).reshape(len(turn_ids), len(wanted))


def token_rarity(held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weight of each token ``(T,)``: its inverse document frequency among the turns that are given.

    Args:
        held: ``(n, T)``, as :func:`held_tokens` returns it.
    """
    counts = held.sum(axis=0)
    rarity: NDArray[np.float64] = np.log1p((len(held) - counts + 0.5) / (counts + 0.5))
    return rarity


def best_matches(query: NDArray[Any], turn: NDArray[Any]) -> NDArray[Any]:
    """Return each query token's best cosine in a turn ``(T,)``; zero in a turn without tokens."""
    if not len(turn) or not len(query):
        return np.zeros(len(query))
    best: NDArray[Any] = (query @ turn.T).max(axis=1)
    return best


def late_sums(best: NDArray[Any], rarity: NDArray[np.float64]) -> Scores:
    """Return each turn's score ``(n,)``: the mean of its matches ``(n, T)``, rare tokens counting more."""
    if not len(rarity):
        return np.zeros(len(best))
    found: Scores = best @ rarity / rarity.sum()
    return found


def with_previous(scores: Scores, before_first: float, weight: float) -> Scores:
    """Add to each turn's score a share of the score of the turn before; ``before_first`` stands before the first."""
    found: Scores = scores + weight * np.concatenate([[before_first], scores[:-1]])
    return found
