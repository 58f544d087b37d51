"""What texts see of the queue in one layer, and attention over it and their own tokens in one softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evoemb.modules.backbones.family import Heads

# Rows attend in chunks: what is gathered for a chunk stays in a processor's cache, or within a part of a device.
_CACHE_BYTES = 8 << 20
_DEVICE_BYTES = 256 << 20


class Queue(NamedTuple):
    """The queue in one layer, as tensors that gradients go through.

    Keys and values of whole streams, or of one that all rows see, ``(B or 1, heads, latents, d)``. What a latent's age
    adds to a score lies between that of a few ages: for those a bias of each head ``(heads, A)`` and what is added to
    keys ``(heads, A, d)``, and how much of each goes to the slots of a window, ``(W, A)``.
    """

    key: Tensor
    value: Tensor
    age_bias: Tensor
    age_key: Tensor
    age_weight: Tensor

    def by_age(self, query: Tensor, width: int) -> Tensor:
        """Return what age adds to scores of ``query`` ``(n, heads, T, d)`` for the newest slots: ``(.., width)``."""
        at_ages = query @ self.age_key.transpose(-1, -2) * query.shape[-1] ** -0.5 + self.age_bias[:, None]
        scores: Tensor = at_ages @ self.age_weight[self.age_weight.shape[0] - width :].T
        return scores


class Window(NamedTuple):
    """Which slots ``n`` rows see, oldest first.

    Args:
        places: Slots by number, over all streams of the queue, ``(n, W)``; any number where none is seen.
        valid: Which of them hold, ``(n, W)``.
        unseen: How many slots come before the first that holds, by row.
    """

    places: Tensor
    valid: Tensor
    unseen: list[int]

    @classmethod
    def of(cls, places: Tensor, valid: Tensor) -> Window:
        """Count the slots that are not seen: once, as a device waits for it."""
        return cls(places, valid, (valid.cumsum(-1) == 0).sum(-1).tolist())

    def chunks(self, row_bytes: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Cut the rows into chunks, each without the slots that none of its rows sees.

        Args:
            row_bytes: What one row takes while it attends.

        Yields:
            Rows, and their part of ``places`` and ``valid``.
        """
        limit = _CACHE_BYTES if self.places.device.type == "cpu" else _DEVICE_BYTES
        size = max(1, limit // max(1, row_bytes))
        for start in range(0, len(self.unseen), size):
            rows = slice(start, start + size)
            first = min(self.unseen[rows])
            yield rows, self.places[rows, first:], self.valid[rows, first:]


def attend(
    queries: Heads, keys: Heads, mask: Tensor, queue: Queue | None, window: Window, *, dropout: float = 0.0
) -> Tensor:
    """Attend to ``keys`` where ``mask`` allows, and to the memory without positions, in one softmax.

    Args:
        queries: Of ``n`` rows, ``(n, heads, T, d)``.
        keys: Of their own tokens, ``(n, heads, T, d)``.
        mask: Which of those they see, ``(n, 1, T, T)``.
        queue: None without a memory.
        window: What the rows see of the queue.
        dropout: Of the attention's weights.

    Returns:
        Attended values ``(n, heads, T, d)``.
    """
    scale = queries.query.shape[-1] ** -0.5
    if queue is None:
        return F.scaled_dot_product_attention(
            queries.query, keys.key, keys.value, attn_mask=mask, dropout_p=dropout, scale=scale
        )
    query, key, memory_key = queries.query, keys.key, queue.key
    if queries.free_query is not query:
        # Memory has no positions but text has: score the two parts in separate halves of a doubled head.
        size = query.shape[-1]
        query = torch.cat((queries.free_query, query), dim=-1)
        key, memory_key = F.pad(key, (size, 0)), F.pad(memory_key, (0, size))
    # A row's keys are named by number in one pool of all slots and all tokens, and gathered in one go.
    pools = [torch.cat((_flat(memory), _flat(own))) for memory, own in ((memory_key, key), (queue.value, keys.value))]
    slots, (rows, heads, length), own_length = queue.key.shape[0] * queue.key.shape[2], query.shape[:3], key.shape[2]
    tokens = torch.arange(slots, slots + rows * own_length, device=key.device).view(rows, own_length)
    most = window.places.shape[1] + own_length
    row_bytes = most * (sum(pool.shape[-1] for pool in pools) + heads * length) * query.element_size()
    attended: list[Tensor] = []
    for chunk, places, valid in window.chunks(row_bytes):
        numbers = torch.cat((places, tokens[chunk]), dim=1)
        gathered_key, gathered_value = (
            pool.index_select(0, numbers.flatten()).view(*numbers.shape, heads, -1).transpose(1, 2) for pool in pools
        )
        allowed = torch.cat((valid[:, None, None, :].expand(-1, 1, length, -1), mask[chunk]), dim=-1)
        by_age = queue.by_age(queries.free_query[chunk], places.shape[1])
        attended.append(
            F.scaled_dot_product_attention(
                query[chunk],
                gathered_key,
                gathered_value,
                attn_mask=_added(by_age, allowed),
                dropout_p=dropout,
                scale=scale,
            )
        )
    return torch.cat(attended)


def _added(by_age: Tensor, allowed: Tensor) -> Tensor:
    """Return what is added to scores: by age in memory, and what keeps tokens from what they do not see.

    Args:
        by_age: ``(n, heads, T, W)``.
        allowed: For all heads alike, of memory and own tokens, ``(n, 1, T, W + T)``.

    Returns:
        ``(n, heads, T, W + T)``.
    """
    # Filled in once for all heads: with a mask that is spread over them, filling takes several times as long as adding.
    hides = by_age.new_zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(by_age.dtype).min)
    memory, own = hides.split((by_age.shape[-1], hides.shape[-1] - by_age.shape[-1]), dim=-1)
    return torch.cat((by_age + memory, own.expand(-1, by_age.shape[1], -1, -1)), dim=-1)


def _flat(heads: Tensor) -> Tensor:
    """Reshape ``(N, heads, T, d)`` to one row a token, ``(N * T, heads * d)``."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)
