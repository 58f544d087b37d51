"""One rule for prompts, sentence-transformers' own: every way to a turn or a query puts the same text before it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from evoemb import EvoReranker
from evoemb.prompts import prompt_for
from evoemb.training import StreamCollator
from tiny_models import make_model

TURNS = ["i live in paris", "i moved to rome"]
QUESTION = "where do i live"
MESSAGES = [{"role": "user", "content": turn} for turn in (*TURNS, QUESTION)]
PROMPTS = [
    {"query": "where : ", "passage": "the turn : "},
    {"query": "where : ", "document": "the turn : "},
    {"document": "", "passage": "the turn : "},
    {"query": None, "document": None, "corpus": "the turn : "},
    {"corpus": "the turn : "},
    {},
]


def prompted(model, prompts, *, default=None):
    """A copy of a model with these prompts and no others."""
    model = copy.copy(model)
    model.prompts, model.default_prompt_name = dict(prompts), default
    return model


@pytest.fixture
def recorded(monkeypatch):
    """The prompt of every tokenization, by text."""
    found: dict[str, set[str]] = {}

    def record(transformer):
        original = transformer.token_ids

        def token_ids(texts, prompt=None, **kwargs):
            for text in texts:
                found.setdefault(text.removeprefix("User: "), set()).add(prompt or "")
            return original(texts, prompt=prompt, **kwargs)

        monkeypatch.setattr(transformer, "token_ids", token_ids)
        return found

    return record


@pytest.mark.parametrize("default", [None, "corpus"])
@pytest.mark.parametrize("prompts", PROMPTS)
def test_every_way_to_a_turn_and_to_a_query_puts_the_same_prompt_before_it(base_folder, recorded, prompts, default):
    if default not in {None, *prompts}:
        default = None
    model = prompted(make_model(base_folder("bert"), "attention"), prompts, default=default)
    expected = {kind: prompt_for(model, kind) or "" for kind in ("document", "query")}
    found = recorded(model[0])
    ways = {
        "encode": lambda: (model.encode_document(TURNS, stateful=True), model.encode_query([QUESTION], state=state)),
        "retrieve(stream, query)": lambda: model.retrieve(TURNS, QUESTION),
        "retrieve(messages)": lambda: model.retrieve(MESSAGES),
        "encode_messages": lambda: model.encode_messages(MESSAGES),
        "rank": lambda: prompted(EvoReranker(model), prompts, default=default).rank(QUESTION, TURNS),
        "collator": lambda: StreamCollator(model)([{"turns": TURNS, "query": QUESTION, "evidence": [1]}]),
    }
    state = model.new_state()
    for name, way in ways.items():
        found.clear()
        way()
        assert {text: found[text] for text in TURNS} == {text: {expected["document"]} for text in TURNS}, name
        assert found[QUESTION] == {expected["query"]}, name


@pytest.mark.parametrize("prompts", PROMPTS)
def test_the_rule_is_that_of_sentence_transformers(base_folder, prompts):
    plain = SentenceTransformer(str(base_folder("bert")), device="cpu")
    plain.prompts = dict(prompts)
    for kind, encode in (("document", plain.encode_document), ("query", plain.encode_query)):
        expected = plain.encode([QUESTION], prompt=prompt_for(plain, kind))
        np.testing.assert_array_equal(encode([QUESTION]), expected)


def test_query_and_passage_prompts_give_equal_turns_by_every_way(base_folder):
    model = make_model(base_folder("bert"), "attention")
    model.prompts.update({"query": "where : ", "passage": "the turn : "})
    by_stream = model.retrieve(TURNS, QUESTION, top_k=None)
    by_dialogue = model.retrieve(MESSAGES, top_k=None)
    reranker = EvoReranker(model, temperature=1.0)
    scores = {hit["corpus_id"]: hit["score"] for hit in by_stream}
    again = {hit["corpus_id"]: hit["score"] for hit in reranker.rank(QUESTION, TURNS)}
    assert again == pytest.approx(scores, abs=1e-6)
    as_said = {hit["corpus_id"]: hit["score"] for hit in model.retrieve([f"User: {turn}" for turn in TURNS], QUESTION)}
    assert {hit["corpus_id"]: hit["score"] for hit in by_dialogue} == pytest.approx(as_said, abs=1e-6)


def test_a_reranker_loaded_by_name_has_the_prompts_of_its_model(base_folder, tmp_path):
    model = make_model(base_folder("bert"), "attention")
    model.prompts.update({"query": "where : ", "passage": "the turn : "})
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    loaded = EvoReranker(str(tmp_path / "model"), device="cpu")
    for kind in ("document", "query"):
        assert (prompt_for(loaded, kind) or "") == (prompt_for(model, kind) or "")
    assert EvoReranker(str(tmp_path / "model"), device="cpu", prompts={"query": ""}).prompts["query"] == ""
    loaded.save_pretrained(str(tmp_path / "reranker"))
    again = EvoReranker(str(tmp_path / "reranker"), device="cpu")
    torch.testing.assert_close(
        torch.as_tensor(again.predict([(QUESTION, turn) for turn in TURNS])),
        torch.as_tensor(loaded.predict([(QUESTION, turn) for turn in TURNS])),
    )
