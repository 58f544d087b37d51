"""The reranker that ships with the default model: retrieve(rerank=True) and EvoReranker() are one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoemb import EvoEmbedding, EvoReranker, InputError
from evoemb import time_ordered as reranking
from evoemb.modules import TimeOrderedScore

TURNS = [
    "I report to Mira.", "The printer is broken again.", "Lunch was late today.", "We got new chairs.",
    "Mira left, Tom took over our team.", "My sister's boss is called Ann.", "It rains.", "The keys are with Joy.",
    "Parking is full.", "Our flat is on the third floor.", "I bought a bike.", "The cat sleeps.", "Milk is out.",
    "The train was late.", "Bern is cold.", "The lift is stuck.", "Tea or coffee?", "The film was long.",
]  # fmt: skip


@pytest.fixture(scope="module")
def default() -> EvoEmbedding:
    return EvoEmbedding(device="cpu")


@pytest.fixture(scope="module")
def reranker() -> EvoReranker:
    return EvoReranker(device="cpu")


def test_the_reranker_without_a_name_is_the_one_that_retrieve_uses(default, reranker):
    assert isinstance(reranker[-1], TimeOrderedScore)
    for query in ("Who is my boss?", "Where are the keys?"):
        ranked = reranker.rank(query, TURNS)
        hits = default.retrieve(TURNS, query, top_k=None, rerank=True)
        read = reranker[-1].num_candidates
        assert [hit["corpus_id"] for hit in hits[:read]] == [hit["corpus_id"] for hit in ranked[:read]]
        assert sorted(hit["corpus_id"] for hit in hits) == list(range(len(TURNS)))
        answered = reranker.answer_probability(query, TURNS)
        assert sum(hit["score"] for hit in hits) == pytest.approx(answered, abs=1e-3)


def test_several_questions_are_ranked_as_each_by_itself_and_change_nothing(default):
    state = default.new_state()
    default.encode(TURNS[:4], stateful=True, state=state)
    before = state.to_bytes()
    queries = ["Who is my boss?", "What is broken?"]
    together = default.retrieve(TURNS[4:], queries, state=state, rerank=True)
    for hits, query in zip(together, queries, strict=True):
        alone = default.retrieve(TURNS[4:], query, state=state, rerank=True)
        assert [hit["corpus_id"] for hit in hits] == [hit["corpus_id"] for hit in alone]
        np.testing.assert_allclose([hit["score"] for hit in hits], [hit["score"] for hit in alone], atol=1e-5)
    assert state.to_bytes() == before


def test_no_score_depends_on_the_memory_of_another_stream(default):
    """The reranker reads texts without a memory, so a memory cannot move it."""
    state = default.new_state()
    default.encode(["Nothing of this matters."], stateful=True, state=state)
    with_memory = default.retrieve(TURNS, "Who is my boss?", state=state, rerank=True)
    without = default.retrieve(TURNS, "Who is my boss?", rerank=True)
    assert [(hit["corpus_id"], hit["score"]) for hit in with_memory] == [(h["corpus_id"], h["score"]) for h in without]


def test_of_a_long_stream_the_best_by_their_vectors_are_read(default, monkeypatch):
    whole = default.retrieve(TURNS, "Who is my boss?", top_k=None, rerank=True)
    monkeypatch.setattr(reranking, "LONG_STREAM_TURNS", 10)
    monkeypatch.setattr(reranking, "FIRST_TURNS", 3)
    hits = default.retrieve(TURNS, "Who is my boss?", top_k=None, rerank=True)
    assert sorted(hit["corpus_id"] for hit in hits) == sorted(hit["corpus_id"] for hit in whole)
    cosines = np.array([hit["cosine"] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])])
    best = np.argsort(-cosines)[:3]
    looked_at = {int(turn) for place in best for turn in (place, place - 1) if turn >= 0}
    assert {hit["corpus_id"] for hit in hits[: len(looked_at)]} == looked_at


def test_what_has_no_reranker_says_so(default, models):
    with pytest.raises(InputError, match="has no reranker that was trained with it"):
        models("bert", "attention").retrieve(["a", "b"], "c", rerank=True)
    with pytest.raises(InputError, match=r"rerank=True was given with scoring='late'"):
        default.retrieve(TURNS, "Who?", rerank=True, scoring="late")
    with pytest.raises(InputError, match=r"rerank=True was given with no query"):
        default.retrieve([{"role": "user", "content": "Who?"}], rerank=True)


def test_the_score_is_no_part_of_the_model(default):
    names = {name for name, _ in default.named_parameters()}
    default.retrieve(TURNS, "Who is my boss?", rerank=True)
    assert {name for name, _ in default.named_parameters()} == names
    assert all(torch.isfinite(weight).all() for weight in default._time_ordered_score().parameters())
