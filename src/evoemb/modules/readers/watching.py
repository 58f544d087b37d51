"""Where texts look in memory: what an attention reader gives to those who watch it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evoemb.modules.backbones.family import Heads
from evoemb.modules.readers.windows import Queue, Window


class MemoryAttention(NamedTuple):
    """How a batch of ``n`` rows attended to the memory in one layer.

    Args:
        layer: Memory layer, from 0.
        of_latents: True for what the query tokens look at (their states become the turn's latents), False for the
            text's tokens.
        token_ids: The rows' texts. A text and how many turns it saw tell which row it was, unless both came twice.
        turns: How many turns of the memory each row saw.
        weights: ``(n, heads, turns)``, mean over a row's tokens: the share that each turn has of the attention paid to
            the memory, the newest turn last; a row's weights add up to 1 over the turns it saw.
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

    def note(
        self,
        layer: int,
        texts: Sequence[tuple[int, ...]],
        tokens: Tensor | None,
        queries: Heads,
        queue: Queue,
        window: Window,
        num_latents: int,
    ) -> None:
        """Note how the rows' queries attend to what they see.

        Args:
            layer: Memory layer, from 0.
            texts: The rows' token ids.
            tokens: Which queries are tokens of the text, ``(n, T)``; None: they are the query tokens beside it.
            queries: Of the same rows.
            queue: The layer's.
            window: What the rows see of it.
            num_latents: Slots of a turn.
        """
        rows = [row for row, ids in enumerate(texts) if ids in self.texts]
        if not rows:
            return
        query, places, valid = queries.free_query[rows], window.places[rows], window.valid[rows]
        key = queue.key.transpose(1, 2).flatten(0, 1)[places].transpose(1, 2)
        weights = attention_by_age(query, key, queue.by_age(query, places.shape[1]), valid, num_latents)
        share = query.new_ones(query.shape[0], query.shape[2]) if tokens is None else tokens[rows].to(query.dtype)
        weights = (weights * share[:, None, :, None]).sum(2) / share.sum(-1)[:, None, None]
        turns = (valid.sum(-1) / num_latents).ceil().long()
        self.found.append(MemoryAttention(layer, tokens is None, [texts[row] for row in rows], turns.tolist(), weights))


def attention_by_age(query: Tensor, key: Tensor, added: Tensor, valid: Tensor, num_latents: int) -> Tensor:
    """Return the softmax over the memory alone, a turn's latents taken together.

    Args:
        query: ``(n, heads, T, d)``.
        key: ``(n or 1, heads, W, d)``, oldest slot first.
        added: What age adds to the scores, ``(n, heads, T, W)``.
        valid: Which slots hold, ``(n or 1, W)``.
        num_latents: Slots of a turn; of the oldest turn there may be fewer.

    Returns:
        ``(n, heads, T, turns)``; zero for rows that see nothing.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + added
    holds = valid[:, None, None, :]
    weights = scores.masked_fill(~holds, torch.finfo(scores.dtype).min).softmax(-1) * holds
    whole = F.pad(weights, (-weights.shape[-1] % num_latents, 0))
    by_age: Tensor = whole.unflatten(-1, (-1, num_latents)).sum(-1)
    return by_age


__all__ = ["MemoryAttention", "Watch", "attention_by_age"]
