"""A dialogue that begins with an answer goes on with the turn that waits for it in the state."""

from __future__ import annotations

import pytest

from evoemb import InputError
from laws import assert_same_embeddings, bytes_of
from tiny_models import make_model

MESSAGES = [
    {"role": "user", "content": "my sister has a red key"},
    {"role": "assistant", "content": "ok"},
    {"role": "user", "content": "i live in paris", "name": "Mia"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    {"role": "tool", "tool_call_id": "c", "content": "blue lamp"},
    {"role": "assistant", "content": "noted"},
    {"role": "user", "content": ""},
    {"role": "assistant", "content": "ok"},
    {"role": "user", "content": "where do i live"},
]
PLAIN = [one for one in MESSAGES if one["role"] != "tool" and one["content"] is not None]
LOGITS = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 1}


def waiting_at(model, messages, cut):
    """The state after ``messages[:cut]``, whose last turn waits, and the state before that turn with where it began."""
    begin = max(index for index in range(cut) if messages[index]["role"] == "user")
    states = [model.new_state(), model.new_state()]
    for state, end in zip(states, (cut, begin), strict=True):
        if end:
            model.encode(messages[:end], stateful=True, state=state)
    assert states[0].unanswered is not None
    return *states, begin


def assert_same_hits(found, expected):
    assert [hit["text"] for hit in found] == [hit["text"] for hit in expected]
    assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
    assert_same_embeddings([hit["score"] for hit in found], [hit["score"] for hit in expected])


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 7])
def test_a_dialogue_in_pieces_ranks_the_turns_of_one_reading(model, cut):
    waiting, before, begin = waiting_at(model, MESSAGES, cut)
    left = bytes_of(waiting)
    found = model.retrieve(MESSAGES[cut:], state=waiting)
    assert_same_hits(found, model.retrieve(MESSAGES[begin:], state=before))
    assert_same_hits(found, model.retrieve(MESSAGES[cut:-1], "where do i live", state=waiting, top_k=None))
    assert bytes_of(waiting) == left


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_released_checkpoint_reads_the_chat_that_the_pieces_make(released, cut):
    waiting, before, begin = waiting_at(released, PLAIN, cut)
    found = released.retrieve(PLAIN[cut:], state=waiting)
    assert_same_hits(found, released.retrieve(PLAIN[begin:], state=before))
    logits = [
        released.generate(messages, state=state, **LOGITS).logits[0]
        for messages, state in ((PLAIN[cut:], waiting), (PLAIN[begin:], before), (PLAIN[-1:], waiting))
    ]
    assert_same_embeddings(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_a_whole_dialogue_and_its_pieces_get_the_same_answer(released):
    state = released.new_state()
    released.encode(PLAIN[0], stateful=True, state=state)
    expected = released.generate(PLAIN, max_new_tokens=3)
    assert released.generate(PLAIN[1:], state=state, max_new_tokens=3) == expected
    expected = released.generate(PLAIN, retrieve=2, max_new_tokens=3)
    assert released.generate(PLAIN[1:], state=state, retrieve=2, max_new_tokens=3) == expected


def test_a_new_decoder_answers_from_the_turn_as_a_whole(base_folder):
    model = make_model(base_folder("qwen3"), "prefix")
    model[0].model.config.tie_word_embeddings = True
    waiting, before, begin = waiting_at(model, MESSAGES, 5)
    one, other = (
        model.generate(messages, state=state, **LOGITS).logits[0]
        for messages, state in ((MESSAGES[5:], waiting), (MESSAGES[begin:], before))
    )
    assert_same_embeddings(one, other)


def test_a_dialogue_that_begins_with_a_user_leaves_the_turn_that_waits_as_it_is(model):
    waiting, _, _ = waiting_at(model, MESSAGES, 1)
    closed = model.new_state()
    model.encode(["User: my sister has a red key"], stateful=True, state=closed)
    assert_same_hits(model.retrieve(MESSAGES[2:], state=waiting), model.retrieve(MESSAGES[2:], state=closed))


def test_the_last_message_is_the_query_and_never_an_answer(model):
    waiting, _, _ = waiting_at(model, MESSAGES, 1)
    assert model.retrieve(MESSAGES[1:2], state=waiting) == []


def test_an_error_counts_the_messages_that_were_given(model):
    waiting, _, _ = waiting_at(model, MESSAGES, 1)
    with pytest.raises(InputError, match="Message 1 has the role 'narrator'"):
        model.retrieve([MESSAGES[1], {"role": "narrator", "content": "ok"}, MESSAGES[-1]], state=waiting)
