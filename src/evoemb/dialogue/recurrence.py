"""A dialogue through the recurrence: turns embedded on the memory before them, the query on all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evoemb.dialogue.ids import DialogueIds
from evoemb.stream_memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.rows import Limits, Stack, TokenIds


def embed_dialogue(
    stack: Stack, ids: DialogueIds, memory: StreamMemory, limits: Limits, on_turn: Callable[[], object] = lambda: None
) -> tuple[Tensor, Tensor, StreamMemory]:
    """Embed the turns, each on the memory before it, and the query on all of it.

    Args:
        memory: What the dialogue continues; unchanged.
        on_turn: Called whenever a turn has been read.

    Returns:
        Turns ``(n, D)``, query ``(D,)``, and the memory after the history.
    """
    memories = [memory]
    texts: list[TokenIds] = [*ids.encoded, ids.asked]
    if not ids.is_aligned:
        after = write_turns(stack, ids.written, memory, limits)
        rows = engine.read(stack, [after], [texts], limits)[0]
        return _stacked(rows[:-1], rows[-1]), rows[-1], after
    found: dict[int, Tensor] = {}
    emitted = engine.advance(stack, memories, [ids.written], limits, texts=[ids.encoded])
    for _, turn, embedding in emitted:
        on_turn()
        if embedding is not None:
            found[turn] = embedding
    query = engine.read(stack, memories, [[ids.asked]], limits)[0][0]
    return _stacked([found[turn] for turn in range(len(found))], query), query, memories[0]


def write_turns(stack: Stack, turns: Sequence[TokenIds], memory: StreamMemory, limits: Limits) -> StreamMemory:
    """Read turns into a memory without embedding them; gives the new memory."""
    memories = [memory]
    for _ in engine.advance(stack, memories, [list(turns)], limits, embed=False):
        pass
    return memories[0]


def rank_scores(stack: Stack, ids: DialogueIds, memory: StreamMemory, limits: Limits | None = None) -> Tensor:
    """Score every turn, or candidate, against the query: their cosine, ``(n,)`` float32, in the order given.

    Listwise: a turn sees those before it, and the query sees them all.

    Args:
        ids: From :func:`dialogue_ids` or :func:`candidate_ids`.
        memory: What the turns continue; unchanged.
    """
    turns, query, _ = embed_dialogue(stack, ids, memory, limits or Limits())
    return F.cosine_similarity(turns.float(), query.float(), dim=-1)


def _stacked(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(rows)) if rows else like.new_zeros(0, like.shape[-1])
