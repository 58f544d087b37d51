"""Rows of one forward: texts with the memory each of them sees, in batches under two limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.readers.key_values import KeyValues
from evoemb.modules.readers.prefix import PrefixReader
from evoemb.modules.stateful_transformer import MEMORY, MEMORY_MASK, PASTS, SEEN, StatefulTransformer
from evoemb.stream_memory import LiveCache
from evoemb.streaming.limits import Limits as Limits  # of one thought with rows: most callers need both

TokenIds = Sequence[int]


@dataclass(frozen=True, slots=True)
class Stack:
    """What the recurrence needs of a model.

    Args:
        transformer: First module.
        queue: Second module.
        run: The whole stack, features in, features out.
        device: Where the stack runs.
        extra: Features added to every forward, such as the length of a prompt.
    """

    transformer: StatefulTransformer
    queue: LatentMemoryQueue
    run: Callable[[dict[str, Any]], dict[str, Any]]
    device: torch.device
    extra: dict[str, Any]


class Row(NamedTuple):
    """A text and the memory it sees.

    Args:
        ids: Token ids.
        memory: Latents, already projected for reading, ``(L, S)``, newest last. Rows that see the same memory, or
            beginnings of it, share this tensor.
        seen: How many latents of ``memory`` the text sees, from the oldest on.
        live: Where to keep the memory once it has been run, and where it may lie already.
    """

    ids: TokenIds
    memory: Tensor
    seen: int
    live: LiveCache | None = None


def pad_ids(rows: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    """Give ``input_ids`` and ``attention_mask``, both ``(N, T)``, padded on the right with id 0."""
    longest = max(len(ids) for ids in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, ids in enumerate(rows):
        input_ids[index, : len(ids)] = torch.as_tensor(ids)
        mask[index, : len(ids)] = 1
    return input_ids.to(device), mask.to(device)


def stack_memories(memories: Sequence[Tensor], *, share: bool = False) -> tuple[Tensor, Tensor]:
    """Stack memories ``(M_i, S)`` to ``(N, max M, S)``, newest last, with their mask.

    With ``share``, one tensor that all rows see stays one: ``(1, M, S)``.
    """
    if share and all(memory is memories[0] for memory in memories):
        shared = memories[0].unsqueeze(0)
        return shared, torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)
    longest = max(memory.shape[0] for memory in memories)
    padded = [torch.nn.functional.pad(memory, (0, 0, longest - memory.shape[0], 0)) for memory in memories]
    held = torch.tensor([memory.shape[0] for memory in memories], device=memories[0].device)
    mask = torch.arange(longest, device=held.device) >= longest - held[:, None]
    return torch.stack(padded), mask


def embed_rows(stack: Stack, rows: Sequence[Row], limits: Limits) -> list[Tensor]:
    """Encode texts against their memories; rows do not see each other.

    Texts that share a memory run it once, where the reader can continue it; the others run it in their own row.

    Returns:
        One embedding ``(D,)`` a row, in the order given.
    """
    pasts = _run_shared_memories(stack, rows, limits)
    alone = [index for index in range(len(rows)) if index not in pasts]
    continued = sorted(pasts)

    def run_alone(chosen: Sequence[int]) -> Tensor:
        batch = [rows[alone[position]] for position in chosen]
        memory, memory_mask = stack_memories([_visible(row) for row in batch], share=True)
        return _embed(stack, batch, {MEMORY: memory, MEMORY_MASK: memory_mask})

    def run_continued(chosen: Sequence[int]) -> Tensor:
        batch = [rows[continued[position]] for position in chosen]
        behind = [pasts[continued[position]] for position in chosen]
        shared = behind[:1] if all(past is behind[0] for past in behind) else behind
        return _embed(stack, batch, {PASTS: shared, SEEN: [row.seen for row in batch]})

    found = dict(
        zip(alone, limits.run([len(rows[i].ids) + rows[i].seen for i in alone], run_alone, stack.device), strict=True)
    )
    found.update(
        zip(continued, limits.run([len(rows[i].ids) for i in continued], run_continued, stack.device), strict=True)
    )
    return [found[index] for index in range(len(rows))]


def _embed(stack: Stack, rows: Sequence[Row], memory: dict[str, Any]) -> Tensor:
    """Run one batch through the stack and give its embeddings ``(N, D)``."""
    input_ids, attention_mask = pad_ids([row.ids for row in rows], stack.device)
    features = {"input_ids": input_ids, "attention_mask": attention_mask, **memory, **stack.extra}
    embeddings: Tensor = stack.run(features)["sentence_embedding"]
    return embeddings


def continuing_reader(stack: Stack) -> PrefixReader | None:
    """Give the reader, if a memory that it has run once serves several texts."""
    reader = stack.transformer.reader
    return reader if isinstance(reader, PrefixReader) and reader.continues else None


def _run_shared_memories(stack: Stack, rows: Sequence[Row], limits: Limits) -> dict[int, KeyValues]:
    """Run every memory that more than one text sees, or that is kept for later texts; several in one forward.

    Returns:
        What each such row continues, by its index.
    """
    reader = continuing_reader(stack)
    if reader is None:
        return {}
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if row.seen:
            groups.setdefault(id(row.memory), []).append(index)
    shared = [members for members in groups.values() if len(members) > 1 or rows[members[0]].live is not None]
    if not reader.sees_beginnings:
        pasts: dict[int, KeyValues] = {}
        for members in shared:
            found = _run_beginnings(reader, [rows[index] for index in members], stack.device)
            pasts.update(zip(members, found, strict=False))  # all of them or none
        return pasts
    seen = [max((rows[index] for index in members), key=lambda row: row.seen) for members in shared]
    held: list[KeyValues | None] = [None if row.live is None else row.live.reading for row in seen]
    missing = [row.seen - (0 if past is None else past.length) for row, past in zip(seen, held, strict=True)]
    behind = [place for place, count in enumerate(missing) if count > 0]

    def run(chosen: Sequence[int]) -> list[KeyValues]:
        places = [behind[position] for position in chosen]
        memories = [seen[place].memory[: seen[place].seen] for place in places]
        return reader.run_memories(memories, [held[place] for place in places])

    done = limits.run([missing[place] for place in behind], run, stack.device)
    for place, reached in zip(behind, done, strict=True):
        held[place] = reached
    for row, past in zip(seen, held, strict=True):
        if row.live is not None and past is not None:
            row.live.keep_reading(past)
    return {index: past for members, past in zip(shared, held, strict=True) if past is not None for index in members}


def _run_beginnings(reader: PrefixReader, rows: Sequence[Row], device: torch.device) -> list[KeyValues]:
    """Run one memory as far as each row sees it, where layers are recurrent: each beginning from the one before it.

    Returns:
        One past a row; none where many short steps cost more than they save, as on an accelerator.
    """
    live, memory = rows[0].live, rows[0].memory
    steps = sorted({row.seen for row in rows})
    if len(steps) > 1 and device.type != "cpu":
        return []
    past: KeyValues | None = None if live is None else live.reading
    if past is not None and past.length > steps[0]:
        past = None
    reached: dict[int, KeyValues] = {}
    for end in steps:
        if past is None or past.length < end:
            past = reader.run_memories([memory[:end]], [past])[0]
        reached[end] = past
    if live is not None and past is not None:
        live.keep_reading(past)
    return [reached[row.seen] for row in rows]


def _visible(row: Row) -> Tensor:
    """Cut the memory to what the row sees; the whole tensor stays the one object that rows share."""
    return row.memory if row.seen == row.memory.shape[0] else row.memory[: row.seen]
