"""Reading streams from files: the format is told from the content, and every error names the file and the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from evoemb._errors import InputError, InputTypeError
from evoemb.data.files import STANDARD_INPUT, read_text
from evoemb.data.importers import Chat, chat_of_text, chats_of_json
from evoemb.data.messages import as_message
from evoemb.data.turns import as_turns

FORMATS = ("auto", "messages", "turns", "evotrain", "stream", "text")

FORMAT_HELP = """\
STREAM is a file, or - for standard input. Its format is told from its content, not from its name:
  messages  chat messages, {"role": "user"|"assistant", "content": "..."}: one a line, or in one JSON array;
            a user message and the assistant message right behind it are one turn
  turns     turns, each a JSON string or {"text": "..."}: one a line, or in one JSON array
  evotrain  {"meta": {"turns": [...]}} as in EvoTrain: the last of meta.turns is the query and is no turn;
            with "messages" alone, all of them make the stream
  stream    {"turns": [{"text": "..."}, ...]}, evoemb's own format
  text      plain text, one turn a line; blank lines are skipped
--format forces one of them. Turns and streams are counted from 0."""

_LOOKS_LIKE_JSON = re.compile(r"\s*(\{|\[\s*[\[{\"])")  # not "[12:30] hello", a common start of a chat log
_NAMES = {
    "messages": "a chat message",
    "turns": "a turn",
    "evotrain": "an EvoTrain object",
    "stream": "an evoemb stream",
    "list": "a list",
}


@dataclass(frozen=True, slots=True)
class FileStream:
    """One stream of a file: its turn texts (at least one) and, where the file carries one, the query asked after it.

    Where it was made of messages they are kept, as a stream that goes on elsewhere may answer the last or begin with an
    answer.
    """

    turns: list[str]
    query: str | None = None
    messages: Sequence[Any] | None = field(default=None, compare=False)

    @property
    def given(self) -> Sequence[Any]:
        """The stream as a model reads it: messages if it was made of them, else the turns."""
        return self.turns if self.messages is None else self.messages


class _Item(NamedTuple):
    """A JSON value and where it stands, as an error would say it."""

    value: Any
    where: str


def read_streams(path: str, stream_format: str = "auto") -> list[FileStream]:
    """The streams of a file, at least one.

    Args:
        path: A file of UTF-8 text, or ``"-"`` for standard input.
        stream_format: One of `FORMATS`; "auto" tells it from the content.

    Raises:
        InputError: The content is no stream, or not in the format asked for; the text names file and place.
        OSError: The file cannot be read.
    """
    name = STANDARD_INPUT if path == "-" else path
    text = read_text(path)
    # Split at line feeds only: a JSON string may hold the other characters that str.splitlines splits at.
    lines = [_Item(line.rstrip("\r"), f"{name}, line {number}") for number, line in enumerate(text.split("\n"), 1)]
    lines = [line for line in lines if line.value.strip()]
    if not lines:
        raise InputError(f"{name} holds no turns: it is empty. Expected a stream in one of the formats of --help.")
    items = None if stream_format == "text" else _json_items(text, lines, name, forced=stream_format != "auto")
    if stream_format == "auto" and (chats := _imported(text, items)):
        return [FileStream(as_turns(chat.messages), messages=chat.messages) for chat in chats]
    if items is None:
        return [FileStream([check_text(line.value, line.where) for line in lines])]
    return _streams(items, name, stream_format)


def _imported(text: str, items: list[_Item] | None) -> list[Chat] | None:
    """Return the chats of another program's export, or None if the file is none."""
    if items is not None:
        return chats_of_json([item.value for item in items])
    chat = chat_of_text(text)
    return None if chat is None else [chat]


def read_one_stream(path: str, stream_format: str = "auto", stream_index: int | None = None) -> FileStream:
    """The stream of a file that holds one, or the one named by ``stream_index``; raises as `read_streams`."""
    streams = read_streams(path, stream_format)
    if stream_index is None and len(streams) > 1:
        raise InputError(
            f"{path} holds {len(streams)} streams, but one is expected. Choose one with --stream 0, 1, ..."
        )
    index = stream_index or 0
    if not 0 <= index < len(streams):
        raise InputError(f"--stream {index} was given, but {path} holds the streams 0 to {len(streams) - 1}.")
    return streams[index]


def check_text(text: object, where: str) -> str:
    """``text`` itself if it is a string that has UTF-8 bytes; a lone surrogate has none and no tokenizer takes it."""
    if not isinstance(text, str):
        raise InputError(f"{where}: a string is expected here, but {_json_kind(text)} was found.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: character {error.start} is half of a surrogate pair, which is no text. Repair the encoding."
        ) from error
    return text


def _json_items(text: str, lines: list[_Item], name: str, *, forced: bool) -> list[_Item] | None:
    """The file's JSON values with their places; None if it is plain text (never if JSON is ``forced``)."""
    broken: json.JSONDecodeError | None = None
    try:
        value = _loads(text, name)
    except json.JSONDecodeError as error:
        broken = error
    else:
        if isinstance(value, list):
            return [_Item(element, f"{name}, element {index}") for index, element in enumerate(value)]
        return [_Item(value, name)] if forced or isinstance(value, dict | str) else None
    try:
        first = _loads(lines[0].value, lines[0].where)
    except json.JSONDecodeError:
        first = None
    if isinstance(first, dict | list | str):
        return [_line_item(line) for line in lines]
    if forced or _LOOKS_LIKE_JSON.match(text):
        raise InputError(
            f"{name}, line {broken.lineno}: this is not valid JSON ({broken.msg}, column {broken.colno}). Repair it, "
            "or pass --format text if it is plain text."
        ) from broken
    return None


