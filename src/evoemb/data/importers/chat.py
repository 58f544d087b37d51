"""What an importer is, and the chat it makes of an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MEDIA = "[media]"
"""What stands for a picture, a recording or a file in a chat."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat of an export.

    Args:
        name: Its title or id; empty where it has none.
        messages: ``{"role", "content"[, "name", "time"]}`` each, in order; texts where nobody speaks, as in notes.
    """

    name: str
    messages: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Importer:
    """How one program's export is known and read.

    Args:
        key: What ``--format`` calls it.
        name: The program or format.
        matches: Whether one JSON value, or the text of a file, is of this kind.
        read: The chat in it.
        whole: Whether all the values of a file make one chat.
    """

    key: str
    name: str
    matches: Callable[[Any], bool]
    read: Callable[[Any], Chat]
    whole: bool = False


def said(speaker: str, content: str, time: object = None) -> dict[str, Any]:
    """Return a message of a person among several."""
    about = {} if time in (None, "") else {"time": str(time)}
    return {"role": "user", "content": content, "name": speaker, **about}


def text_or_mark(text: str | None, *, media: object) -> str:
    """Return a message's text; where it has none but media, the mark of media."""
    return (text or "").strip() or (MEDIA if media else "")
