"""What a store gives back: hits, turns, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


class TurnId(NamedTuple):
    """Where a turn is: the name of its stream and its number there, from 1. A number is never given twice."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn as it lies in a store.

    Args:
        stream: Name of its stream.
        seq: Its number in the stream, from 1. A number is never given twice.
        text: What the model reads.
        time: When it was said, if the caller told; else when it was recorded.
        metadata: As the caller gave it.
        speaker: Who wrote it, as the message named them; ``""`` for a text.
        role: ``"user"``, ``"assistant"``, ... of its first message; ``""`` for a text.
        recorded: When it was added.
        replaces: The turn that it takes the place of, as the caller told; None if none.
        replaced_by: The turns that took its place, oldest first.
        is_stale: Whether it was read with a turn that is forgotten by now, and waits to be read again.
    """

    stream: str
    seq: int
    text: str
    time: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    speaker: str = ""
    role: str = ""
    recorded: datetime | None = None
    replaces: TurnId | None = None
    replaced_by: tuple[TurnId, ...] = ()
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class StoredHit(StoredTurn):
    """A turn that was found. ``score`` is the cosine of query and turn, -1 to 1."""

    score: float = 0.0


class Forgotten(NamedTuple):
    """What was forgotten.

    Args:
        streams: Streams that are gone altogether.
        turns: Turns whose text, vector and latents are gone.
        erased: Whether the database file held nothing of them when the call returned. False where another process was
            reading just then: the file lets go of the rest with its next checkpoint. Always False on a server: its
            files are cleaned by its own VACUUM.
    """

    streams: int
    turns: int
    erased: bool = True


class Counted(NamedTuple):
    """How many streams and turns were written or taken."""

    streams: int
    turns: int


class Difference(NamedTuple):
    """What stands between two moments of a stream: turns only the later one has, and only the earlier one."""

    added: list[StoredTurn]
    removed: list[StoredTurn]
