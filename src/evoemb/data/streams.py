"""Files of streams: the format is found from the content, and every error names the file and the place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evoemb._errors import InputError, InputTypeError
from evoemb.data.files import STANDARD_INPUT, FilePath, Item, items_of_text, name_of, read_text
from evoemb.data.importers import (
    EXPORTS,
    KNOWN,
    TEXT_EXPORTS,
    Chat,
    chats_of_folder,
    chats_of_json,
    chats_of_text,
    main_file,
)
from evoemb.data.messages import as_message, check_unicode
from evoemb.data.turns import as_turns

FORMATS = ("auto", "messages", "turns", "evotrain", "stream", "text", *EXPORTS)

UTTERANCES = "utterances"
"""The form of a stream whose turns are one message each; its speaker is then part of what is read."""

_OR_TEXT = ', or name the format "text" if it is plain text'
_NAMES = {
    "messages": "a chat message",
    "turns": "a turn",
    "evotrain": "an EvoTrain object",
    "stream": "an evoemb stream",
    "list": "a list",
}


@dataclass(frozen=True, slots=True)
class FileStream:
    """One stream of a file.

    Args:
        turns: The texts of its turns, at least one.
        query: The question that the file asks after it; None where there is none.
        name: Its title or id; empty where it has none. Names are not compared.
        messages: The messages that it was made of, as a stream that goes on elsewhere may answer the last one or begin
            with an answer; None where it was made of texts. They are not compared.
    """

    turns: list[str]
    query: str | None = None
    name: str = field(default="", compare=False)
    messages: Sequence[Any] | None = field(default=None, compare=False)

    @property
    def given(self) -> Sequence[Any]:
        """The stream as a model reads it: its messages if it was made of them, else the turns."""
        return self.turns if self.messages is None else self.messages


def read_streams(path: FilePath, stream_format: str = "auto") -> list[FileStream]:
    """Return the streams of a file, at least one: chats, turns, and the exports of other programs.

    For files with questions and right answers see :func:`evoemb.evaluation.read_streams`.

    Args:
        path: A file of UTF-8 text, gzip or not, ``"-"`` for standard input, or the folder of an unpacked export.
        stream_format: ``"auto"`` finds the format from the content; ``"messages"``, ``"turns"``, ``"evotrain"``,
            ``"stream"``, ``"text"`` and the names of exports (``"slack"``, ``"whatsapp"``, ...) force one, as
            ``evoemb search --help`` describes them.

    Raises:
        InputError: The content is no stream, or not in the format asked for; the text names file and place.
        OSError: The file cannot be read.
    """
    if stream_format not in FORMATS:
        raise InputError(f"The format {stream_format!r} is not known. Use one of {', '.join(FORMATS)}.")
    if path != STANDARD_INPUT and Path(path).is_dir():
        if (main := main_file(path)) is None:
            if stream_format not in ("auto", "slack"):
                raise InputError(f"{name_of(path)} is a folder, but the format {stream_format!r} is one of files.")
            return _streams_of_chats(chats_of_folder(path))
        path = main
    return streams_of_text(read_text(path), name_of(path), stream_format)


def streams_of_text(text: str, name: str, stream_format: str = "auto") -> list[FileStream]:
    """Return the streams of the text of a file, whose ``name`` errors say; as :func:`read_streams`."""
    if not text.strip():
        raise InputError(f"{name} holds no turns: it is empty. Expected at least one turn.")
    export = stream_format if stream_format in EXPORTS else None
    is_text, is_json = stream_format in ("text", *TEXT_EXPORTS), stream_format not in ("auto", "text", *TEXT_EXPORTS)
    items = None if is_text else items_of_text(text, name, forced=is_json, or_else=_OR_TEXT)
    chats = None
    if stream_format == "auto" or export is not None:
        chats = chats_of_text(text, name, export) if items is None else chats_of_json(items, export)
    if chats is not None:
        return _streams_of_chats(chats)
    if items is None:
        lines = enumerate(text.split("\n"), 1)
        return [FileStream([check_text(line, f"{name}, line {number}") for number, line in lines if line.strip()])]
    return _streams(items, name, stream_format)


def _streams_of_chats(chats: Sequence[Chat]) -> list[FileStream]:
    return [FileStream(as_turns(chat.messages), name=chat.name, messages=list(chat.messages)) for chat in chats]


def under_name(text: str, speaker: object) -> str:
    """Return the text of a turn that is one message, behind its speaker's name, once; without a name as it stands."""
    head = f"{speaker}: " if isinstance(speaker, str) and speaker else ""
    return text if text.startswith(head) else f"{head}{text}"


