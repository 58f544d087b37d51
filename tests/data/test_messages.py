"""Messages of every make are read into the same turns, and nothing of them is dropped silently."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field

import numpy as np
import pytest

from evoemb._errors import InputError, InputTypeError
from evoemb.data.messages import ChatMessage, as_message
from evoemb.data.turns import as_streams, as_turns


class Role(str, enum.Enum):
    USER = "user"
    ASSISTANT = "assistant"


@dataclass
class HumanMessage:
    content: object
    type: str = "human"
    name: str | None = None


@dataclass
class AIMessage:
    content: object
    type: str = "ai"
    tool_calls: list = field(default_factory=list)


def said(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


class Author(enum.Enum):
    USER = "user"
    MODEL = "model"


class Made:
    """A message or a part of one as an object of some library."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


ONE_TURN = ["User: I live in Oslo.\nAssistant: Noted."]
PAIRS = {
    "plain": [said("user", "I live in Oslo."), said("assistant", "Noted.")],
    "enums": [said(Role.USER, "I live in Oslo."), said(Role.ASSISTANT, "Noted.")],
    "numpy strings": [said(np.str_("user"), np.str_("I live in Oslo.")), said("assistant", np.str_("Noted."))],
    "capitals": [said("User", "I live in Oslo."), said("ASSISTANT", "Noted.")],
    "human and ai": [said("human", "I live in Oslo."), said("ai", "Noted.")],
    "model": [said("user", "I live in Oslo."), said("model", "Noted.")],
    "tuples": [("human", "I live in Oslo."), ("ai", "Noted.")],
    "objects": [HumanMessage("I live in Oslo."), AIMessage("Noted.")],
    "parts": [
        said("user", [{"type": "text", "text": "I live in Oslo."}]),
        said("assistant", [{"type": "output_text", "text": "Noted."}]),
    ],
    "types": [{"type": "human", "content": "I live in Oslo."}, {"type": "ai", "content": "Noted."}],
    "wrapped": [
        {"type": "human", "data": {"content": "I live in Oslo."}},
        {"lc": 1, "type": "constructor", "kwargs": {"type": "ai", "content": "Noted."}},
    ],
    "from and value": [{"from": "human", "value": "I live in Oslo."}, {"from": "gpt", "value": "Noted."}],
    "Gemini's parts": [
        {"role": "user", "parts": [{"text": "I live in Oslo."}]},
        {"role": "model", "parts": [{"text": "Where?", "thought": True}, "Noted."]},
    ],
    "chunks": [HumanMessage("I live in Oslo.", "HumanMessageChunk"), AIMessage("Noted.", "AIMessageChunk")],
    "objects with a role": [Made(role=Author.USER, text="I live in Oslo."), Made(role=Author.MODEL, text="Noted.")],
    "objects with a type beside the role": [
        Made(type="chat", role="user", content="I live in Oslo."),
        Made(type="message", role="assistant", content=[Made(type="output_text", text="Noted.")]),
    ],
    "chat messages": [ChatMessage("user", "I live in Oslo."), ChatMessage("assistant", "Noted.")],
    "thoughts": [
        said("user", "I live in Oslo."),
        said("assistant", [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Noted."}]),
    ],
    "a refusal": [said("user", "I live in Oslo."), said("assistant", None, refusal="Noted.", tool_calls=None)],
    "parts of strings": [HumanMessage(["I live in Oslo."]), AIMessage([{"type": "text", "text": "Noted."}])],
}


@pytest.mark.parametrize("messages", PAIRS.values(), ids=PAIRS)
def test_every_make_of_a_message_gives_the_same_turn(messages):
    assert as_turns(messages) == ONE_TURN
    parsed = as_streams([messages, messages])
    assert parsed.nested
    assert parsed.streams == [ONE_TURN, ONE_TURN]


def test_roles_that_are_enums_are_plain_text_in_the_turn():
    (turn,) = as_turns(PAIRS["enums"])
    assert type(turn) is str


def test_a_system_message_is_a_turn_of_its_own():
    for role in ("system", "developer"):
        assert as_turns([said(role, "Be kind."), said("user", "a"), said("assistant", "b")]) == [
            "System: Be kind.",
            "User: a\nAssistant: b",
        ]


def test_what_tools_say_belongs_to_the_turn_of_the_question():
    asked = [
        said("user", "How warm is it?"),
        said("assistant", None, tool_calls=[{"id": "c"}]),
        said("tool", "20C", tool_call_id="c"),
        said("assistant", "It is 20 degrees."),
        said("user", "Thanks."),
    ]
    assert as_turns(asked) == ["User: How warm is it?\nTool: 20C\nAssistant: It is 20 degrees.", "User: Thanks."]
    missing = [{key: value for key, value in one.items() if value is not None} for one in asked]
    assert as_turns(missing) == as_turns(asked)


CALLING = {
    "OpenAI": (
        said("assistant", "Let me look.", tool_calls=[{"id": "c"}]),
        said("tool", "20C", tool_call_id="c"),
    ),
    "Anthropic": (
        said("assistant", [{"type": "text", "text": "Let me look."}, {"type": "tool_use", "name": "f", "input": {}}]),
        said("user", [{"type": "tool_result", "content": [{"type": "text", "text": "20C"}]}]),
    ),
    "Gemini": (
        {"role": "model", "parts": [{"text": "Let me look."}, {"functionCall": {"name": "f", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": "20C"}}]},
    ),
}


@pytest.mark.parametrize("calling", CALLING.values(), ids=CALLING)
def test_words_beside_a_call_are_not_the_answer_yet(calling):
    asked = [said("user", "How warm is it?"), *calling, said("assistant", "It is 20 degrees.")]
    turn = "User: How warm is it?\nAssistant: Let me look.\nTool: 20C\nAssistant: It is 20 degrees."
    assert as_turns([*asked, said("user", "Thanks.")]) == [turn, "User: Thanks."]


def test_an_assistant_that_says_nothing_leaves_the_question_as_it_is():
    assert as_turns([said("user", "a"), said("assistant", None), said("user", "b")]) == ["User: a", "User: b"]


def test_a_speaker_without_a_role_is_a_user():
    chat = [
        {"speaker": "Mia", "text": "I live in Rome."},
        {"name": "Jo", "content": "I live in Bern."},
        said("ai", "ok"),
    ]
    assert as_turns(chat) == ["Mia: I live in Rome.", "Jo: I live in Bern.\nAssistant: ok"]


def test_speaker_and_time_are_read_from_mappings_objects_and_messages():
    expected = ChatMessage("user", "a", "Mia", "2026-11-20")
    for message in (
        said("user", "a", name="Mia", timestamp="2026-11-20"),
        said("human", "a", speaker=" Mia ", date=datetime.date(2026, 11, 20)),
        Made(role="user", content="a", name="Mia", created_at="2026-11-20"),
        expected,
    ):
        assert as_message(message, "Message 0") == expected
    assert as_message(said("user", "a", name=7, time=5), "Message 0") == ChatMessage("user", "a", "7", "5")
    assert as_message(said("user", "a", name=None, time=float("nan")), "Message 0") == ChatMessage("user", "a")


def test_speakers_keep_their_names_and_their_turns():
    chat = [said("user", "I live in Rome.", name="Mia"), said("user", "I live in Bern.", name="Jo")]
    assert as_turns(chat) == ["Mia: I live in Rome.", "Jo: I live in Bern."]
    assert as_turns([*chat[:1], said("assistant", "Noted.")]) == ["Mia: I live in Rome.\nAssistant: Noted."]


def test_parts_without_text_leave_a_mark():
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert as_turns([said("user", parts)]) == ["User: Look:\n[image]"]


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        (said("narrator", "x"), InputError, "Message 0 has the role 'narrator', but the roles of messages are user"),
        (said("user", None), InputTypeError, "The content of message 0 is None"),
        (said("user", [3]), InputTypeError, "Message 0: a content part is 3"),
        (said("user", b"x"), InputTypeError, "The content of message 0 is a bytes"),
        (said("user", "\ud800"), InputError, "The content of message 0 holds a lone surrogate"),
        (said("user", [{"type": "text", "text": "\ud800"}]), InputError, "holds a lone surrogate"),
        (said("user", "a", name="\ud800"), InputError, "The speaker of message 0 holds a lone surrogate"),
        ({"role": "user"}, InputError, 'Message 0 has no "content"'),
        ({"content": "a"}, InputError, 'Message 0 has no "role"'),
        ({"type": "message", "content": "a"}, InputError, 'Message 0 has no "role"'),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_with_its_place(message, error, told):
    with pytest.raises(error, match=told):
        as_turns([message])
