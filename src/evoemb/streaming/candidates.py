"""Candidate streams: documents read one after another, then a query that has seen them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.rows import Limits, Stack, TokenIds


class CandidateStream(NamedTuple):
    """One query with its candidates in order, as token ids.

    ``written`` is what enters the memory for each candidate, where that differs from what is encoded.
    """

    query: TokenIds
    candidates: Sequence[TokenIds]
    written: Sequence[TokenIds] | None = None


class CandidateEmbeddings(NamedTuple):
    """Embeddings of one candidate stream: the query ``(D,)`` and its candidates ``(n, D)``."""

    query: Tensor
    candidates: Tensor


def embed_candidates(
    stack: Stack,
    streams: Sequence[CandidateStream],
    memories: Sequence[StreamMemory],
    limits: Limits,
    on_turn: Callable[[], object] = lambda: None,
) -> list[CandidateEmbeddings]:
    """Encode every candidate on the memory before it, and every query on the memory after its candidates.

    Args:
        streams: Candidate streams; they do not see each other.
        memories: What each stream starts from; unchanged.
        on_turn: Called whenever a candidate has been read.
    """
    current = list(memories)
    found: list[dict[int, Tensor]] = [{} for _ in streams]
    turns = [stream.written or stream.candidates for stream in streams]
    texts = [stream.candidates for stream in streams]
    for index, turn, embedding in engine.advance(stack, current, turns, limits, texts=texts):
        on_turn()
        if embedding is not None:
            found[index][turn] = embedding
    queries = engine.read(stack, current, [[stream.query] for stream in streams], limits)
    return [
        CandidateEmbeddings(query[0], stacked([rows[turn] for turn in range(len(rows))], query[0]))
        for query, rows in zip(queries, found, strict=True)
    ]


def stacked(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return rows ``(D,)`` as one tensor ``(n, D)``, also where there are none."""
    return torch.stack(list(rows)) if rows else like.new_zeros(0, like.shape[-1])