def _line_item(line: _Item) -> _Item:
    """The JSON value of one line."""
    try:
        return _Item(_loads(line.value, line.where), line.where)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{line.where}: this is not valid JSON ({error.msg}, column {error.colno}), but the lines before it are. "
            "Repair it, or pass --format text if it is plain text."
        ) from error


def _loads(text: str, where: str) -> Any:
    """``json.loads``, with the two failures it does not report as its own."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise InputError(f"{where}: this JSON is nested too deeply to be a stream.") from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise InputError(f"{where}: this JSON cannot be read ({error}).") from error


def _streams(items: list[_Item], name: str, stream_format: str) -> list[FileStream]:
    """The streams that a file's JSON values make: one of all of them, or each its own."""
    if not items:
        raise InputError(f"{name} holds no turns: it is an empty list. Expected at least one turn.")
    kind = _common_kind(items)
    if stream_format not in ("auto", kind) and kind != "list":
        raise InputError(
            f"{items[0].where}: this is {_NAMES[kind]}, but --format {stream_format} was given. Leave --format out, or "
            f"pass --format {kind}."
        )
    if kind in ("messages", "turns"):
        return [_stream_of(items)]
    return [_whole_stream(item, kind) for item in items]


def _whole_stream(item: _Item, kind: str) -> FileStream:
    """The stream that one JSON value holds by itself."""
    if kind == "list":
        return _stream_of(_elements(item, item.where))
    if kind == "stream":
        return _stream_of(_elements(_Item(item.value["turns"], item.where), f"{item.where}, turns"))
    turns = _evotrain_turns(item.value)
    if turns is None:
        messages = _Item(item.value["messages"], item.where)
        return _stream_of(_elements(messages, f"{item.where}, messages"))
    entries = _elements(_Item(turns, item.where), f"{item.where}, meta.turns")
    texts = [check_text(entry.value, entry.where) for entry in entries]
    if len(texts) < 2:
        raise InputError(
            f"{item.where}, meta.turns: only the query is there, its last entry. Expected at least one turn before it."
        )
    return FileStream(texts[:-1], query=texts[-1])


def _elements(item: _Item, where: str) -> list[_Item]:
    """The elements of a JSON list that must hold at least one turn."""
    if not isinstance(item.value, list):
        raise InputError(f"{where}: a list of turns is expected here, but {_json_kind(item.value)} was found.")
    if not item.value:
        raise InputError(f"{where}: this list of turns is empty. Expected at least one turn.")
    return [_Item(element, f"{where}, element {index}") for index, element in enumerate(item.value)]


def _stream_of(items: list[_Item]) -> FileStream:
    """The stream that values make which are all turns or all messages."""
    kind = _common_kind(items)
    if kind == "turns":
        return FileStream([_turn_text(item) for item in items])
    if kind == "messages":
        messages = [_message(item) for item in items]
        return FileStream(as_turns(messages), messages=messages)
    raise InputError(f"{items[0].where}: a turn or a message is expected here, but {_NAMES[kind]} was found.")


def _turn_text(item: _Item) -> str:
    """The text of a turn given as a string or as ``{"text": ...}``."""
    return check_text(item.value["text"] if isinstance(item.value, Mapping) else item.value, item.where)


def _message(item: _Item) -> Any:
    """A chat message that `as_turns` takes, checked here because only here the line is known."""
    try:
        as_message(item.value, item.where)
    except InputTypeError as error:  # in a file every fault is one of its content
        raise InputError(str(error)) from error
    return item.value


def _common_kind(items: list[_Item]) -> str:
    """The kind all the values are of; an error names the first that differs."""
    kind = _kind(items[0])
    for item in items[1:]:
        other = _kind(item)
        if other != kind:
            raise InputError(
                f"{item.where}: this is {_NAMES[other]}, but {items[0].where} is {_NAMES[kind]}. A file holds one "
                "kind: split it, or bring its entries to one form."
            )
    return kind


def _kind(item: _Item) -> str:
    """What a JSON value is: a key of `_NAMES`."""
    value = item.value
    if isinstance(value, str):
        return "turns"
    if isinstance(value, list):
        return "list"
    if not isinstance(value, dict):
        raise InputError(f"{item.where}: a turn, a message or a stream is expected, but {_json_kind(value)} was found.")
    if "turns" in value:
        return "stream"
    if _evotrain_turns(value) is not None:
        return "evotrain"
    if "content" in value:
        return "messages"
    if "text" in value:  # before "messages": a turn of an evoemb stream may carry both
        return "turns"
    if "messages" in value:
        return "evotrain"
    keys = ", ".join(map(json.dumps, value)) or "none"
    raise InputError(
        f'{item.where}: this object is neither a message ("role", "content"), nor a turn ("text"), nor a stream '
        f'("turns", "messages" or "meta.turns"). Its keys: {keys}.'
    )


def _evotrain_turns(value: Mapping[str, Any]) -> Any:
    """What stands under meta.turns, as a dotted key or nested; None if nothing does."""
    meta = value.get("meta")
    return value.get("meta.turns", meta.get("turns") if isinstance(meta, Mapping) else None)


def _json_kind(value: object) -> str:
    """A JSON value's kind in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