def check_text(text: object, where: str) -> str:
    """Return ``text`` itself if it is a string that a tokenizer takes.

    Raises:
        InputError: It is none; the text says where it stands.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: a string is expected here, but {_json_kind(text)} was found.")
    check_unicode(text, where)
    return text


def _streams(items: list[Item], name: str, stream_format: str) -> list[FileStream]:
    """Return the streams that a file's JSON values make: one of all of them, or each its own."""
    if not items:
        raise InputError(f"{name} holds no turns: it is an empty list. Expected at least one turn.")
    kind = _common_kind(items)
    if stream_format not in ("auto", kind) and kind != "list":
        raise InputError(
            f"{items[0].where}: this is {_NAMES[kind]}, but the format {stream_format!r} was given. Leave the format "
            f"out, or name {kind!r}."
        )
    if kind in ("messages", "turns"):
        return [_stream_of(items)]
    return [_whole_stream(item, kind) for item in items]


def _whole_stream(item: Item, kind: str) -> FileStream:
    """Return the stream that one JSON value holds by itself."""
    if kind == "list":
        return _stream_of(_elements(item, item.where))
    if kind == "stream":
        found = _stream_of(_elements(Item(item.value["turns"], item.where), f"{item.where}, turns"))
        if item.value.get("form") == UTTERANCES and found.messages is None:
            speakers = (value.get("speaker") if isinstance(value, Mapping) else "" for value in item.value["turns"])
            found = replace(found, turns=list(map(under_name, found.turns, speakers)))
        return replace(found, name=str(item.value.get("stream_id") or ""))
    turns = _evotrain_turns(item.value)
    if turns is None:
        messages = Item(item.value["messages"], item.where)
        return _stream_of(_elements(messages, f"{item.where}, messages"))
    entries = _elements(Item(turns, item.where), f"{item.where}, meta.turns")
    texts = [check_text(entry.value, entry.where) for entry in entries]
    if len(texts) < 2:
        raise InputError(
            f"{item.where}, meta.turns: only the query is there, its last entry. Expected at least one turn before it."
        )
    return FileStream(texts[:-1], query=texts[-1])


def _elements(item: Item, where: str) -> list[Item]:
    """Return the elements of a JSON list that must hold at least one turn."""
    if not isinstance(item.value, list):
        raise InputError(f"{where}: a list of turns is expected here, but {_json_kind(item.value)} was found.")
    if not item.value:
        raise InputError(f"{where}: this list of turns is empty. Expected at least one turn.")
    return [Item(element, f"{where}, element {index}") for index, element in enumerate(item.value)]


def _stream_of(items: list[Item]) -> FileStream:
    """Return the stream that values make which are all turns or all messages."""
    kind = _common_kind(items)
    if kind == "turns":
        return FileStream([_turn_text(item) for item in items])
    if kind == "messages":
        messages = [_message(item) for item in items]
        return FileStream(as_turns(messages), messages=messages)
    raise InputError(f"{items[0].where}: a turn or a message is expected here, but {_NAMES[kind]} was found.")


def _turn_text(item: Item) -> str:
    """Return the text of a turn given as a string or as ``{"text": ...}``."""
    return check_text(item.value["text"] if isinstance(item.value, Mapping) else item.value, item.where)


def _message(item: Item) -> Any:
    """Return a chat message that `as_turns` takes, checked here because only here the line is known."""
    try:
        as_message(item.value, item.where)
    except InputTypeError as error:  # in a file every fault is one of its content
        raise InputError(str(error)) from error
    return item.value


def _common_kind(items: list[Item]) -> str:
    """Return the kind all the values are of; an error names the first that differs."""
    kind = _kind(items[0])
    for item in items[1:]:
        other = _kind(item)
        if other != kind:
            raise InputError(
                f"{item.where}: this is {_NAMES[other]}, but {items[0].where} is {_NAMES[kind]}. A file holds one "
                "kind: split it, or bring its entries to one form."
            )
    return kind


def _kind(item: Item) -> str:
    """Return what a JSON value is: a key of `_NAMES`."""
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
        f'("turns", "messages" or "meta.turns"), nor an export of {KNOWN}. Its keys: {keys}.'
    )


def _evotrain_turns(value: Mapping[str, Any]) -> Any:
    """Return what stands under meta.turns, as a dotted key or nested; None if nothing does."""
    meta = value.get("meta")
    return value.get("meta.turns", meta.get("turns") if isinstance(meta, Mapping) else None)


def _json_kind(value: object) -> str:
    """Return a JSON value's kind in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
