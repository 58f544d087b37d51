"""Streams through a prefix reader: segments written one after another, turns read against their own windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evoemb.modules.readers.prefix import SegmentRow
from evoemb.segments import Segment, SegmentPolicy
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.rows import Limits, Row, Stack, TokenIds, embed_rows


class Emitted(NamedTuple):
    """The embedding ``(D,)`` of turn ``turn`` of stream ``stream``; None where no embedding was asked for."""

    stream: int
    turn: int
    embedding: Tensor | None


class _Waiting(NamedTuple):
    stream: int
    turn: int
    row: Row


def advance(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    limits: Limits,
    *,
    embed: bool,
    texts: Sequence[Sequence[TokenIds]] | None = None,
) -> Iterator[Emitted]:
    """Read the next turns of several streams side by side, one segment of each stream a step.

    Args:
        memories: One a stream; replaced in this list as segments are read, never changed themselves.
        streams: New turns of each stream, as token ids.
        embed: Whether turns are encoded too; each sees the memory before it.
        texts: What is encoded for each turn, where that is not the text written to memory.

    Yields:
        Every turn once: a stream's segments in order, the turns of a batch in any order.
    """
    config = stack.transformer.memory_config
    texts = streams if texts is None else texts
    policy = SegmentPolicy(config.segment_turns, config.segment_tokens)
    plans = [
        policy.group([len(ids) for ids in turns], [len(ids) for ids in memory.open_turns])
        for turns, memory in zip(streams, memories, strict=True)
    ]
    for step in range(max(len(plan) for plan in plans)):
        waiting: list[_Waiting] = []
        active = [index for index, plan in enumerate(plans) if step < len(plan)]
        sizes = [_segment_length(stack, memories[i], streams[i], plans[i][step]) for i in active]
        for batch in limits.batches(sizes):
            chosen = [active[position] for position in batch]
            written = _write(stack, memories, streams, {index: plans[index][step] for index in chosen})
            for index, fresh in zip(chosen, written, strict=True):
                segment = plans[index][step]
                memories[index], windows = _push(stack, memories[index], streams[index], segment, fresh, policy)
                rows = zip(range(segment.start, segment.stop), windows, strict=True)
                waiting += [_Waiting(index, turn, Row(texts[index][turn], window)) for turn, window in rows]
        embeddings: Sequence[Tensor | None] = [None] * len(waiting)
        if embed:
            embeddings = embed_rows(stack, [item.row for item in waiting], limits)
        for item, embedding in zip(waiting, embeddings, strict=True):
            yield Emitted(item.stream, item.turn, embedding)


def _write(
    stack: Stack, memories: list[StreamMemory], streams: Sequence[Sequence[TokenIds]], segments: dict[int, Segment]
) -> list[Tensor]:
    """Run one memory forward over a segment of each stream and give the new turns' latents, ``(J * K, S)`` each."""
    queue, rows = stack.queue, []
    for index, segment in segments.items():
        memory = memories[index]
        turns = [*(memory.open_turns if segment.continues else ()), *streams[index][segment.start : segment.stop]]
        ids = [torch.as_tensor(turn, device=stack.device) for turn in turns]
        rows.append(SegmentRow(queue.read(_start_of(stack, memory, segment)), ids))
    states = stack.transformer.reader.write(rows)  # type: ignore[operator]
    counts = [(segment.stop - segment.start) * queue.num_latents for segment in segments.values()]
    return [queue.write(state[-count:]) for state, count in zip(states, counts, strict=True)]


def _push(
    stack: Stack,
    memory: StreamMemory,
    turns: Sequence[TokenIds],
    segment: Segment,
    fresh: Tensor,
    policy: SegmentPolicy,
) -> tuple[StreamMemory, list[Tensor]]:
    """Push a segment's new latents; give the memory after it and the window each new turn sees."""
    queue = stack.queue
    before = memory.latents if segment.continues else memory.queue(queue.capacity_latents)
    latents = torch.cat((before, fresh.to(before.dtype)))
    readable = queue.read(latents)
    ends = [before.shape[0] + number * queue.num_latents for number in range(segment.stop - segment.start)]
    windows = [queue.keep(readable[:end]) for end in ends]
    new = tuple(tuple(turn) for turn in turns[segment.start : segment.stop])
    open_turns = (*(memory.open_turns if segment.continues else ()), *new)
    full = len(open_turns) >= policy.max_turns or sum(len(turn) for turn in open_turns) >= policy.max_tokens
    after = StreamMemory(
        queue.keep(latents) if full else latents, memory.num_turns + len(new), () if full else open_turns
    )
    return after, windows


def _start_of(stack: Stack, memory: StreamMemory, segment: Segment) -> Tensor:
    """Give the stored latents a segment begins with."""
    if segment.continues:
        return memory.before_open_segment(stack.queue.num_latents)
    return memory.queue(stack.queue.capacity_latents)


def _segment_length(stack: Stack, memory: StreamMemory, turns: Sequence[TokenIds], segment: Segment) -> int:
    """Count the rows of one memory forward: queue, turns and queries."""
    texts = [*(memory.open_turns if segment.continues else ()), *turns[segment.start : segment.stop]]
    return _start_of(stack, memory, segment).shape[0] + sum(len(ids) + stack.queue.num_latents for ids in texts)
