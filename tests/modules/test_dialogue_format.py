"""Chats are cut where user messages begin, and the ways of reading them are checked values that survive JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoemb import InputError
from evoemb.modules.dialogue_format import DialogueConfig, TokenIds, split_chat, split_points

START, END, USER, SYSTEM, ASSISTANT, NEWLINE = 1, 2, 3, 4, 5, 6
CUT = {"im_end": END, "user": USER}


def message(role, *content):
    return [START, role, NEWLINE, *content, END, NEWLINE]


def test_a_segment_is_a_user_message_and_what_follows_it():
    first, answer, second = message(USER, 10), message(ASSISTANT, 11), message(USER, 12)
    prompt = [START, ASSISTANT, NEWLINE]
    assert split_chat([*first, *answer, *second, *prompt], **CUT) == [[*first, *answer], [*second, *prompt]]


def test_a_system_message_in_front_is_a_segment_of_its_own():
    system, user = message(SYSTEM, 10), message(USER, 11)
    assert split_chat([*system, *user], **CUT) == [system, user]


def test_two_user_messages_in_a_row_are_two_segments():
    one, two = message(USER, 10), message(USER, 11)
    assert split_chat([*one, *two], **CUT) == [one, two]


def test_an_id_that_never_occurs_leaves_one_segment():
    chat = [*message(USER, 10), *message(USER, 11)]
    assert split_chat(chat, im_end=99, user=USER) == [chat]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=60))
def test_segments_put_together_are_the_chat(ids):
    assert [token for segment in split_chat(ids, **CUT) for token in segment] == ids
    points = split_points(ids, **CUT)
    assert points == sorted(set(points))
    assert (points[0], points[-1]) == (0, len(ids))


def test_a_training_sequence_must_be_whole():
    whole = [*message(USER, 10), *message(ASSISTANT, 11)]
    assert split_chat(whole, **CUT, whole=True) == [whole]
    with pytest.raises(InputError, match="Render the whole dialogue with its answer"):
        split_chat([*whole, START, ASSISTANT, NEWLINE], **CUT, whole=True)


def test_an_empty_chat_is_refused():
    with pytest.raises(InputError, match="The chat has no tokens"):
        split_chat([], **CUT)


def test_the_ways_of_reading_survive_json():
    config = DialogueConfig.of_released_checkpoints(TokenIds(7, 8, 9, (1, 2)))
    assert DialogueConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert DialogueConfig.from_dict(json.loads(json.dumps(DialogueConfig().to_dict()))) == DialogueConfig()


def test_the_original_ids_are_the_defaults():
    assert TokenIds() == TokenIds(end_of_text=151643, im_end=151645, user=872, query_prefix=())


@pytest.mark.parametrize("given", [{"im_end": -1}, {"query_prefix": ["a"]}, {"user": 1.5}])
def test_what_is_no_token_id_is_refused(given):
    with pytest.raises(InputError, match="Use whole numbers of 0 or more"):
        TokenIds().updated(given)


def test_unknown_ways_are_refused():
    with pytest.raises(InputError, match="which this version does not know"):
        DialogueConfig.from_dict({"colour": "red"})
    with pytest.raises(InputError, match="memory_format='song'"):
        DialogueConfig(memory_format="song")
    with pytest.raises(InputError, match="needs token_ids"):
        DialogueConfig(memory_format="chat")
