"""EvoReranker: what it is given is scored or refused, and what it returns is what it scored."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from evoemb import EvoReranker, InputError, InputTypeError
from tiny_models import make_model

TEXTS = ["i live in paris", "my sister has a red key", "i moved to rome"]
QUESTION = "where do i live"
LONG = "i moved from rome to lyon " * 30


@pytest.fixture
def reranker(models) -> EvoReranker:
    return EvoReranker(models("bert", "attention"))


def test_the_text_of_a_hit_is_the_text_that_was_scored(reranker):
    pandas = pytest.importorskip("pandas")
    plain = reranker.rank(QUESTION, TEXTS, return_documents=True)
    assert [TEXTS[hit["corpus_id"]] for hit in plain] == [hit["text"] for hit in plain]
    for documents in (pandas.Series(TEXTS, index=[2, 0, 1]), np.array(TEXTS), tuple(TEXTS)):
        assert reranker.rank(QUESTION, documents, return_documents=True) == plain


def test_hits_are_sorted_and_cut_to_top_k(reranker):
    hits = reranker.rank(QUESTION, TEXTS)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert all(set(hit) == {"corpus_id", "score"} for hit in hits)
    assert reranker.rank(QUESTION, TEXTS, top_k=np.int64(2)) == hits[:2]
    assert reranker.rank(QUESTION, []) == []


@pytest.mark.parametrize("top_k", [0, -1, np.int64(0), True, 1.5, "2"])
def test_a_top_k_that_is_no_count_is_refused(reranker, models, top_k):
    with pytest.raises(InputError, match=r"top_k=.* was given\. Use a whole number of 1 or more"):
        reranker.rank(QUESTION, TEXTS, top_k=top_k)
    with pytest.raises(InputError, match=r"top_k=.* was given\. Use a whole number of 1 or more"):
        models("bert", "attention").retrieve(TEXTS, QUESTION, top_k=top_k)


def test_an_argument_that_is_unknown_is_refused(reranker):
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_n'"):
        reranker.rank(QUESTION, TEXTS, top_n=1)
    with pytest.raises(InputError, match="predict does not know top_n"):
        reranker.predict([(QUESTION, TEXTS[0])], top_n=1)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"apply_softmax": True}, "a pair has one score"),
        ({"chunk_size": 2}, "cannot be split"),
        ({"pool": {}}, "cannot be split"),
        ({"device": ["cpu", "cpu"]}, "cannot be split"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_an_argument_that_would_change_nothing_is_refused(reranker, given, reason):
    with pytest.raises(InputError, match=reason):
        reranker.predict([(QUESTION, text) for text in TEXTS], **given)


def test_a_prompt_is_refused_by_a_model_that_has_its_own(released):
    reranker = EvoReranker(released)
    with pytest.raises(InputError, match="prompt was given, but this model renders its candidates as the chat"):
        reranker.rank(QUESTION, TEXTS, prompt="where : ")


@pytest.mark.parametrize("documents", ["one text", {"a": 1}, {"a", "b"}, 3, None, np.array([["a", "b"]])])
def test_documents_that_are_no_list_of_strings_are_refused(reranker, documents):
    with pytest.raises(InputTypeError, match=r"documents is of type .*, expected a list of strings, in order"):
        reranker.rank(QUESTION, documents)
    with pytest.raises(InputTypeError, match="Document 1 is of type NoneType, expected a string"):
        reranker.rank(QUESTION, ["a", None])
    with pytest.raises(InputTypeError, match=r"Pair 0 is .*, expected \(query, candidate\), two strings"):
        reranker.predict([("q", None)])


def test_a_text_that_is_cut_is_named_once(reranker, caplog):
    with caplog.at_level(logging.WARNING, "evoemb"):
        reranker.rank(QUESTION, [*TEXTS, LONG, LONG], batch_size=1)
    assert len(caplog.messages) == 1
    assert "Candidate 3 has 18" in caplog.messages[0]
    assert "but the model reads 64. The rest was cut" in caplog.messages[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "evoemb"):
        reranker.rank(LONG, TEXTS)
    assert "The query 'i moved from rome" in caplog.messages[0]
    with pytest.raises(InputError, match=r"Candidate 0 has 18\d tokens.*pass truncate=True to cut it"):
        reranker.rank(QUESTION, [LONG], truncate=False)


def test_results_come_in_the_forms_of_cross_encoder(reranker):
    pairs = [(QUESTION, text) for text in TEXTS]
    array = reranker.predict(pairs)
    assert isinstance(array, np.ndarray)
    assert isinstance(reranker.predict(pairs, convert_to_tensor=True), torch.Tensor)
    several = reranker.predict(pairs, convert_to_numpy=False)
    assert isinstance(several, list)
    assert all(isinstance(one, torch.Tensor) for one in several)
    assert isinstance(reranker.predict(pairs[0]), np.float32)
    np.testing.assert_allclose(reranker.predict(np.array(pairs)), array)


def test_choices_that_contradict_the_memory_of_the_model_are_refused(models, base_folder, tmp_path):
    model = models("bert", "attention")
    with pytest.raises(InputError, match=r"another memory than asked for: num_latents=7"):
        EvoReranker(model, num_latents=7)
    EvoReranker(model).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"another memory than asked for: capacity_latents=6"):
        EvoReranker(str(tmp_path), capacity_latents=6, device="cpu")
    fresh = EvoReranker(str(base_folder("bert")), num_latents=2, memory_reader="attention", device="cpu")
    assert fresh[0].memory_config.num_latents == 2


def test_equal_scores_keep_the_order_of_the_documents(base_folder):
    reranker = EvoReranker(make_model(base_folder("bert"), "attention", trained=False), activation_fn=torch.zeros_like)
    assert [hit["corpus_id"] for hit in reranker.rank(QUESTION, TEXTS * 4)] == list(range(12))
