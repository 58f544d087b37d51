"""Messages of every make are read into the same turns, and nothing of them is dropped silently."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import pytest

from evoemb._errors import InputError, InputTypeError
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
        ({"role": "user"}, InputError, 'Message 0 has no "content"'),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_with_its_place(message, error, told):
    with pytest.raises(error, match=told):
        as_turns([message])
