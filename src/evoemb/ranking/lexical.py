"""Ranking by words: BM25 over the turns of a stream, and fusion of rankings. Needs the ``eval`` extra (bm25s)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoemb._errors import EvoembError
from evoemb.ranking.hits import Hit, Scores, best_first, top_hits

# Words of two letters or more, as bm25s and scikit-learn cut them.
_WORD = re.compile(r"(?u)\b\w\w+\b")


class Bm25Index:
    """BM25 scores of texts for a query: Lucene's form, k1 1.2, b 0.75, English stemming, no stop words.

    Args:
        texts: What is ranked, at least one.

    Raises:
        EvoembError: The ``eval`` extra is not installed.

    Source: Robertson and Zaragoza 2009; bm25s (Lu 2024, arXiv 2407.03618). The choices are those of the baselines that
    evoemb's figures are compared with.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        bm25s = _import("bm25s")
        self._length = len(texts)
        words = [_words(text) for text in texts]
        self._index = None
        if any(words):
            self._index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Score every text, ``(n,)``; zero where it shares no word with the query."""
        words = _words(query)
        if self._index is None or not words:
            return np.zeros(self._length, dtype=np.float32)
        return np.asarray(self._index.get_scores(words), dtype=np.float32)[: self._length]


def reciprocal_rank_fusion(rankings: Sequence[Scores], smoothing: float = 60.0) -> Scores:
    """Fuse several scorings of the same texts into one: the sum of ``1 / (smoothing + rank)``.

    Args:
        rankings: Scores ``(n,)`` each, higher is better; of equal ones the earlier text ranks first.
        smoothing: How little the first ranks stand out.

    Returns:
        ``(n,)``, higher is better.

    Source: Cormack, Clarke and Buettcher 2009.
    """
    fused = np.zeros(len(rankings[0]))
    for scores in rankings:
        ranking = best_first(scores)
        fused[ranking] += 1 / (smoothing + np.arange(1, len(ranking) + 1))
    return fused


def fused_hits(scores: Scores, texts: Sequence[str], query: str, top_k: int | None = None) -> list[Hit]:
    """Return the texts that rank best by a model's scores and BM25 together, best first.

    Args:
        scores: The model's scores ``(n,)``, one a text; higher is better.
        texts: What was scored.
        query: The words that are looked for.
        top_k: Hits returned at most; None returns all.

    Returns:
        Hits whose ``"score"`` is the fused score and whose ``"cosine"`` is the model's.
    """
    if not texts:
        return []
    fused = reciprocal_rank_fusion([scores, Bm25Index(texts).scores(query)])
    return [{**hit, "cosine": float(scores[hit["corpus_id"]])} for hit in top_hits(fused, texts, top_k)]


def _words(text: str) -> list[str]:
    stem = _stemmer()
    return [stem(word) for word in _WORD.findall(text.lower())]


@cache
def _stemmer() -> Callable[[str], str]:
    return _import("Stemmer").Stemmer("english").stemWord  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvoembError(
            f'BM25 needs the package {error.name!r}, which is not installed. Run: pip install "evoemb[eval]"'
        ) from error
