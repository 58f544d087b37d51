"""Ranking by scores, tokens and words: hits, late interaction, BM25, and scorings joined. Needs numpy only."""

from evoemb.ranking.config import RetrievalConfig
from evoemb.ranking.fusion import standardised, weighted_sum
from evoemb.ranking.hits import Hit, RankedId, best_first, checked_top_k, top_hits
from evoemb.ranking.late import TokenStates, late_scores
from evoemb.ranking.lexical import Bm25Index

__all__ = [
    "Bm25Index",
    "Hit",
    "RankedId",
    "RetrievalConfig",
    "TokenStates",
    "best_first",
    "checked_top_k",
    "late_scores",
    "standardised",
    "top_hits",
    "weighted_sum",
]
