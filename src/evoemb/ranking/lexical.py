"""Ranking by words: BM25 over the turns of a stream. Needs the ``eval`` extra (bm25s)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoemb._errors import EvoembError

# Words of two letters or more, as bm25s and scikit-learn cut them.
_WORD = re.compile(r"(?u)\b\w\w+\b")


class Bm25Index:
    """BM25 scores of texts for a query: Lucene's form, k1 1.2, b 0.75, English stemming.

    Args:
        texts: What is ranked, at least one.
        stop_words: Whether English stop words ("the", "is", ...) count as words, as in the published baselines; False
            leaves them out of texts and queries.

    Raises:
        EvoembError: The ``eval`` extra is not installed.

    Source: Robertson and Zaragoza 2009; bm25s (Lu 2024, arXiv 2407.03618). The choices are those of the baselines that
    evoemb's figures are compared with.
    """

    def __init__(self, texts: Sequence[str], *, stop_words: bool = True) -> None:
        bm25s = _import("bm25s")
        self._length = len(texts)
        self._left_out = frozenset() if stop_words else frozenset(_import("bm25s.stopwords").STOPWORDS_EN)
        words = [self._words(text) for text in texts]
        self._index = None
        if any(words):
            self._index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Score every text, ``(n,)``; zero where it shares no word with the query."""
        words = self._words(query)
        if self._index is None or not words:
            return np.zeros(self._length, dtype=np.float32)
        return np.asarray(self._index.get_scores(words), dtype=np.float32)[: self._length]

    def _words(self, text: str) -> list[str]:
        stem = _stemmer()
        return [stem(word) for word in _WORD.findall(text.lower()) if word not in self._left_out]


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
