"""What is added to a store: texts and messages of every make as turns, checked before anything is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evoemb._errors import InputError, InputTypeError
from evoemb.data.messages import ChatMessage, as_message, is_message
from evoemb.data.turns import items_of_stream, read_turns, turn_of_each
from evoemb.store.times import Instant, instant_of

MAX_CHARS = 2**20
MAX_NAME = 500


@dataclass(frozen=True, slots=True)
class Piece:
    """One text or message that was handed in."""

    content: str | ChatMessage
    time: Instant | None
    metadata: dict[str, Any]
    key: str | None


@dataclass(slots=True)
class NewTurn:
    """A turn that is to be added.

    Args:
        text: What the model reads.
        said: While an answer may come: its lines that say something.
        continues: Whether it belongs to an unanswered turn before it.
        lines: The lines of its messages that say something.
    """

    text: str
    said: str | None = None
    continues: bool = False
    lines: str | None = None
    role: str = ""
    speaker: str = ""
    time: Instant | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


def pieces_of(
    turns: object,
    time: object = None,
    metadata: Mapping[str, Any] | None = None,
    key: str | Sequence[str] | None = None,
) -> list[Piece]:
    """Check what is to be added.

    Args:
        turns: A text, a message, or a stream of either.
        time: Of all of them; else each message's own.
        metadata: Of all of them.
        key: One for one text or message, or a list with one for each.

    Raises:
        InputError: Something cannot be stored; the text says what and why.
        InputTypeError: It is of another kind.
    """
    alone = isinstance(turns, str) or is_message(turns)
    items: list[Any] = [turns] if alone else items_of_stream(turns)
    if not items:
        raise InputError("There is nothing to add: the stream is empty. Pass at least one turn.")
    about = checked_metadata(metadata)
    given = None if time is None else instant_of(time)
    keys = _keys(key, len(items))
    if not is_message(items[0]):
        texts = [turn.text for turn in read_turns(items)]
        return [
            Piece(_checked(text, f"Turn {place}"), given, about, one)
            for place, (text, one) in enumerate(zip(texts, keys, strict=True))
        ]
    pieces = []
    for place, (item, one) in enumerate(zip(items, keys, strict=True)):
        message = as_message(item, f"Message {place}")
        _checked(message.content, f"Message {place}")
        when, words = (given, {}) if given is not None else _own_time(message)
        pieces.append(Piece(message, when, {**words, **about}, one))
    return pieces


def turns_of(pieces: Sequence[Piece]) -> list[NewTurn]:
    """Pair messages into turns, as reading them as a stream does; texts are turns as they are."""
    if not isinstance(pieces[0].content, ChatMessage):
        return [
            NewTurn(str(piece.content), time=piece.time, metadata=piece.metadata, keys=_known(piece))
            for piece in pieces
        ]
    messages: list[Any] = [piece.content for piece in pieces]
    turns = [
        NewTurn(turn.text, turn.said if turn.is_unanswered else None, turn.is_continuation, turn.said)
        for turn in read_turns(messages)
    ]
    seen: set[int] = set()
    for number, piece in zip(turn_of_each(messages), pieces, strict=True):
        turn, message = turns[number], piece.content
        if number not in seen and isinstance(message, ChatMessage):
            turn.role, turn.speaker, turn.time = message.role, message.speaker, piece.time
            seen.add(number)
        turn.metadata = {**turn.metadata, **piece.metadata}
        turn.keys += _known(piece)
    return turns


def checked_name(value: object, what: str) -> str:
    """Return a name of a stream, a user, a tenant or a snapshot, or a key.

    Raises:
        InputError: It is empty or too long.
        InputTypeError: It is no text.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{what} is {type(value).__name__}, expected a text.")
    if not value or len(value) > MAX_NAME or "\0" in value:
        raise InputError(f"{what} is {value!r:.40}, expected a text of 1 to {MAX_NAME} characters without NUL.")
    return value


def checked_metadata(value: Mapping[str, Any] | None, name: str = "metadata") -> dict[str, Any]:
    """Return metadata as JSON keeps it.

    Args:
        name: What errors call it.

    Raises:
        InputError: It holds NaN or what JSON does not know.
        InputTypeError: It is no mapping.
    """
    if value is None:
        return {}
    given: object = value  # whatever its type says
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given):
        raise InputTypeError(f"{name} is {value!r:.60}, expected a dict with texts as keys.")
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be kept as JSON: {error}. Use texts, numbers, lists and dicts.") from error
    return found


def _keys(key: str | Sequence[str] | None, count: int) -> list[str | None]:
    if key is None:
        return [None] * count
    keys = [key] if isinstance(key, str) else list(key)
    if len(keys) != count:
        raise InputError(f"{len(keys)} keys were given for {count} turns or messages. Pass one for each.")
    checked = [checked_name(one, "key") for one in keys]
    if len(set(checked)) != count:
        raise InputError("The same key was given twice in one call. A key stands for one message.")
    return list(checked)


def _known(piece: Piece) -> list[str]:
    return [] if piece.key is None else [piece.key]


def _own_time(message: ChatMessage) -> tuple[Instant | None, dict[str, Any]]:
    """Return a message's time; in its own words, as metadata, where they are no time that can be ordered."""
    if not message.time:
        return None, {}
    try:
        seconds = float(message.time)
    except ValueError:
        seconds = None
    try:
        return instant_of(message.time if seconds is None else seconds), {}
    except InputError:
        return None, {"time": message.time}


def _checked(text: str, where: str) -> str:
    if len(text) > MAX_CHARS:
        raise InputError(f"{where} has {len(text):,} characters, and a turn may have {MAX_CHARS:,}. Cut it into turns.")
    if "\0" in text:
        raise InputError(f"{where} holds a NUL character, which no database keeps. Remove it.")
    return text
