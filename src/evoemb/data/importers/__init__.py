"""Exports of other programs, recognised by their content and read into chats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evoemb._errors import InputError, InputTypeError
from evoemb.data.files import FilePath, Item
from evoemb.data.importers.chat import Chat
from evoemb.data.importers.programs import IMPORTERS, unpacked
from evoemb.data.importers.slack import slack_channels
from evoemb.data.importers.texts import TEXT_IMPORTERS
from evoemb.data.messages import as_message

__all__ = ["EXPORTS", "KNOWN", "TEXT_EXPORTS", "Chat", "chats_of_folder", "chats_of_json", "chats_of_text", "main_file"]

EXPORTS = {importer.key: importer.name for importer in (*IMPORTERS, *TEXT_IMPORTERS)}
"""The names of all exports that can be read, by what ``--format`` calls them."""

TEXT_EXPORTS = frozenset(importer.key for importer in TEXT_IMPORTERS)
"""Those of them that are no JSON."""

KNOWN = ", ".join(EXPORTS.values())

_MAIN_FILES = ("conversations.json", "result.json", "_chat.txt")  # ChatGPT and Claude; Telegram; WhatsApp


def chats_of_json(items: Sequence[Item], wanted: str | None = None) -> list[Chat] | None:
    """Return the chats that a file's JSON values are, without empty ones, or None if no importer knows them.

    Args:
        wanted: The key of the only export that is tried; None tries all.

    Raises:
        InputError: An importer knows the first value, but cannot read it or another one, no chat holds a message, or
            the values are nothing of the export that is wanted.
    """
    items = unpacked(items)
    tried = [one for one in IMPORTERS if wanted in (None, one.key)]
    importer = next((one for one in tried if items and one.matches(items[0].value)), None)
    if importer is None:
        if wanted is not None and items:
            raise InputError(f"{items[0].where}: {_nothing_of(wanted)}")
        return None
    for value, where in items:
        if not importer.matches(value):
            raise InputError(
                f"{where}: this is nothing of {importer.name}, but {items[0].where} is. Split the file, or repair it."
            )
    if importer.whole:
        name = items[0].where.rsplit(",", 1)[0]
        items = [Item([item.value for item in items], name)]
    chats = [chat for chat in (_read(importer.name, importer.read, item) for item in items) if chat.messages]
    if not chats:
        raise InputError(f"{items[0].where}: no chat of this file of {importer.name} holds a message with text.")
    return chats


def chats_of_text(text: str, name: str, wanted: str | None = None) -> list[Chat] | None:
    """Return the chat that a text file is, or None for any other text.

    Args:
        name: Of the file, for errors.
        wanted: The key of the only export that is tried; None tries all.

    Raises:
        InputError: The text is nothing of the export that is wanted.
    """
    for importer in TEXT_IMPORTERS:
        if wanted in (None, importer.key) and importer.matches(text) and (chat := importer.read(text)).messages:
            return [chat]
    if wanted is not None:
        raise InputError(f"{name}: {_nothing_of(wanted)}")
    return None


def main_file(folder: FilePath) -> Path | None:
    """Return the file that holds the chats of an unpacked export; None for any other folder."""
    found = [path for name in _MAIN_FILES if (path := Path(folder) / name).is_file()]
    return found[0] if len(found) == 1 else None


def chats_of_folder(folder: FilePath) -> list[Chat]:
    """Return the chats of an unpacked export of Slack, one a channel.

    Raises:
        InputError: It is none, holds no message, or a file in it cannot be read.
    """
    channels = slack_channels(folder)
    if channels is None:
        raise InputError(
            f"{folder} is a folder, but no unpacked export of Slack, Telegram, ChatGPT, Claude or WhatsApp. Name a "
            "file of it."
        )
    read = (_read("Slack", channel.read, channel.item) for channel in channels)
    chats = [chat for chat in read if chat.messages]
    if not chats:
        raise InputError(f"{folder}: no channel of this export of Slack holds a message with text.")
    return chats


def _nothing_of(wanted: str) -> str:
    return f"this is nothing of {EXPORTS[wanted]}, but the format {wanted!r} was given. Leave the format out."


def _read(name: str, read: Callable[[Any], Chat], item: Item) -> Chat:
    """Return the chat of a program in a value, every message of which can be read."""
    try:
        chat = read(item.value)
        for index, message in enumerate(chat.messages):
            as_message(message, f"{item.where}, a chat of {name}: message {index}")
    except InputTypeError as error:  # in a file every fault is one of its content
        raise InputError(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{item.where}: this chat of {name} lacks a field, or holds another kind of value in it "
            f"({type(error).__name__}: {error}). Export it again, or leave it out."
        ) from error
    return chat
