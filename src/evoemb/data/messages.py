"""Chat messages of every make in one form: roles, names, times, tool calls, tuples and message objects."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from evoemb._errors import InputError, InputTypeError
from evoemb.data.parts import content_of, kind_of, plain

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"
_CALLS = ("function_call", "tool_call")
_ROLES = {
    **dict.fromkeys(("user", "human", "customer"), USER),
    **dict.fromkeys(("assistant", "ai", "model", "gpt", "bot", "chatbot", "claude", "chatgpt", *_CALLS), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "function_call_output", "tool_response"), TOOL),
}
_CONTENTS = ("content", "parts", "blocks", "text", "value", "output")
_NAMES = ("name", "speaker")
_TIMES = ("time", "timestamp", "created_at", "createdAt", "create_time", "date")
_OTHERS = ("tool_calls", "function_call", "refusal")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat.

    Args:
        role: ``"user"``, ``"assistant"``, ``"system"`` or ``"tool"``, whatever its maker calls them.
        content: Its text; empty for a message that only calls tools.
        speaker: Who wrote it; empty where no name is given.
        time: When, in the source's own words; empty where it is not known. It is no part of what a model reads.
        calls_tools: Whether it asks for tools, so that the answer is still to come.
    """

    role: str
    content: str
    speaker: str = ""
    time: str = ""
    calls_tools: bool = False

    @property
    def label(self) -> str:
        """Who speaks: the speaker's name, or the role with a capital letter."""
        return self.speaker or self.role.capitalize()


def is_message(value: object) -> bool:
    """Return whether a value is meant as a message: a mapping, a ``(role, text)`` tuple, or a message object."""
    if isinstance(value, Mapping | ChatMessage):
        return True
    if isinstance(value, tuple):
        return len(value) == 2 and _role(value[0]) is not None
    if isinstance(value, str | bytes):
        return False
    who = (getattr(value, name, None) for name in ("role", "type"))
    return any(isinstance(one, str | enum.Enum) for one in who) and any(hasattr(value, name) for name in _CONTENTS)


def as_message(value: object, where: str, *, any_role: bool = False) -> ChatMessage:
    """Read one message.

    Args:
        value: ``{"role", "content"}``. The role may stand under ``"type"`` or ``"from"``, too, and the content under
            ``"parts"``, ``"text"`` or ``"value"``; the content may be null where tools are called, or a list of parts,
            of which those without text leave a short mark. ``"name"`` or ``"speaker"`` is who wrote it, a user where
            no role is given. Also ``(role, text)`` tuples, objects with these attributes, and a `ChatMessage`.
        where: What errors call it: ``"Message 3"``.
        any_role: Whether a role that is not known is kept as it stands, instead of refused.

    Raises:
        InputError: A key is missing, or the role is unknown.
        InputTypeError: It is no message, or its content is of another kind.
    """
    if isinstance(value, ChatMessage):
        return value
    message = _mapping(value, where)
    speaker = next((str(one).strip() for name in _NAMES if _is_label(one := message.get(name))), "")
    given = next((message[name] for name in ("role", "from", "type") if message.get(name) is not None), None)
    if given in ("message", "chat"):  # a type that is no role
        given = None
    if given is None and "role" not in message and speaker:
        given = USER
    if given is None and "role" not in message:
        raise _missing("role", message, where)
    role = _role(given) or (str(given) if any_role else None)
    if role is None:
        raise InputError(
            f"{where} has the role {given!r:.60}, but the roles of messages are {', '.join(_ROLES)}. "
            "Leave this message out, name one of these, or pass turns as strings."
        )
    calls = bool(message.get("tool_calls") or message.get("function_call")) or _lower(given) in _CALLS
    if not calls and not any(name in message for name in _CONTENTS):
        raise _missing("content", message, where)
    inside = next((message[name] for name in (*_CONTENTS, "refusal") if message.get(name) is not None), None)
    content = content_of(inside, where, may_be_empty=calls or role in (ASSISTANT, TOOL))
    if content.is_result:
        role = TOOL  # Anthropic's users hand in what tools return
    check_unicode(content.text, f"The content of {where[:1].lower()}{where[1:]}")
    check_unicode(speaker, f"The speaker of {where[:1].lower()}{where[1:]}")
    time = next((str(one) for name in _TIMES if _is_label(one := message.get(name))), "")
    text = "" if _lower(given) in _CALLS else content.text
    return ChatMessage(
        role, text, speaker if role in (USER, ASSISTANT) else "", time, calls_tools=calls or content.calls_tools
    )


def check_unicode(text: str, where: str) -> None:
    """Refuse half of a character: it comes from text cut between the two, and no tokenizer takes it.

    Raises:
        InputError: There is one; the text says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds a lone surrogate, {text[error.start]!a} at position {error.start}: one half of a character "
            'that was cut in two. Repair it with text.encode("utf-8", "replace").decode().'
        ) from error


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return the fields of a message of any make."""
    if isinstance(value, Mapping):
        inner = value.get("data", value.get("kwargs"))  # as LangChain writes a message to JSON
        is_wrapped = isinstance(inner, Mapping) and not any(name in value for name in ("role", *_CONTENTS))
        return {"type": value.get("type"), **inner} if is_wrapped else value
    if isinstance(value, str):
        at = where.replace("Message", "Element")
        raise InputTypeError(
            f"{at} is a str, but messages are expected here: strings and messages are mixed in one stream, "
            "or strings were given where messages belong. Pass all turns as strings, or all as messages."
        )
    if not is_message(value):
        raise InputTypeError(
            f'{where} is {kind_of(value)}, but a message is a dict {{"role": ..., "content": ...}}. Pass '
            "messages, or turns as strings."
        )
    if isinstance(value, tuple):
        return {"role": value[0], "content": value[1]}
    names = ("role", "type", *_CONTENTS, *_NAMES, *_TIMES, *_OTHERS)
    found = {name: getattr(value, name, None) for name in names}
    given = {name: one for name, one in found.items() if one is not None and not callable(one)}
    return given if any(name in given for name in _CONTENTS) else {**given, "content": None}


def _role(value: object) -> str | None:
    """Return evoemb's name of a role: of "user" and "Human", of "HumanMessageChunk", of an Enum; None if unknown."""
    name = _lower(value)
    return _ROLES.get(name, _ROLES.get(name.removesuffix("chunk").removesuffix("message")))


def _lower(value: object) -> str:
    if isinstance(value, enum.Enum) and not isinstance(value, str):
        value = value.value
    return plain(value).strip().lower() if isinstance(value, str) else ""


def _is_label(value: object) -> bool:
    """Return whether a value names a speaker or a time: a text, a number or a date that is not missing."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | float | date) and not isinstance(value, bool) and value == value


def _missing(key: str, message: Mapping[str, Any], where: str) -> InputError:
    return InputError(
        f'{where} has no "{key}" (its keys: {", ".join(map(repr, message)) or "none"}). '
        'Give every message "role" and "content", or pass turns as strings.'
    )
