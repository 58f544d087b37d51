"""What losses need of other training processes: their embeddings, and gradients that are reduced once a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def of_other_processes(embeddings: Tensor) -> Tensor:
    """Return the rows that the other processes hold, in the order of their ranks.

    Every process has to call it, and has to run the backward pass through what comes out, if only at weight 0: both are
    collective. A process's gradients are the sum of what all processes ask of its rows.

    Args:
        embeddings: ``(N, D)``; ``N`` may differ between processes.

    Returns:
        ``(N', D)``; ``(0, D)`` in a single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return embeddings[:0]
    own = torch.tensor([len(embeddings)], device=embeddings.device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    rows = [int(count) for count in counts]
    padded = F.pad(embeddings, (0, 0, 0, max(rows) - len(embeddings)))
    parts = _Gather.apply(padded)  # type: ignore[no-untyped-call]
    others = [
        part[:count] for rank, (part, count) in enumerate(zip(parts, rows, strict=True)) if rank != dist.get_rank()
    ]
    return torch.cat(others)


@contextmanager
def reducing_gradients(model: Any, *, last: bool) -> Iterator[None]:
    """Run one of a batch's several forwards and backwards; DDP and FSDP2 reduce gradients in the last one alone.

    Processes may cut their batches into differing numbers of parts, and would wait for each other at every reduction.
    Where gradients are accumulated, DDP goes on to hold them back, and FSDP2 adds up what is reduced.
    """
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
        yield
    elif hasattr(model, "no_sync") and not last:
        with model.no_sync():
            yield
    else:
        yield


class _Gather(torch.autograd.Function):
    """Gather tensors of one shape; the backward pass adds up, for each process, what all ask of its tensor."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> tuple[Tensor, ...]:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return tuple(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        asked = torch.stack(gradients)  # (processes, N, D)
        dist.all_reduce(asked)
        return asked[dist.get_rank()]
