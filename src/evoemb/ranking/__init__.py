"""Ranking by scores and by words: hits, BM25 and the fusion of rankings. Needs numpy only."""

from evoemb.ranking.hits import Hit, RankedId, best_first, checked_top_k, top_hits
from evoemb.ranking.late import TokenStates, late_scores
from evoemb.ranking.lexical import Bm25Index, fused_hits, reciprocal_rank_fusion

__all__ = [
    "Bm25Index",
    "Hit",
    "RankedId",
    "TokenStates",
    "best_first",
    "checked_top_k",
    "fused_hits",
    "late_scores",
    "reciprocal_rank_fusion",
    "top_hits",
]
