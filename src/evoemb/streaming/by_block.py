"""Streams through a reader that writes as it reads: blocks of turns, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from evoemb.modules.readers.features import BUCKETS, CARRIED, CARRIED_MASK, LATENTS, ROW_INDEX, ROW_STREAM
from evoemb.state.memory import StreamMemory
from evoemb.streaming.rows import Emitted, Limits, Stack, TokenIds, pad_ids, stack_memories

# Batches a block holds. In a larger block turns find others of their length, and the carried latents are projected less
# often.
_ROOM = 4


def advance(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    limits: Limits,
    *,
    embed: bool,
) -> Iterator[Emitted]:
    """Read the next turns of several streams side by side; arguments and yields as in ``by_segment.advance``.

    A block holds the next few turns of each stream, in buckets of like length within the limits. How turns fall into
    blocks and buckets changes no number: a layer's latents depend on the layers below only, so a block goes through a
    layer as one.
    """
    at = [0] * len(streams)
    while active := [index for index, turns in enumerate(streams) if at[index] < len(turns)]:
        rows: list[tuple[int, int]] = []
        room = _ROOM * (limits.max_tokens or 0)
        for number in range(max(1, _ROOM * limits.rows // len(active))):
            # A stream's rows come without gaps: in every round each active stream gives its next turn.
            turns = [(index, at[index] + number) for index in active if at[index] + number < len(streams[index])]
            room -= sum(len(streams[index][turn]) + stack.queue.capacity_latents for index, turn in turns)
            if not turns or (number and limits.max_tokens and room < 0):
                break
            rows += turns
        block = partial(_block, stack, memories, streams, rows, limits, embed=embed)
        emitted = limits.attempt(block, min(limits.rows, len(rows)))
        if emitted is None:
            continue
        yield from emitted
        for index, _ in rows:
            at[index] += 1


def _block(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    rows: Sequence[tuple[int, int]],
    limits: Limits,
    *,
    embed: bool,
) -> list[Emitted]:
    """Run one block of (stream, turn) rows and push its latents."""
    queue = stack.queue
    present = sorted({stream for stream, _ in rows})
    first = {stream: min(turn for other, turn in rows if other == stream) for stream in present}
    carried, carried_mask = stack_memories([queue.read(memories[stream].latents) for stream in present])
    input_ids, attention_mask = pad_ids([streams[stream][turn] for stream, turn in rows], stack.device)
    place = {stream: position for position, stream in enumerate(present)}
    features = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        CARRIED: carried,
        CARRIED_MASK: carried_mask,
        BUCKETS: list(limits.batches([len(streams[stream][turn]) + queue.capacity_latents for stream, turn in rows])),
        ROW_STREAM: torch.tensor([place[stream] for stream, _ in rows], device=stack.device),
        ROW_INDEX: torch.tensor([turn - first[stream] for stream, turn in rows], device=stack.device),
    }
    output = stack.run({**features, **stack.extra}) if embed else stack.transformer(features)
    latents = queue.write(output[LATENTS])
    for stream in present:
        mine = [position for position, (other, _) in enumerate(rows) if other == stream]
        memory = memories[stream]
        fresh = latents[mine].flatten(0, 1).to(memory.latents.dtype)
        joined = queue.keep(torch.cat((memory.latents, fresh)))
        memories[stream] = StreamMemory(joined, memory.num_turns + len(mine))
    embeddings = stack.results(output) if embed else [None] * len(rows)
    return [Emitted(stream, turn, embedding) for (stream, turn), embedding in zip(rows, embeddings, strict=True)]
