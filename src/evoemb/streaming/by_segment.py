"""Streams through a reader of segments: these are written one by one, turns read against their own windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.readers.base import SegmentReader, SegmentRow
from evoemb.modules.readers.key_values import KeyValues
from evoemb.segments import Segment, SegmentPolicy
from evoemb.state.live import LiveCache
from evoemb.state.memory import StreamMemory
from evoemb.streaming.rows import Emitted, Limits, Row, Stack, TokenIds, embed_rows


class _Waiting(NamedTuple):
    stream: int
    turn: int
    row: Row
    first: int  # of all latents the stream ever gave, the oldest one that the row sees


def advance(
    stack: Stack,
    reader: SegmentReader,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    limits: Limits,
    *,
    embed: bool,
    texts: Sequence[Sequence[TokenIds]] | None = None,
) -> Iterator[Emitted]:
    """Read the next turns of several streams side by side, one segment of each stream a step.

    Args:
        reader: The stack's.
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
    lent = _lend_live(memories, plans)
    waiting: list[_Waiting] = []
    for step in range(max(len(plan) for plan in plans)):
        active = [index for index, plan in enumerate(plans) if step < len(plan)]
        jobs = [_Job(memories[i], streams[i], texts[i], plans[i][step], policy) for i in active]
        lengths = [job.length(stack.queue) for job in jobs]
        written = limits.run(lengths, partial(_write, stack, reader, jobs), stack.device)
        for index, job, one in zip(active, jobs, written, strict=True):
            memories[index], latents, live = _push(stack, job, one)
            if embed:
                _wait(waiting, _rows(stack.queue, index, job, latents, live))
            else:
                yield from (Emitted(index, turn, None) for turn in range(job.segment.start, job.segment.stop))
        # Rows of several segments fill a batch, and share the memory that a later one sees more of.
        if len(waiting) >= limits.rows:
            yield from _embed_waiting(stack, waiting, limits)
            waiting = []
    yield from _embed_waiting(stack, waiting, limits)
    for index in lent:
        memories[index] = memories[index].without_live()


