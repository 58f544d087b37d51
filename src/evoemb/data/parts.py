"""The content of a chat message as text: a string, or parts of text, of images, of what tools are asked and return."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoemb._errors import InputTypeError

_TEXTS = ("text", "input_text", "output_text", "refusal")
_CALLS = ("tool_use", "server_tool_use", "tool_call", "toolcall", "function_call", "functioncall")
_RESULTS = ("tool_result", "tool_response", "function_response", "functionresponse", "function_call_output")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "thought")
_RESULT_FIELDS = ("content", "output", "response", "result")


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says.

    Args:
        text: Its text; parts are separated by line feeds.
        calls_tools: Whether a part asks for a tool. What is asked adds no text.
        is_result: Whether it holds nothing but what tools returned.
    """

    text: str
    calls_tools: bool = False
    is_result: bool = False


def content_of(value: object, where: str, *, may_be_empty: bool) -> Content:
    """Read the content of a message.

    Args:
        value: A string, or a list of parts: mappings or objects with a ``type`` (or the key of Gemini's parts), and
            strings. A part that is no text leaves a short mark, such as ``[image]``; thoughts and calls leave nothing.
        where: What errors call the message.
        may_be_empty: Whether None is a content, which says nothing, and a mapping is one, which a tool returned.

    Raises:
        InputTypeError: It is something else.
    """
    if isinstance(value, str):
        return Content(plain(value))
    if value is None and may_be_empty:
        return Content("")
    if isinstance(value, Mapping) and may_be_empty:
        return Content(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        parts = [_part(one, where) for one in value]
        return Content(
            "\n".join(part.text for part in parts if part.text),
            any(part.calls_tools for part in parts),
            bool(parts) and all(part.is_result for part in parts),
        )
    raise InputTypeError(
        f"The content of {where[:1].lower()}{where[1:]} is {kind_of(value)}, but "
        'a str or a list of content parts is expected. Pass its text; use "" for a message without text.'
    )


def plain(text: str) -> str:
    """Return a string of Python's own type: an Enum's or an array's would print or compare in ways of its own."""
    return str.__str__(text)


def kind_of(value: object) -> str:
    """Return a value's type as a reader would say it: ``a str``, ``an int``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def field_of(value: object, name: str) -> Any:
    """Return a field of a mapping or an attribute of an object; None if there is none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _part(part: object, where: str) -> Content:
    """Read one part of a content."""
    if isinstance(part, str):
        return Content(plain(part))
    kind = _kind(part)
    if kind is None:
        raise InputTypeError(
            f'{where}: a content part is {part!r:.60}, expected {{"type": "text", "text": ...}}. Pass the message\'s '
            "text."
        )
    if kind in _TEXTS:
        text = field_of(part, "text") if kind != "refusal" else field_of(part, "refusal")
        text = text.get("value") if isinstance(text, Mapping) else text  # as OpenAI's assistants wrap it
        return content_of(text, where, may_be_empty=True)
    if kind in _CALLS:
        return Content("", calls_tools=True)
    if kind in _RESULTS:
        inner = {str(key).lower(): value for key, value in part.items()} if isinstance(part, Mapping) else {}
        found = inner.get(kind) or field_of(part, kind) or part
        result = next((one for name in _RESULT_FIELDS if (one := field_of(found, name)) is not None), None)
        return Content(content_of(result, where, may_be_empty=True).text, is_result=True)
    return Content("" if kind in _THOUGHTS else f"[{kind.removesuffix('_url').removeprefix('input_')}]")


def _kind(part: object) -> str | None:
    """Return what a part is, in lower case: its type or, with Gemini's, the key of what it holds; None if unclear."""
    if isinstance(kind := field_of(part, "type") or field_of(part, "block_type"), str):
        return plain(kind).lower()
    if isinstance(field_of(part, "text"), str):
        return _THOUGHTS[0] if field_of(part, "thought") is True else _TEXTS[0]
    if isinstance(part, Mapping):
        return next((key.lower() for key, value in part.items() if isinstance(key, str) and value is not None), None)
    return next((key for key in (*_CALLS, *_RESULTS) if field_of(part, key) is not None), None)
