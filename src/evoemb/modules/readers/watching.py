"""Where texts look in memory: what an attention reader gives to those who watch it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MemoryAttention(NamedTuple):
    """How a batch of ``n`` rows attended to the memory in one layer.

    Args:
        layer: Memory layer, from 0.
        of_latents: Whether the query tokens looked, whose states become the turn's latents, and not the text's tokens.
        token_ids: The rows' texts. A text and how many turns it saw tell which row it was, unless both came twice.
        turns: How many turns of the memory each row saw.
        weights: ``(n, heads, A)``, mean over a row's tokens: the share that each turn has of the attention paid to the
            memory, the newest turn last; a row's weights add up to 1 over the turns it saw.
    """

    layer: int
    of_latents: bool
    token_ids: list[tuple[int, ...]]
    turns: list[int]
    weights: Tensor


@dataclass(slots=True)
class Watch:
    """Which texts are watched, as token ids, and what was found."""

    texts: Collection[tuple[int, ...]]
    found: list[MemoryAttention] = field(default_factory=list)


def attention_by_age(query: Tensor, key: Tensor, bias: Tensor, valid: Tensor, num_latents: int) -> Tensor:
    """Give the softmax over the memory alone, a turn's latents taken together.

    Args:
        query: ``(n, heads, T, d)``.
        key: ``(n or 1, heads, W, d)``, oldest slot first.
        bias: ``(heads, W)``.
        valid: Which slots hold, ``(n or 1, W)``.
        num_latents: Slots of a turn; of the oldest turn there may be fewer.

    Returns:
        ``(n, heads, T, A)`` for ``A`` turns; zero for rows that see nothing.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias[None, :, None, :]
    holds = valid[:, None, None, :]
    weights = scores.masked_fill(~holds, torch.finfo(scores.dtype).min).softmax(-1) * holds
    whole = F.pad(weights, (-weights.shape[-1] % num_latents, 0))
    by_age: Tensor = whole.unflatten(-1, (-1, num_latents)).sum(-1)
    return by_age


__all__ = ["MemoryAttention", "Watch", "attention_by_age"]
