"""Chat exports of other programs, told apart by their content and read into chat messages."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoemb._errors import InputError


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat of an export.

    Args:
        name: Its title or id; empty where it has none.
        messages: ``{"role", "content"[, "name", "time"]}`` each, in order, at least one.
    """

    name: str
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Importer:
    """How one program's export is known and read.

    Args:
        name: The program or format.
        matches: Whether one JSON value (a file's only one, or the first of several) is of this kind.
        read: The chat in one JSON value.
    """

    name: str
    matches: Callable[[Any], bool]
    read: Callable[[Any], Chat]


def chats_of_json(values: Sequence[Any]) -> list[Chat] | None:
    """Return the chats that a file's JSON values are, or None if no importer knows them.

    Raises:
        InputError: An importer knows the first value, but not another one, or a chat holds no messages.
    """
    importer = next((one for one in IMPORTERS if values and one.matches(values[0])), None)
    if importer is None:
        return [_slack(values)] if values and all(_is_slack(one) for one in values) else None
    found = []
    for number, value in enumerate(values):
        if not importer.matches(value):
            raise InputError(
                f"Entry {number} is no chat of {importer.name}, but entry 0 is. Split the file, or repair the entry."
            )
        chat = importer.read(value)
        if not chat.messages:
            raise InputError(f"Entry {number}, a chat of {importer.name}, holds no message with text. Leave it out.")
        found.append(chat)
    return found


def chat_of_text(text: str) -> Chat | None:
    """Return the chat that a text file is (WhatsApp's export, or CSV with a header), or None for any other text."""
    return _whatsapp(text) or _csv(text)


def _said(speaker: str, content: str, time: object = "") -> dict[str, Any]:
    about = {"time": str(time)} if time not in (None, "") else {}
    return {"role": "user", "content": content, "name": speaker, **about}


def _has(value: Any, /, **kinds: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def _all(entries: Any, /, **kinds: type) -> bool:
    return isinstance(entries, list) and bool(entries) and all(_has(one, **kinds) for one in entries)


def _sharegpt(value: Any) -> Chat:
    messages = ({"role": one["from"], "content": one["value"]} for one in value["conversations"])
    return Chat(str(value.get("id") or ""), tuple(messages))


def _chatgpt(value: Any) -> Chat:
    """Follow the branch that was kept, from the newest message back; edits and other answers are left behind."""
    nodes, at = value["mapping"], value.get("current_node")
    branch: list[Any] = []
    if at not in nodes:
        at = next((key for key, node in nodes.items() if not node.get("children")), None)
    while at in nodes and len(branch) <= len(nodes):
        branch.append(nodes[at])
        at = nodes[at].get("parent")
    messages = []
    for node in reversed(branch):
        message = node.get("message") or {}
        role = (message.get("author") or {}).get("role")
        parts = (message.get("content") or {}).get("parts") or ()
        text = "\n".join(part for part in parts if isinstance(part, str) and part.strip())
        if text and role in ("user", "assistant"):
            messages.append({"role": role, "content": text, "time": message.get("create_time")})
    return Chat(str(value.get("title") or ""), tuple(messages))


def _claude(value: Any) -> Chat:
    messages = []
    for one in value["chat_messages"]:
        parts = one.get("content") if isinstance(one.get("content"), list) else ()
        text = one.get("text") or "\n".join(part.get("text") or "" for part in parts if isinstance(part, Mapping))
        if text.strip():
            messages.append({"role": one["sender"], "content": text, "time": one.get("created_at")})
    return Chat(str(value.get("name") or value.get("uuid") or ""), tuple(messages))


def _discord(value: Any) -> Chat:
    names = ("nickname", "name")
    said = (
        _said(next(one["author"][key] for key in names if one["author"].get(key)), one["content"], one.get("timestamp"))
        for one in value["messages"]
        if one["content"].strip()
    )
    return Chat(str((value.get("channel") or {}).get("name") or ""), tuple(said))


def _telegram(value: Any) -> Chat:
    said = []
    for one in value["messages"]:
        parts = one.get("text")
        pieces = parts if isinstance(parts, list) else [parts]
        text = "".join(part if isinstance(part, str) else str((part or {}).get("text", "")) for part in pieces)
        if one.get("type") == "message" and text.strip():
            said.append(_said(str(one.get("from") or "Deleted account"), text, one.get("date")))
    return Chat(str(value.get("name") or ""), tuple(said))


def _is_slack(value: Any) -> bool:
    return _has(value, type=str, text=str, ts=str)


def _slack(values: Sequence[Any]) -> Chat:
    said = []
    for one in values:
        profile = one.get("user_profile") or {}
        name = profile.get("display_name") or profile.get("real_name") or one.get("user") or one.get("username") or "?"
        if not one.get("subtype") and one["text"].strip():
            said.append(_said(str(name), one["text"], one["ts"]))
    if not said:
        raise InputError("This export of Slack holds no message with text.")
    return Chat("", tuple(said))


IMPORTERS = (
    Importer("ShareGPT", lambda v: _has(v, conversations=list) and _all(v["conversations"], value=str), _sharegpt),
    Importer("ChatGPT", lambda v: _has(v, mapping=dict), _chatgpt),
    Importer("Claude", lambda v: _has(v, chat_messages=list), _claude),
    Importer("Discord", lambda v: _has(v, messages=list) and _all(v["messages"], author=dict, content=str), _discord),
    Importer("Telegram", lambda v: _has(v, messages=list) and _all(v["messages"], type=str, date=str), _telegram),
)

# "[20.11.26, 09:12:33] Mia: text" and "20/11/2026, 9:12 am - Mia: text", with or without marks of writing direction.
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[\s\u202f]?[aApP]\.?[mM]\.?)?"
_WHATSAPP = re.compile(
    rf"^[\u200e\u200f]?(?:\[({_DATE},? {_CLOCK})\]|({_DATE},? {_CLOCK}) -) ?(?:([^:]{{1,60}}): )?(.*)$"
)


def _whatsapp(text: str) -> Chat | None:
    """Read WhatsApp's export: a message may go over several lines, and a notice of the system has no speaker."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    first = next((line for line in lines if line.strip()), "")
    if not _WHATSAPP.match(first):
        return None
    said: list[dict[str, Any]] = []
    notice = False
    for line in lines:
        found = _WHATSAPP.match(line)
        if found is None:
            if said and not notice and line.strip():
                said[-1]["content"] += f"\n{line.strip()}"
            continue
        notice = found[3] is None
        content = found[4].replace("\u200e", "").strip()
        if not notice and content:
            said.append(_said(found[3].strip(), content, found[1] or found[2]))
    return Chat("", tuple(said)) if said else None


def _csv(text: str) -> Chat | None:
    """Read CSV whose header has a column of texts and one of speakers or roles."""
    head = text.lstrip().split("\n", 1)[0]
    delimiter = next((sign for sign in (",", ";", "\t") if sign in head), None)
    if delimiter is None:
        return None
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
    content = next((name for name in ("content", "text", "message") if name in names), None)
    who = next((name for name in ("role", "speaker", "name", "author", "from") if name in names), None)
    if content is None or who is None:
        return None
    said = []
    for row in csv.reader(io.StringIO(text.lstrip().split("\n", 1)[-1]), delimiter=delimiter):
        cells = dict(zip(names, row, strict=False))
        if cells.get(content, "").strip():
            named = _said(cells.get(who, ""), cells[content], cells.get("time", ""))
            said.append(named if who != "role" else {**named, "role": cells["role"], "name": cells.get("name", "")})
    return Chat("", tuple(said)) if said else None
