"""Chat messages of every make in one form: roles, content parts, tool calls, tuples and message objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoemb._errors import InputError, InputTypeError

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"
_ROLES = {
    **dict.fromkeys(("user", "human", "customer"), USER),
    **dict.fromkeys(("assistant", "ai", "model", "gpt", "bot", "chatbot", "claude", "chatgpt"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("tool", "function", "observation"), TOOL),
}
_TIMES = ("time", "timestamp", "created_at", "create_time", "date")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat.

    Args:
        role: ``"user"``, ``"assistant"``, ``"system"`` or ``"tool"``, whatever its maker calls them.
        content: Its text; empty for a message that only calls tools.
        speaker: Who wrote it; empty where no name is given.
        time: When, in the source's own words; empty where it is not known.
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
    if isinstance(value, Mapping):
        return True
    if isinstance(value, tuple):
        return len(value) == 2 and isinstance(value[0], str) and _plain(value[0]).lower() in _ROLES
    return isinstance(getattr(value, "type", getattr(value, "role", None)), str) and hasattr(value, "content")


def as_message(value: object, where: str) -> ChatMessage:
    """Read one message.

    Args:
        value: ``{"role", "content"}``; ``content`` may be null beside tool calls, or a list of parts, of which those
            without text leave a short mark. ``"name"`` is the speaker. Also ``(role, text)`` tuples and objects with
            ``type`` (or ``role``) and ``content``, as LangChain has them.
        where: What errors call it: ``"Message 3"``.

    Raises:
        InputError: A key is missing, or the role is unknown.
        InputTypeError: It is no message, or its content is of another kind.
    """
    message = _mapping(value, where)
    for key in ("role", "content"):
        if key not in message and not (key == "content" and _calls_tools(message)):
            raise InputError(
                f'{where} has no "{key}" (its keys: {", ".join(map(repr, message)) or "none"}). '
                'Give every message "role" and "content", or pass turns as strings.'
            )
    role = message["role"]
    known = _ROLES.get(_plain(role).lower()) if isinstance(role, str) else None
    if known is None:
        raise InputError(
            f"{where} has the role {role!r:.60}, but the roles of messages are {', '.join(_ROLES)}. "
            "Leave this message out, name one of these, or pass turns as strings."
        )
    text = _text(message.get("content"), where, empty=_calls_tools(message) or known == TOOL)
    name = message.get("name")
    speaker = _plain(name).strip() if isinstance(name, str) and known in (USER, ASSISTANT) else ""
    check_unicode(text, f"The content of {where[:1].lower()}{where[1:]}")
    time = next((str(message[key]) for key in _TIMES if message.get(key) is not None), "")
    return ChatMessage(known, text, speaker, time, _calls_tools(message))


def kind_of(value: object) -> str:
    """Return a value's type as a reader would say it: ``a str``, ``an int``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


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
    if isinstance(value, Mapping):
        return value
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
    role = getattr(value, "type", None) or getattr(value, "role", None)
    found: dict[str, Any] = {"role": role, "content": getattr(value, "content", None)}
    for key in ("name", "tool_calls"):
        if getattr(value, key, None):
            found[key] = getattr(value, key)
    return found


def _calls_tools(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _text(content: object, where: str, *, empty: bool) -> str:
    """Return the text of a message's content."""
    if isinstance(content, str):
        return _plain(content)
    if content is None and empty:
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray | memoryview):
        return "\n".join(part for part in (_part(one, where) for one in content) if part)
    if isinstance(content, Mapping) and empty:  # what a tool returned
        return json.dumps(content, ensure_ascii=False)
    raise InputTypeError(
        f"The content of {where[:1].lower()}{where[1:]} is {kind_of(content)}, but "
        'a str or a list of content parts is expected. Pass its text; use "" for a message without text.'
    )


def _part(part: object, where: str) -> str:
    """Return the text of a content part; what is no text leaves a mark, so that it is not dropped silently."""
    if isinstance(part, str):
        return _plain(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and (kind in _TEXT_PARTS or kind is None) and isinstance(part.get("text"), str):
        return _plain(part["text"])
    if isinstance(kind, str):
        return f"[{kind.removesuffix('_url')}]"
    raise InputTypeError(
        f'{where}: a content part is {part!r:.60}, expected {{"type": "text", "text": ...}}. Pass the message\'s text.'
    )


def _plain(text: str) -> str:
    """Return a string of Python's own type: an Enum's or an array's would print or compare in ways of its own."""
    return str.__str__(text)
