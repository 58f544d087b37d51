"""The two questions a model asks of the recurrence: read these turns, and encode these texts on that memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from evoemb.state.memory import StreamMemory
from evoemb.streaming import by_block, by_segment
from evoemb.streaming.rows import Emitted, Limits, Row, Stack, TokenIds, continuing_reader, embed_rows


def advance(
    stack: Stack,
    memories: list[StreamMemory],
    streams: Sequence[Sequence[TokenIds]],
    limits: Limits,
    *,
    embed: bool = True,
    texts: Sequence[Sequence[TokenIds]] | None = None,
) -> Iterator[Emitted]:
    """Read the next turns of several streams side by side and, if ``embed``, encode each on the memory before it.

    Args:
        memories: One a stream; replaced in this list as turns are read, never changed themselves.
        streams: New turns of each stream, as token ids; a stream may have none.
        texts: Token ids that are encoded for each turn, where they differ from those written to memory; only for
            readers that write in segments.

    Yields:
        Every turn once, in an order that is convenient; ``memories`` is complete when all were yielded.
    """
    if not any(streams):
        return
    reader = stack.transformer.reader.segments
    if reader is None:
        yield from by_block.advance(stack, memories, streams, limits, embed=embed)
    else:
        yield from by_segment.advance(stack, reader, memories, streams, limits, embed=embed, texts=texts)


def read(
    stack: Stack, memories: Sequence[StreamMemory], texts: Sequence[Sequence[TokenIds]], limits: Limits
) -> list[list[Tensor]]:
    """Encode texts on finished memories, ``texts[i]`` on ``memories[i]``; nothing is written.

    Returns:
        One embedding ``(D,)`` a text, in the order given.
    """
    queue = stack.queue
    rows: list[Row] = []
    continues = continuing_reader(stack) is not None
    for memory, batch in zip(memories, texts, strict=True):
        live = memory.live if continues else None
        readable = None if live is None else live.readable
        if readable is None:
            readable = queue.read(memory.queue(queue.capacity_latents))
            if live is not None:
                live.keep_readable(readable)
        rows += [Row(ids, readable, readable.shape[0], live) for ids in batch]
    embeddings = iter(embed_rows(stack, rows, limits))
    return [[next(embeddings) for _ in batch] for batch in texts]
