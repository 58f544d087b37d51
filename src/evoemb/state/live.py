"""What is kept beside a memory so that the next step on it is cheap; it can always be computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

#: Upper limits of the keys and values kept for reuse: beside one stream's state, and during one call.
KEPT_BYTES = 256 * 2**20


class Held(Protocol):
    """Something a backbone computed of a memory that makes the next step cheap; it can always be computed again."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@dataclass(slots=True)
class LiveCache:
    """What makes the next step on one memory cheap. It belongs to that memory alone and is never saved.

    Args:
        reading: The queue as texts see it, run as far as it was needed.
        writing: The open segment as the next turn continues it.
        readable: The queue as texts are given it, projected for reading ``(M, S)``.
        limit_bytes: What would make all together larger than this is not kept.
    """

    reading: Any = None
    writing: Any = None
    readable: Tensor | None = None
    limit_bytes: int = KEPT_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(held.nbytes for held in (self.reading, self.writing, self.readable) if held is not None)

    def keep_reading(self, held: Held) -> None:
        """Keep the queue as texts see it, if it is small enough."""
        self.reading = None
        self.reading = held if self.nbytes + held.nbytes <= self.limit_bytes else None

    def keep_writing(self, held: Held) -> None:
        """Keep the open segment, if it is small enough."""
        self.writing = None
        self.writing = held if self.nbytes + held.nbytes <= self.limit_bytes else None

    def keep_readable(self, held: Tensor) -> None:
        """Keep the queue as texts are given it, if it is small enough."""
        self.readable = None
        self.readable = held if self.nbytes + held.nbytes <= self.limit_bytes else None

    def trim(self) -> None:
        """Let go of everything."""
        self.reading = self.writing = self.readable = None
