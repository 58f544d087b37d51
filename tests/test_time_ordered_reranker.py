"""EvoReranker with a `TimeOrderedScore`: a CrossEncoder that reads candidates in the order in which they were said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoemb import EvoReranker, InputError
from evoemb.modules import TimeOrderedScore

DOCUMENTS = ["my cat is in oslo", "i work in bern", "the cat moved to rome", "a blue key", "it rains"]


@pytest.fixture(scope="module")
def reranker(models):
    model = models("bert", "attention")
    size = 2 * int(model[0].model.config.hidden_size)
    torch.manual_seed(0)
    score = TimeOrderedScore(size, [0, 1], hidden_size=16, num_heads=2, num_layers=1, num_candidates=3)
    return EvoReranker(modules=[*model, score], device="cpu")


def test_pairs_of_several_queries_score_as_each_query_by_itself(reranker):
    pairs = [(query, text) for query in ("where is my cat", "the key", "bern") for text in DOCUMENTS]
    together = reranker.predict(pairs)
    assert together.shape == (15,)
    for start in (0, 5, 10):
        np.testing.assert_allclose(together[start : start + 5], reranker.predict(pairs[start : start + 5]), atol=1e-4)
    np.testing.assert_allclose(together, reranker.predict(pairs, batch_size=2), atol=1e-4)


def test_ranks_are_those_of_the_scores(reranker):
    scores = reranker.predict([("where is my cat", text) for text in DOCUMENTS])
    ranked = reranker.rank("where is my cat", DOCUMENTS, return_documents=True)
    assert [hit["corpus_id"] for hit in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [hit["text"] for hit in ranked] == [DOCUMENTS[hit["corpus_id"]] for hit in ranked]
    assert reranker.rank("where is my cat", DOCUMENTS, top_k=2) == [
        {"corpus_id": hit["corpus_id"], "score": hit["score"]} for hit in ranked[:2]
    ]


def test_when_something_was_said_counts(reranker):
    forward = reranker.predict([("where is my cat", text) for text in DOCUMENTS[:3]])
    backward = reranker.predict([("where is my cat", text) for text in DOCUMENTS[:3][::-1]])[::-1]
    assert not np.allclose(forward, backward, atol=1e-4)


def test_it_says_how_likely_an_answer_is(reranker):
    assert 0 < reranker.answer_probability("where is my cat", DOCUMENTS) < 1
    assert reranker.answer_probability("where is my cat", []) == 0


def test_a_saved_reranker_scores_the_same(reranker, tmp_path):
    reranker.save_pretrained(str(tmp_path))
    loaded = EvoReranker(str(tmp_path), device="cpu")
    assert isinstance(loaded[-1], TimeOrderedScore)
    pairs = [("the key", text) for text in DOCUMENTS]
    np.testing.assert_array_equal(loaded.predict(pairs), reranker.predict(pairs))


def test_what_it_does_not_read_is_refused(reranker, models):
    model = models("bert", "attention")
    with pytest.raises(InputError, match=r"judges candidates by themselves\. Leave state out"):
        reranker.predict([("the key", "a blue key")], state=model.new_state())
    with pytest.raises(InputError, match="TimeOrderedScore has none"):
        EvoReranker(modules=list(reranker), temperature=0.2)
    with pytest.raises(InputError, match="ends with StreamScore"):
        EvoReranker(model).answer_probability("the key", DOCUMENTS)


def test_the_score_is_trained_through_the_model_and_the_base_is_left_alone(reranker):
    reranker.train()
    try:
        features = reranker.preprocess([("the key", text) for text in DOCUMENTS])
        reranker(features)["scores"][3].sum().backward()
        trained = {name.split(".")[0] for name, weight in reranker.named_parameters() if weight.grad is not None}
        assert trained == {str(len(list(reranker)) - 1)}
    finally:
        reranker.zero_grad()
        reranker.eval()
