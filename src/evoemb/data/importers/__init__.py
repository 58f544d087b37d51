"""Exports of other programs, recognised by their content and read into chats."""

from __future__ import annotations

from collections.abc import Sequence

from evoemb._errors import InputError, InputTypeError
from evoemb.data.files import Item
from evoemb.data.importers.chat import Chat, Importer
from evoemb.data.importers.programs import IMPORTERS, unpacked
from evoemb.data.importers.texts import TEXT_IMPORTERS
from evoemb.data.messages import as_message

__all__ = ["KNOWN", "Chat", "chats_of_json", "chats_of_text"]

KNOWN = ", ".join(importer.name for importer in (*IMPORTERS, *TEXT_IMPORTERS))
"""The names of all exports that can be read."""


def chats_of_json(items: Sequence[Item]) -> list[Chat] | None:
    """Return the chats that a file's JSON values are, without empty ones, or None if no importer knows them.

    Raises:
        InputError: An importer knows the first value, but cannot read it or another one, or no chat holds a message.
    """
    items = unpacked(items)
    importer = next((one for one in IMPORTERS if items and one.matches(items[0].value)), None)
    if importer is None:
        return None
    for value, where in items:
        if not importer.matches(value):
            raise InputError(
                f"{where}: this is nothing of {importer.name}, but {items[0].where} is. Split the file, or repair it."
            )
    if importer.whole:
        name = items[0].where.rsplit(",", 1)[0]
        items = [Item([item.value for item in items], name)]
    chats = [chat for chat in (_read(importer, item) for item in items) if chat.messages]
    if not chats:
        raise InputError(f"{items[0].where}: no chat of this file of {importer.name} holds a message with text.")
    return chats


def chats_of_text(text: str) -> list[Chat] | None:
    """Return the chat that a text file is, or None for any other text."""
    for importer in TEXT_IMPORTERS:
        if importer.matches(text) and (chat := importer.read(text)).messages:
            return [chat]
    return None


def _read(importer: Importer, item: Item) -> Chat:
    """Return the chat in a value, every message of which can be read."""
    try:
        chat = importer.read(item.value)
        for index, message in enumerate(chat.messages):
            as_message(message, f"{item.where}, a chat of {importer.name}: message {index}")
    except InputTypeError as error:  # in a file every fault is one of its content
        raise InputError(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{item.where}: this chat of {importer.name} lacks a field, or holds another kind of value in it "
            f"({type(error).__name__}: {error}). Export it again, or leave it out."
        ) from error
    return chat
