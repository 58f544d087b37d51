"""Exports in JSON of ShareGPT, ChatGPT, Claude, Discord, Telegram and Slack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evoemb.data.files import Item
from evoemb.data.importers.chat import MEDIA, Chat, Importer, said, text_or_mark
from evoemb.data.importers.slack import is_slack, slack


def unpacked(items: Sequence[Item]) -> Sequence[Item]:
    """Return the chats of a file that holds a whole account of Telegram; of other files the values as they are."""
    if len(items) == 1 and _has(items[0].value, chats=dict) and _has(items[0].value["chats"], list=list):
        chats = items[0].value["chats"]["list"]
        named = [Item(chat, f"{items[0].where}, chats.list[{index}]") for index, chat in enumerate(chats)]
        return [chat for chat in named if not (_has(chat.value, messages=list) and not chat.value["messages"])]
    return items


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
        text = "\n".join(part if isinstance(part, str) else MEDIA for part in parts if part).strip()
        if text and role in ("user", "assistant"):
            messages.append({"role": role, "content": text, "time": message.get("create_time")})
    return Chat(str(value.get("title") or ""), tuple(messages))


def _claude(value: Any) -> Chat:
    messages = []
    for one in value["chat_messages"]:
        parts = one.get("content") if isinstance(one.get("content"), list) else ()
        text = one.get("text") or "\n".join(part.get("text") or "" for part in parts if isinstance(part, Mapping))
        if text := text_or_mark(text, media=one.get("files") or one.get("attachments")):
            messages.append({"role": one["sender"], "content": text, "time": one.get("created_at")})
    return Chat(str(value.get("name") or value.get("uuid") or ""), tuple(messages))


def _discord(value: Any) -> Chat:
    texts = []
    for one in value["messages"]:
        name = one["author"].get("nickname") or one["author"].get("name") or "?"
        if text := text_or_mark(one["content"], media=one.get("attachments")):
            texts.append(said(str(name), text, one.get("timestamp")))
    return Chat(str((value.get("channel") or {}).get("name") or ""), tuple(texts))


def _telegram(value: Any) -> Chat:
    texts = []
    for one in value["messages"]:
        parts = one.get("text")
        pieces = parts if isinstance(parts, list) else [parts]
        text = "".join(part if isinstance(part, str) else str((part or {}).get("text", "")) for part in pieces)
        text = text_or_mark(text, media=one.get("photo") or one.get("file") or one.get("media_type"))
        if one.get("type") == "message" and text:
            texts.append(said(str(one.get("from") or "Deleted account"), text, one.get("date")))
    return Chat(str(value.get("name") or ""), tuple(texts))


IMPORTERS = (
    Importer(
        "sharegpt", "ShareGPT", lambda v: _has(v, conversations=list) and _all(v["conversations"], value=str), _sharegpt
    ),
    Importer("chatgpt", "ChatGPT", lambda v: _has(v, mapping=dict), _chatgpt),
    Importer("claude", "Claude", lambda v: _has(v, chat_messages=list), _claude),
    Importer(
        "discord",
        "Discord",
        lambda v: _has(v, messages=list) and _all(v["messages"], author=dict, content=str),
        _discord,
    ),
    Importer(
        "telegram", "Telegram", lambda v: _has(v, messages=list) and _all(v["messages"], type=str, date=str), _telegram
    ),
    Importer("slack", "Slack", is_slack, slack, whole=True),
)
