"""Rows of a prefix reader: what each position is, its place and the mask over it. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# What a position of a row is.
PADDING, MEMORY, TEXT, QUERY = range(4)


def kinds_of(device: torch.device, *, memory: int = 0, tokens: int = 0, queries: int = 0) -> Tensor:
    """Say what each position of a row is: so many of memory, then of text, then of queries."""
    counts = ((MEMORY, memory), (TEXT, tokens), (QUERY, queries))
    return torch.cat([torch.full((count,), kind, device=device) for kind, count in counts])


def pad_left(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows ``(L_i, ...)`` to ``(N, max L, ...)`` with zeros on the left."""
    longest = max(row.shape[0] for row in rows)
    return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (longest - row.shape[0], 0)) for row in rows])


def pad_right(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows ``(L_i, ...)`` to ``(N, max L, ...)`` with zeros on the right."""
    longest = max(row.shape[0] for row in rows)
    return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (0, longest - row.shape[0])) for row in rows])


def query_places(kinds: Tensor) -> Tensor:
    """Return where the queries of each row stand, ``(N, S)`` in order; shorter rows are filled up with other places."""
    queries = (kinds == QUERY).int()
    widest = int(queries.sum(-1).max())
    return queries.argsort(dim=-1, descending=True, stable=True)[:, :widest]


def running_positions(kinds: Tensor) -> Tensor:
    """Count positions over real rows ``(N, L)``; padding gets 1, which nobody sees."""
    return ((kinds != PADDING).long().cumsum(-1) - 1).masked_fill(kinds == PADDING, 1)


def text_positions(kinds: Tensor, first: int) -> Tensor:
    """Count positions over text only, from ``first``; memory and queries share the first one.

    Tables of absolute positions are short (512), and a text keeps the positions it has alone.
    """
    text = kinds == TEXT
    return (text.long().cumsum(-1) - 1).clamp(min=0).masked_fill(~text, 0) + first


def full_mask(kinds: Tensor, gate_bias: Tensor | None, dtype: torch.dtype, *, causal: bool) -> Tensor:
    """Build the additive mask ``(N, 1, L, L)`` over whole rows; memory columns carry the gate's bias."""
    length = kinds.shape[1]
    allowed = (kinds != PADDING)[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=kinds.device).tril()
    return _additive(allowed, (kinds == MEMORY)[:, None, None, :], gate_bias, dtype)


def continued_mask(
    kinds: Tensor, past_rows: Tensor, past_memory: Tensor, past_width: int, gate_bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Build the additive mask ``(N, 1, L, P + L)`` of causal rows that continue a past of width ``P``.

    Args:
        kinds: What each new position is ``(N, L)``, padded on the right.
        past_rows: How many rows of its past each row sees, ``(N,)``.
        past_memory: How many of them are memory, ``(N,)``.
    """
    length = kinds.shape[1]
    columns = torch.arange(past_width, device=kinds.device)
    sees_past = (columns < past_rows[:, None])[:, None, None, :].expand(-1, 1, length, -1)
    own = torch.ones(length, length, dtype=torch.bool, device=kinds.device).tril().expand(len(kinds), 1, -1, -1)
    is_memory = torch.cat((columns < past_memory[:, None], kinds == MEMORY), dim=-1)[:, None, None, :]
    return _additive(torch.cat((sees_past, own), dim=-1), is_memory, gate_bias, dtype)


def _additive(allowed: Tensor, is_memory: Tensor, gate_bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    blocked = torch.finfo(dtype).min
    if gate_bias is None:
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, blocked)
    bias = torch.where(is_memory, gate_bias.to(dtype), torch.zeros((), dtype=dtype, device=allowed.device))
    return bias.expand(allowed.shape).masked_fill(~allowed, blocked)
