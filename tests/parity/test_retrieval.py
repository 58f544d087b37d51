"""Retrieval, reranking and generation against the paper's code."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from evoemb import EvoReranker
from evoemb.chat.answers import generate_ids
from evoemb.chat.ids import DialogueIds, candidate_ids, chat_ids, dialogue_ids
from evoemb.chat.recurrence import embed_dialogue
from evoemb.modules.dialogue_format import split_points
from evoemb.streaming.rows import Limits
from parity.cases import TOLERANCE


def empty(model):
    return model.new_state().snapshot()[0]


def is_made_of_its_messages(case):
    return case.name != "retrieve_count_mismatch"


@contextmanager
def raw_latents(model):
    """Collect everything that is written to memory; a state keeps the newest only."""
    found, queue = [], model[1]
    write = queue.write
    queue.write = lambda hidden: found.append(write(hidden)) or found[-1]
    try:
        yield found
    finally:
        del queue.write


def unnormalized(model):
    """The stack without its last module."""

    def run(features):
        for module in list(model)[:-1]:
            features = module(features)
        return features

    return replace(model._stack(), run=run)


def cosines(model, dialogue):
    """Each turn's cosine with the query, ``(n,)``."""
    query, turns = embed_dialogue(model._stack(), dialogue, empty(model), Limits())
    return torch.nn.functional.cosine_similarity(turns.float(), query.float(), dim=-1)


def ids_of(model, case):
    """The dialogue of a case; its turns are given apart where they are not what the messages pair into."""
    found, ids = dialogue_ids(model[0], case.inputs["messages"]), model[0].dialogue.config.token_ids
    turn_ids = case.inputs["turn_ids"]
    encoded = [[*turn, ids.end_of_text] for turn in turn_ids[:-1]]
    return DialogueIds(
        case.inputs["turns"][:-1], "", found.written, encoded, [*ids.query_prefix, *turn_ids[-1], ids.end_of_text]
    )


@pytest.mark.operation("generate_retrieve_idx", where=is_made_of_its_messages)
def test_turns_are_ranked_as_by_the_original(model, case):
    hits = model.retrieve(case.inputs["messages"], native=case.inputs["native"])
    expected = case.expected("sorted_scores")
    if expected is None:
        assert hits == []
        return
    scores = torch.tensor([hit["score"] for hit in hits]) / model[0].dialogue.config.temperature
    torch.testing.assert_close(scores, expected, rtol=0, atol=TOLERANCE["scores"])
    assert [hit["corpus_id"] for hit in hits] == case.expected("sorted_indices").tolist()
    assert [hit["text"] for hit in hits] == [case.inputs["turns"][hit["corpus_id"]] for hit in hits]
    torch.testing.assert_close(
        scores.softmax(0).sort(descending=True)[0], case.expected("probs").sort(descending=True)[0]
    )


@pytest.mark.operation("generate_retrieve_idx")
def test_dialogues_are_cut_and_tokenized_as_by_the_original(model, case):
    ids = case.inputs["ids"]
    rendered = chat_ids(model[0], case.inputs["messages"])
    assert rendered == case.inputs["input_ids"]
    assert split_points(rendered, im_end=ids["im_end"], user=ids["user"]) == case.expected_values["split_points"]
    assert model[0].dialogue.config.token_ids.query_prefix == tuple(ids["prefix"])
    if is_made_of_its_messages(case):
        found, wanted = dialogue_ids(model[0], case.inputs["messages"]), ids_of(model, case)
        assert (found.encoded, found.asked, found.turns) == (wanted.encoded, wanted.asked, wanted.turns)


@pytest.mark.operation("generate_retrieve_idx", where=lambda case: not case.inputs["native"])
@torch.no_grad()
def test_embeddings_and_latents_of_a_dialogue_are_those_of_the_original(model, case):
    dialogue = ids_of(model, case)
    with raw_latents(model) as written:
        query, turns = embed_dialogue(unnormalized(model), dialogue, empty(model), Limits())
    expected = case.expected("unnormalized_embeddings")
    found = torch.cat((turns, query.unsqueeze(0)))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE["unnormalized"])
    latents = case.expected("all_latents")
    if latents is None:
        assert not written
    else:
        torch.testing.assert_close(torch.cat(written), latents[0], rtol=0, atol=TOLERANCE["latents"])
    scores = case.expected("scores")
    if scores is not None:
        torch.testing.assert_close(cosines(model, dialogue) / 0.1, scores, rtol=0, atol=TOLERANCE["scores"])


@pytest.mark.operation("rerank")
@torch.no_grad()
def test_candidates_are_ordered_as_by_the_original(model, case):
    ids = candidate_ids(model[0], case.inputs["query"], case.inputs["candidates"])
    scores = cosines(model, ids)
    assert scores.argsort(descending=True).tolist() == case.expected_values["indices"]
    hits = EvoReranker(model).rank(case.inputs["query"], case.inputs["candidates"])
    assert [hit["corpus_id"] for hit in hits] == case.expected_values["indices"]
    found = torch.tensor([hit["score"] for hit in hits])
    wanted = scores.sort(descending=True)[0] / model[0].dialogue.config.temperature
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE["scores"])


@pytest.mark.operation("generate")
def test_answers_are_those_of_the_original(model, case):
    messages, new_tokens = case.inputs["messages"], case.inputs["max_new_tokens"]
    expected = case.expected("new_ids").flatten().tolist()
    assert model.generate(messages, max_new_tokens=new_tokens, return_token_ids=True) == expected
    output = model.generate(messages, max_new_tokens=new_tokens, return_dict_in_generate=True, output_logits=True)
    logits = torch.cat(output.logits)
    torch.testing.assert_close(logits, case.expected("logits").view_as(logits), rtol=0, atol=TOLERANCE["logits"])
    text = model.generate(messages, max_new_tokens=new_tokens)
    assert text == model.tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.operation("generate_raw")
def test_answers_without_memory_are_those_of_the_original(model, case):
    prompt = chat_ids(model[0], case.inputs["messages"])
    rows = model[0].model.get_input_embeddings()(torch.tensor(prompt)).detach()
    with torch.no_grad():
        new = generate_ids(model._stack(), rows, case.inputs["max_new_tokens"])
    assert [*prompt, *new] == case.expected("prompt_and_new_ids").flatten().tolist()