def _lend_live(memories: list[StreamMemory], plans: Sequence[Sequence[Segment]]) -> list[int]:
    """Let streams of several segments keep the queue as texts see it in the course of the call; say which."""
    if torch.is_grad_enabled():
        return []
    lent = [index for index, plan in enumerate(plans) if len(plan) > 1 and memories[index].live is None]
    for index in lent:
        live = LiveCache(limit_bytes=LiveCache().limit_bytes // len(lent))
        memories[index] = replace(memories[index], live=live)
    return lent


def _wait(waiting: list[_Waiting], new: Sequence[_Waiting]) -> None:
    """Add the rows of a segment to those that wait for an embedding.

    Earlier rows that see a beginning of the same window get the newest tensor of it, so that it is run once for all.
    """
    newest = {(item.stream, item.first): item.row for item in new}
    for place, item in enumerate(waiting):
        if row := newest.get((item.stream, item.first)):
            waiting[place] = item._replace(row=item.row._replace(memory=row.memory, live=row.live))
    waiting += new


def _embed_waiting(stack: Stack, waiting: Sequence[_Waiting], limits: Limits) -> Iterator[Emitted]:
    """Encode rows that waited."""
    embeddings = embed_rows(stack, [item.row for item in waiting], limits)
    for item, embedding in zip(waiting, embeddings, strict=True):
        yield Emitted(item.stream, item.turn, embedding)


@dataclass(frozen=True, slots=True)
class _Job:
    """One segment of one stream: the memory before it, what is written and what is encoded."""

    memory: StreamMemory
    stream: Sequence[TokenIds]
    texts: Sequence[TokenIds]
    segment: Segment
    policy: SegmentPolicy

    @property
    def new(self) -> Sequence[TokenIds]:
        """The segment's new turns."""
        return self.stream[self.segment.start : self.segment.stop]

    @property
    def earlier(self) -> tuple[tuple[int, ...], ...]:
        """The turns an earlier call left in the segment."""
        return self.memory.open_turns if self.segment.continues else ()

    @property
    def is_full(self) -> bool:
        """Whether no later turn can join the segment."""
        lengths = [len(turn) for turn in (*self.earlier, *self.new)]
        return len(lengths) >= self.policy.max_turns or sum(lengths) >= self.policy.max_tokens

    @property
    def past(self) -> Any:
        """What was kept of the segment's earlier part, or None."""
        return self.memory.live.writing if self.memory.live and self.segment.continues else None

    def start(self, queue: LatentMemoryQueue) -> Tensor:
        """Return the stored latents the segment begins with."""
        if self.segment.continues:
            return self.memory.before_open_segment(queue.num_latents)
        return self.memory.queue(queue.capacity_latents)

    def length(self, queue: LatentMemoryQueue) -> int:
        """Count the rows of the segment's memory forward: queue, turns and queries."""
        return self.start(queue).shape[0] + sum(len(ids) + queue.num_latents for ids in (*self.earlier, *self.new))

    def keeps_open(self, reader: SegmentReader, queue: LatentMemoryQueue) -> bool:
        """Whether the next call is likely to continue this segment, the reader can, and what it needs has room.

        The room is asked for beforehand: recording the rows of a large backbone takes as much again as keeping them.
        """
        live, last = self.memory.live, self.segment.stop == len(self.stream)
        if live is None or not last or self.is_full or not reader.continues:
            return False
        # What was run of a queue that now moves is let go of, see _live_after.
        moves = self.memory.latents.shape[0] + len(self.new) * queue.num_latents > queue.capacity_latents
        beside = 0 if moves or live.reading is None else live.reading.nbytes
        return beside + reader.kept_bytes(self.length(queue)) <= live.limit_bytes


class _WrittenSegment(NamedTuple):
    """Latents of a segment's new turns ``(turns * K, S)`` and, if it stays open, what continues it."""

    latents: Tensor
    past: KeyValues | None


def _write(stack: Stack, reader: SegmentReader, every: Sequence[_Job], batch: Sequence[int]) -> list[_WrittenSegment]:
    """Run one memory forward over a segment of each stream in a batch of jobs."""
    jobs = [every[position] for position in batch]
    queue = stack.queue
    rows = []
    for job in jobs:
        turns = job.new if job.past is not None else (*job.earlier, *job.new)
        ids = [torch.as_tensor(turn, device=stack.device) for turn in turns]
        memory = job.start(queue)
        rows.append(SegmentRow(queue.read(memory if job.past is None else memory[:0]), ids, job.past))
    keep = [job.keeps_open(reader, queue) for job in jobs]
    written = reader.write(rows, keep=any(keep))
    counts = [len(job.new) * queue.num_latents for job in jobs]
    return [
        _WrittenSegment(queue.write(one.states[-count:]), one.past if wanted else None)
        for wanted, one, count in zip(keep, written, counts, strict=True)
    ]


class _Pushed(NamedTuple):
    """A memory after a segment, its latents before any left ``(latents, S)``, and where they are kept once run."""

    memory: StreamMemory
    latents: Tensor
    live: LiveCache | None


def _push(stack: Stack, job: _Job, written: _WrittenSegment) -> _Pushed:
    """Push a segment's new latents."""
    queue, memory, capacity = stack.queue, job.memory, stack.queue.capacity_latents
    before = memory.latents if job.segment.continues else memory.queue(capacity)
    latents = torch.cat((before, written.latents.to(before.dtype)))
    live = None if memory.live is None else LiveCache(limit_bytes=memory.live.limit_bytes)
    if memory.live is not None and live is not None and memory.latents.shape[0] <= capacity:
        live.reading = memory.live.reading  # the queue still begins where it began
    after = StreamMemory(
        queue.keep(latents) if job.is_full else latents,
        memory.num_turns + len(job.new),
        () if job.is_full else (*job.earlier, *(tuple(turn) for turn in job.new)),
        live=_live_after(live, written.past, latents.shape[0] <= capacity),
    )
    return _Pushed(after, latents, live)


def _rows(queue: LatentMemoryQueue, stream: int, job: _Job, latents: Tensor, live: LiveCache | None) -> list[_Waiting]:
    """Return a row for each new turn of a segment with what it sees of the segment's latents ``(latents, S)``.

    A window holds the newest latents the queue has room for.
    """
    capacity, turn = queue.capacity_latents, job.segment.start
    readable = queue.read(latents)
    gone = (job.memory.num_turns + len(job.new)) * queue.num_latents - latents.shape[0]
    windows: dict[int, Tensor] = {}
    waiting = []
    for number, ids in enumerate(job.texts[turn : job.segment.stop]):
        end = (job.memory.num_turns + number) * queue.num_latents
        first = max(gone, end - capacity)
        # One object for all rows that see it from the same latent on: that is how they are known to share it.
        window = windows.setdefault(first, readable[first - gone :])
        row = Row(ids, window, end - first, live if first == gone else None)
        waiting.append(_Waiting(stream, turn + number, row, first))
    return waiting


def _live_after(rows_live: LiveCache | None, past: KeyValues | None, unmoved: bool) -> LiveCache | None:
    """Return the place where the memory after a segment keeps things.

    While the queue has not moved, this is the place of the rows themselves, because later texts see what they add. Once
    the oldest latents leave, every kept row has another position, so a new, empty place is needed.
    """
    if rows_live is None:
        return None
    live = rows_live if unmoved else LiveCache(limit_bytes=rows_live.limit_bytes)
    if past is not None:
        live.keep_writing(past)
    return live
