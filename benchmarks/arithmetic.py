"""What a computation needs at least, in operations, and what the machine does: peaks, clocks and rows that were run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from shapes import Size
from torch import nn


class Run(NamedTuple):
    """A forward of ``own`` new rows behind ``past`` rows that have been run already.

    ``read`` names the own rows whose states are wanted; of the others the last layer needs keys and values only.
    """

    own: int
    past: int = 0
    read: Sequence[int] = ()


def floating_operations(size: Size, runs: Iterable[Run]) -> float:
    """Count multiplications and additions of the layers, adapters merged: no head, no padding, no masked attention."""
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    seen = size.hidden * 2 * keys  # what later rows see of a row
    rest = size.hidden * 2 * queries + 3 * size.hidden * size.intermediate
    total = 0.0
    for own, past, read in runs:
        pairs, last_pairs = own * past + own * (own + 1) / 2, sum(past + row + 1 for row in read)
        total += 2.0 * seen * own * size.layers
        total += 2.0 * rest * (own * (size.layers - 1) + len(read))
        total += 4.0 * queries * (pairs * (size.layers - 1) + last_pairs)
    return total


def rows_of(runs: Iterable[Run]) -> int:
    """Count the rows of a list of runs."""
    return sum(run.own for run in runs)


def build_runs(size: Size, lengths: Sequence[int], segment_turns: int, segment_tokens: int) -> list[Run]:
    """Give the memory forwards of a stream, one a segment."""
    from evoemb.segments import SegmentPolicy

    runs = []
    for segment in SegmentPolicy(segment_turns, segment_tokens).group(lengths):
        own, read = min(size.capacity, segment.start * size.num_latents), list[int]()
        for length in lengths[segment.start : segment.stop]:
            own += length + size.num_latents
            read += range(own - size.num_latents, own)
        runs.append(Run(own, read=read))
    return runs


def read_runs(size: Size, lengths: Sequence[int]) -> list[Run]:
    """Give what every turn on its own memory needs: one nested memory a window, whole rows where windows move."""
    runs, windows = [], dict[int, int]()
    for number, length in enumerate(lengths):
        end = number * size.num_latents
        first = max(0, end - size.capacity)
        windows[first] = max(windows.get(first, 0), end - first)
        runs.append(Run(length, end - first, [length - 1]))
    return [*(Run(rows) for rows in windows.values()), *runs]


@dataclass
class Clock:
    """Seconds of one call: of the processor where one thread does all the work, of the wall otherwise.

    Processor seconds leave out what other programs take from a shared machine.
    """

    device: torch.device
    threads: int

    def __call__(self) -> float:
        """Give the time, after all work handed to an accelerator is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.threads == 1:
            return time.process_time()
        return time.perf_counter()


def peak_operations(clock: Clock, dtype: torch.dtype) -> float:
    """Measure the operations a second of one large matrix product: the best of three."""
    side = 8192 if clock.device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    best = float("inf")
    for _ in range(3):
        start = clock()
        torch.mm(left, right)
        best = min(best, clock() - start)
    return 2.0 * side**3 / best


@dataclass
class Counted:
    """Rows a backbone was given, padding included."""

    rows: int = 0


@contextmanager
def counting_rows(backbone: nn.Module) -> Iterator[Counted]:
    """Count the rows of every forward of ``backbone`` inside the block."""
    counted = Counted()

    def note(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        given = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
        counted.rows += given.shape[0] * given.shape[1]  # type: ignore[attr-defined]

    handle = backbone.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield counted
    finally:
        handle.remove()
