"""Ranking by words: BM25 with and without stop words."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from evoemb import EvoembError
from evoemb.ranking import Bm25Index

pytest.importorskip("bm25s")


def test_stop_words_count_unless_they_are_left_out():
    texts = ["the the the", "a key to the flat", "red"]
    assert Bm25Index(texts).scores("the key")[0] > 0
    without = Bm25Index(texts, stop_words=False)
    assert without.scores("the key").tolist()[::2] == [0, 0]
    assert without.scores("the key")[1] > 0
    assert np.array_equal(without.scores("the key"), without.scores("key"))


def test_a_query_of_stop_words_alone_scores_nothing():
    index = Bm25Index(["is it", "to be"], stop_words=False)
    assert index.scores("is it").tolist() == [0, 0]


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(EvoembError, match=r"BM25 needs the package 'bm25s'.*pip install \"evoemb\[eval\]\""):
        Bm25Index(["my cat"])
