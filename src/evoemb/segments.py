"""Packing turns into segments: which consecutive turns one memory forward reads together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evoemb._errors import InputError


@dataclass(frozen=True, slots=True)
class Segment:
    """Turns ``start`` to ``stop`` (exclusive) of a stream, counted from the first turn of the call.

    ``continues`` says that the segment was opened by an earlier call: its first turns lie in the carried memory.
    """

    start: int
    stop: int
    continues: bool


@dataclass(frozen=True, slots=True)
class SegmentPolicy:
    """When a segment is full. The limits change the latents, so they belong to the model and are saved with it.

    Args:
        max_turns: Turns a segment holds at most (upstream: 16).
        max_tokens: Sum of the turns' token counts a segment holds at most (upstream: 2048). Memory queries and queued
            latents do not count, and the first turn of a segment is always taken, however long it is.

    Source: EvoEmbedding (arXiv 2606.21649), segment batching; upstream's ``chunk_target_tokens`` and 16 turns.
    """

    max_turns: int = 16
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        """Refuse limits that no turn could meet."""
        if self.max_turns < 1 or self.max_tokens < 1:
            raise InputError(
                f"A segment needs room for at least one turn and one token, but max_turns={self.max_turns} and "
                f"max_tokens={self.max_tokens} were given. Use 1 or more for both."
            )

    def group(self, turn_lengths: Sequence[int], open_lengths: Sequence[int] = ()) -> list[Segment]:
        """Group turns greedily. The result for a turn depends on the turns up to it only, so reading can resume.

        Args:
            turn_lengths: Token count of each new turn.
            open_lengths: Token counts of the turns that an earlier call left in an open segment.

        Returns:
            Segments in order. They cover every new turn exactly once; the first ``continues`` the open one if it fits.
        """
        segments: list[Segment] = []
        start, turns, tokens = 0, len(open_lengths), sum(open_lengths)
        for index, length in enumerate(turn_lengths):
            if turns and (turns >= self.max_turns or tokens + length > self.max_tokens):
                if index > start:
                    segments.append(Segment(start, index, continues=turns > index - start))
                start, turns, tokens = index, 0, 0
            turns += 1
            tokens += length
        if len(turn_lengths) > start:
            segments.append(Segment(start, len(turn_lengths), continues=turns > len(turn_lengths) - start))
        return segments
