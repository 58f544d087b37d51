"""retrieve(hybrid=True): the model's ranking fused with BM25."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from evoemb import EvoembError
from evoemb.ranking.lexical import Bm25Index, reciprocal_rank_fusion

pytest.importorskip("bm25s")


def test_hybrid_is_the_fusion_of_cosine_and_bm25(model, stream):
    plain = {hit["corpus_id"]: hit["score"] for hit in model.retrieve(stream, "my cat in oslo", top_k=None)}
    cosines = np.array([plain[number] for number in range(len(stream))])
    expected = reciprocal_rank_fusion([cosines, Bm25Index(stream).scores("my cat in oslo")])
    hits = model.retrieve(stream, "my cat in oslo", top_k=4, hybrid=True)
    assert [hit["corpus_id"] for hit in hits] == list(np.argsort(-expected, kind="stable")[:4])
    for hit in hits:
        assert hit["score"] == pytest.approx(expected[hit["corpus_id"]])
        assert hit["cosine"] == pytest.approx(cosines[hit["corpus_id"]], abs=1e-6)
        assert hit["text"] == stream[hit["corpus_id"]]


def test_hybrid_takes_several_queries_and_dialogues(models, stream):
    model = models("qwen3", "prefix")
    several = model.retrieve(stream, ["my cat", "a blue key"], hybrid=True)
    for found, query in zip(several, ("my cat", "a blue key"), strict=True):
        alone = model.retrieve(stream, query, hybrid=True)
        assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in alone]
        assert len(found) == 10
    messages = [{"role": "user", "content": "my cat is in oslo"}, {"role": "assistant", "content": "ok"},
                {"role": "user", "content": "i work in bern"}, {"role": "assistant", "content": "noted"},
                {"role": "user", "content": "where is my cat"}]  # fmt: skip
    hits = model.retrieve(messages, hybrid=True)
    assert len(hits) == 2
    assert hits[0]["score"] >= hits[1]["score"]
    assert "cosine" in hits[0]


def test_hybrid_says_what_to_install(monkeypatch, models, stream):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(EvoembError, match=r"BM25 needs the package 'bm25s'.*pip install \"evoemb\[eval\]\""):
        models("bert", "attention").retrieve(stream, "my cat", hybrid=True)
