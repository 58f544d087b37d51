"""Streams through an attention reader: blocks of turns, read and written in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from evoemb.modules.stateful_transformer import CARRIED, CARRIED_MASK, LATENTS, ROW_INDEX, ROW_STREAM
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.prefix import Emitted
from evoemb.streaming.rows import Limits, Stack, TokenIds, pad_ids, stack_memories


def advance(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    limits: Limits,
    *,
    embed: bool,
) -> Iterator[Emitted]:
    """Read the next turns of several streams side by side; arguments and yields as for the prefix reader.

    A block holds the next few turns of each stream. How turns fall into blocks changes no number: a layer's latents
    depend on the layers below only, so all turns of a block go through a layer together.
    """
    at = [0] * len(streams)
    while active := [index for index, turns in enumerate(streams) if at[index] < len(turns)]:
        active = active[: limits.batch_size]
        share = max(1, limits.batch_size // len(active))
        rows: list[tuple[int, int]] = []
        longest = 0
        for number in range(share):
            for index in active:
                turn = at[index] + number
                if turn >= len(streams[index]):
                    continue
                longer = max(longest, len(streams[index][turn]) + stack.queue.capacity_latents)
                full = limits.max_tokens is not None and (len(rows) + 1) * longer > limits.max_tokens
                # A stream's rows are taken without gaps: the first round is never cut in the middle of a stream.
                if full and number:
                    break
                rows.append((index, turn))
                longest = longer
            else:
                continue
            break
        yield from _block(stack, memories, streams, rows, embed=embed)
        for index, _ in rows:
            at[index] += 1


def _block(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    rows: Sequence[tuple[int, int]],
    *,
    embed: bool,
) -> Iterator[Emitted]:
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
    for position, (stream, turn) in enumerate(rows):
        yield Emitted(stream, turn, output["sentence_embedding"][position] if embed else None)
