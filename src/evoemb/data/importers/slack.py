"""Slack's export: the messages of a channel, in one file or in a folder with a file a day."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evoemb._errors import InputError
from evoemb.data.files import FilePath, Item, read_json
from evoemb.data.importers.chat import Chat, said, text_or_mark

_SAID = (None, "file_share", "thread_broadcast", "bot_message")
_DAYS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"
_USERS = "users.json"
_MENTION = re.compile(r"<@(\w+)(?:\|[^>]*)?>")


def is_slack(value: Any) -> bool:
    """Return whether a JSON value is a message of Slack."""
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("type", "ts"))


def slack(values: Sequence[Any], name: str = "", users: Mapping[str, str] | None = None) -> Chat:
    """Return the chat that messages of Slack are.

    Args:
        name: Of the channel.
        users: The name behind the id of each user, where it is known.
    """
    known = users or {}
    texts = []
    for one in values:
        profile = one.get("user_profile") or {}
        who = profile.get("display_name") or profile.get("real_name") or known.get(str(one.get("user")))
        who = who or one.get("user") or one.get("username") or "?"
        text = _MENTION.sub(lambda found: f"@{known.get(found[1], found[1])}", one.get("text") or "")
        text = text_or_mark(text, media=one.get("files"))
        if text and one.get("subtype") in _SAID:
            texts.append(said(str(who), text, one["ts"]))
    return Chat(name, tuple(texts))


class Channel(NamedTuple):
    """A channel of an unpacked export: its messages in the order in which they were sent, and how they are read."""

    item: Item
    read: Callable[[Any], Chat]


def slack_channels(folder: FilePath) -> list[Channel] | None:
    """Return the channels of an unpacked export; None for any other folder.

    Args:
        folder: Holds a folder a channel, or is one of these: a file a day, ``2026-11-20.json``.

    Raises:
        InputError: A file in it cannot be read; it is named.
    """
    top = Path(folder)
    channels = [one for one in (top, *sorted(top.iterdir())) if one.is_dir() and any(one.glob(_DAYS))]
    if not channels:
        return None
    users = _users(top if (top / _USERS).exists() else top.parent)
    return [
        Channel(Item(_messages(channel), str(channel)), partial(slack, name=channel.name, users=users))
        for channel in channels
    ]


def _messages(channel: Path) -> list[Any]:
    values = []
    for day in sorted(channel.glob(_DAYS)):
        found = read_json(day)
        if not (isinstance(found, list) and all(map(is_slack, found))):
            raise InputError(f"{day}: this is no list of messages of Slack. Export the channel again, or remove it.")
        values += found
    return sorted(values, key=_time_of)


def _time_of(message: Mapping[str, Any]) -> float:
    try:
        return float(message["ts"])
    except ValueError as error:
        raise InputError(
            f"A message of Slack has the time {message['ts']!r:.40}, expected seconds, 1763629200.0001. Export "
            "the channel again."
        ) from error


def _users(folder: Path) -> dict[str, str]:
    """Return the name behind each id of the export's list of users; none where it has no such list."""
    path = folder / _USERS
    if not path.exists():
        return {}
    names = {}
    found = read_json(path)
    for one in found if isinstance(found, list) else ():
        if isinstance(one, Mapping):
            profile = one["profile"] if isinstance(one.get("profile"), Mapping) else {}
            name = profile.get("display_name") or one.get("real_name") or profile.get("real_name") or one.get("name")
            names[str(one.get("id"))] = str(name or one.get("id"))
    return names
