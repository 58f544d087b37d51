"""Batches of streams of like length under a token budget."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from evoemb._errors import InputError


class TokenBudgetBatchSampler(DefaultBatchSampler):
    """Put streams of like length together, with a limit on their tokens, in another order every epoch.

    In training on several processes, consecutive batches of like length go to the processes of one step, and the last
    incomplete step is left out, so that no process waits for another.

    Pass it to the trainer as ``batch_sampler=functools.partial(TokenBudgetBatchSampler, lengths=..., max_tokens=...)``,
    or give :class:`EvoEmbeddingTrainingArguments` ``max_batch_tokens``.

    Args:
        dataset: Rows; only their number is used.
        batch_size: Streams a batch at most.
        lengths: Tokens of each row.
        max_tokens: Tokens a batch at most; a longer stream is a batch of its own.
        num_processes: Processes that share the batches; None asks ``WORLD_SIZE``.
        seed: Of the order.
        **kwargs: What the trainer passes beside; not used.

    Raises:
        InputError: Not one length a row.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        lengths: Sequence[int],
        max_tokens: int,
        num_processes: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if len(lengths) != len(dataset):
            raise InputError(f"{len(lengths)} lengths were given for {len(dataset)} rows. Give one a row.")
        super().__init__(dataset, batch_size=batch_size, drop_last=False)
        # Batches differ in size, and accelerate takes batches of another size than this for incomplete ones.
        self.batch_size = None  # type: ignore[assignment]
        self._max_streams = batch_size
        self._lengths = list(lengths)
        self._max_tokens = max_tokens
        self._processes = num_processes or int(os.environ.get("WORLD_SIZE", "1"))
        self._seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        """Yield row numbers, a list for each batch."""
        generator = torch.Generator().manual_seed(self._seed + self.epoch)
        steps = self._steps()
        for index in torch.randperm(len(steps), generator=generator).tolist():
            yield from steps[index]

    def __len__(self) -> int:
        """Count the batches of an epoch, over all processes."""
        return len(self._steps()) * self._processes

    def _steps(self) -> list[list[list[int]]]:
        """Group batches by the step they run in: one a process. The same in every epoch, so its length is known."""
        order = sorted(range(len(self._lengths)), key=lambda row: (self._lengths[row], row))
        batches: list[list[int]] = []
        batch: list[int] = []
        for row in order:
            # Sorted by length: the newest is the longest.
            full = len(batch) >= self._max_streams or (len(batch) + 1) * self._lengths[row] > self._max_tokens
            if batch and full:
                batches.append(batch)
                batch = []
            batch.append(row)
        if batch:
            batches.append(batch)
        whole = len(batches) // self._processes * self._processes
        return [batches[start : start + self._processes] for start in range(0, whole, self._processes)]
