"""How much one forward holds: two limits that callers set, what suits the device, and what fits its memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from evoemb._errors import InputError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A batch is cut where more than this share of it would be padding ...
_PADDING_SHARE = 0.1
# ... unless another forward costs more: about as many tokens' time goes into starting one.
_FORWARD_TOKENS_CPU = 64
_FORWARD_TOKENS = 4096
# A CPU reads larger forwards from memory instead of its caches: slower a token, not faster.
_CPU_TOKENS_A_THREAD = 1536


@dataclass(slots=True)
class _Fitting:
    """Rows that were found to fit the device's memory in the course of a call; None while nothing else was found."""

    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one forward may hold. Batches change no number, so what is not limited here is chosen for speed.

    Args:
        batch_size: Rows at most.
        max_tokens: Rows times the longest row, memory included, at most; None for no such limit. One row is always
            taken, however long.
    """

    batch_size: int = 32
    max_tokens: int | None = None
    _fitting: _Fitting = field(default_factory=_Fitting, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse limits under which nothing runs."""
        if self.batch_size < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise InputError(
                f"batch_size={self.batch_size} and max_batch_tokens={self.max_tokens} were given. Use 1 or more for "
                "both, or max_batch_tokens=None for no token limit."
            )

    @property
    def rows(self) -> int:
        """Rows of one forward at most, as things stand."""
        return self.batch_size if self._fitting.rows is None else self._fitting.rows

    def batches(self, lengths: Sequence[int], device: torch.device | None = None) -> Iterator[list[int]]:
        """Cut rows into batches of like length: index lists that cover every row once, longest rows first.

        Args:
            device: Where they run, if the batches shall suit it too: little padding, and no more than is fast there.
        """
        most, start = self.max_tokens, None
        if device is not None:
            start = _FORWARD_TOKENS_CPU if device.type == "cpu" else _FORWARD_TOKENS
            if device.type == "cpu":
                fast = _CPU_TOKENS_A_THREAD * torch.get_num_threads()
                most = fast if most is None else min(fast, most)
        batch: list[int] = []
        padding = longest = 0
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            area = (len(batch) + 1) * longest
            added = longest - lengths[index]
            padded = start is not None and padding + added > max(start, _PADDING_SHARE * area)
            if batch and (len(batch) >= self.rows or (most is not None and area > most) or padded):
                yield batch
                batch = []
            if not batch:
                padding, longest, added = 0, lengths[index], 0
            batch.append(index)
            padding += added
        if batch:
            yield batch

    def run(
        self, lengths: Sequence[int], forward: Callable[[list[int]], Iterable[Result]], device: torch.device
    ) -> list[Result]:
        """Call ``forward`` with the batches of :meth:`batches`, and with smaller ones once memory has run out.

        Args:
            forward: Takes the rows of a batch and gives a result for each.

        Returns:
            One result a row, in the order of ``lengths``.
        """
        found: dict[int, Result] = {}
        while waiting := [index for index in range(len(lengths)) if index not in found]:
            for chosen in self.batches([lengths[index] for index in waiting], device):
                batch = [waiting[position] for position in chosen]
                results = self.attempt(partial(forward, batch), len(batch))
                if results is None:
                    break
                found.update(zip(batch, results, strict=True))
        return [found[index] for index in range(len(lengths))]

    def attempt(self, forward: Callable[[], Result], rows: int) -> Result | None:
        """Call ``forward``, which runs ``rows`` rows.

        Returns:
            Its result; None if the device's memory ran out, after which fewer rows are taken for the rest of the call.

        Raises:
            torch.OutOfMemoryError: Memory ran out with a single row.
        """
        try:
            return forward()
        except torch.cuda.OutOfMemoryError:
            if rows <= 1:
                raise
        # Not in the handler: the exception holds what the failed forward had allocated.
        if self._fitting.rows is None:
            logger.warning(
                "A forward of %d rows did not fit the device's memory; this call goes on with fewer. Results are the "
                "same. A smaller batch_size or max_batch_tokens avoids the failed attempt.",
                rows,
            )
        self._fitting.rows = rows // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None
