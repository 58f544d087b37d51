"""Scoring the turns of a stream for queries: by vectors, by tokens, by words, and by what these say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from evoemb.ranking import (
    Bm25Index,
    Hit,
    RetrievalConfig,
    TokenStates,
    best_first,
    top_hits,
    weighted_sum,
)
from evoemb.ranking.config import Scoring
from evoemb.ranking.hits import Scores
from evoemb.ranking.late import LONG_STREAM_TURNS, best_matches, held_tokens, late_sums, token_rarity, with_previous
from evoemb.token_states import token_ids, token_states

RESCORED_TURNS = 100
"""Turns of a longer stream that late scoring compares for a query."""

# Batches whose token states are held at a time: texts of like length share a batch, so a few are taken together.
_BATCHES = 4


@dataclass(frozen=True, slots=True)
class TurnScorer:
    """Scores the turns of a stream for queries, each of which sees a beginning of it.

    Args:
        model: Gives the token states of late scoring.
        scoring: As in :meth:`evoemb.EvoEmbedding.retrieve`.
        config: The weights of late scoring, and what ``"hybrid"`` joins with BM25.
        batch_size: Texts of one forward.
        show_progress_bar: Show a bar that counts the turns whose tokens are compared.
    """

    model: SentenceTransformer
    scoring: Scoring
    config: RetrievalConfig
    batch_size: int = 32
    show_progress_bar: bool = False

    def hits(
        self, turns: Sequence[str], queries: Sequence[str], cosines: Sequence[Scores], top_k: int | None
    ) -> list[list[Hit]]:
        """Return the best turns for each query, best first; arguments as in :meth:`scores`.

        Where a score is more than the vectors' similarity, that stands beside it as ``"cosine"``.
        """
        if self.scoring == "vector":
            return [top_hits(row, turns, top_k) for row in cosines]
        return [
            [{**hit, "cosine": float(row[hit["corpus_id"]])} for hit in top_hits(scores, turns, top_k)]
            for scores, row in zip(self.scores(turns, queries, cosines), cosines, strict=True)
        ]

    def scores(self, turns: Sequence[str], queries: Sequence[str], cosines: Sequence[Scores]) -> list[Scores]:
        """Score turns for each query.

        Args:
            turns: The stream's.
            queries: What is asked.
            cosines: Each query's similarity with the turns that it sees, by their vectors, ``(seen,)``.

        Returns:
            ``(seen,)`` each, higher is better.
        """
        if self.scoring == "vector" or not turns or not queries:
            return list(cosines)
        words = self._word_scores(turns, queries, cosines) if self.scoring == "hybrid" else None
        cheap = cosines if words is None else [weighted_sum(pair, (1, 1)) for pair in zip(cosines, words, strict=True)]
        if self.scoring == "hybrid" and self.config.scoring == "vector":
            return list(cheap)
        chosen = [_best_of_long(scores) for scores in cheap]
        found = []
        for number, late in enumerate(self._late_scores(turns, queries, [len(row) for row in cosines], chosen)):
            mine = chosen[number]
            joined = weighted_sum((late, cosines[number][mine]), (1, self.config.vector_weight))
            if words is not None:
                joined = weighted_sum((joined, words[number][mine]), (1, 1))
            found.append(_above_the_others(cheap[number], mine, joined))
        return found

    def _word_scores(
        self, turns: Sequence[str], queries: Sequence[str], cosines: Sequence[Scores]
    ) -> list[NDArray[np.float32]]:
        """Score by BM25 without stop words; an index holds what a query sees, no later turn."""
        indexes = {seen: Bm25Index(turns[:seen], stop_words=False) for seen in {len(row) for row in cosines}}
        return [indexes[len(row)].scores(query) for query, row in zip(queries, cosines, strict=True)]

    def _late_scores(
        self, turns: Sequence[str], queries: Sequence[str], seen: Sequence[int], chosen: Sequence[NDArray[np.intp]]
    ) -> list[Scores]:
        """Score the chosen turns of each query by their tokens, as :func:`evoemb.ranking.late_scores` does."""
        asked = token_states(self.model, queries, "query", batch_size=self.batch_size)
        ids = token_ids(self.model, turns, "document")
        every = np.concatenate(chosen)
        needed = np.unique(np.concatenate([every, np.maximum(every - 1, 0)]))  # and the turns before them
        best = self._best_matches(turns, asked, needed)
        found = []
        for query, matches, end, mine in zip(asked, best, seen, chosen, strict=True):
            sums = late_sums(matches[:end], token_rarity(held_tokens(query.ids, ids[:end])))
            found.append(with_previous(sums, sums[mine].mean(), self.config.previous_weight)[mine])
        return found

    def _best_matches(
        self, turns: Sequence[str], asked: Sequence[TokenStates], needed: NDArray[np.intp]
    ) -> list[NDArray[np.float32]]:
        """Return each query's best matches ``(n, T)`` in the turns needed; no turn's states are kept."""
        found = [np.zeros((len(turns), len(query.ids)), dtype=np.float32) for query in asked]
        step = _BATCHES * self.batch_size
        with tqdm(total=len(needed), desc="Tokens", unit="turn", disable=not self.show_progress_bar) as bar:
            for start in range(0, len(needed), step):
                batch = needed[start : start + step]
                texts = [turns[turn] for turn in batch]
                states = token_states(self.model, texts, "document", batch_size=self.batch_size)
                for query, matches in zip(asked, found, strict=True):
                    matches[batch] = [best_matches(query.states, turn.states) for turn in states]
                bar.update(len(batch))
        return found


def _best_of_long(scores: Scores) -> NDArray[np.intp]:
    """Return the turns whose tokens are compared, in order: all of a short stream, the best of a long one."""
    if len(scores) <= LONG_STREAM_TURNS:
        return np.arange(len(scores))
    return np.sort(best_first(scores, RESCORED_TURNS))


def _above_the_others(scores: Scores, chosen: NDArray[np.intp], joined: Scores) -> Scores:
    """Return ``joined`` for the chosen turns ``(n,)``; the others stand below them, in the order of their scores."""
    found: Scores = np.asarray(scores, dtype=np.float64).copy()
    if len(chosen) < len(found):
        found += joined.min() - found.max() - 1
    found[chosen] = joined
    return found
