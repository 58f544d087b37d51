"""Rows of one forward: texts with the memory each of them sees, in batches under two limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.readers.base import SegmentReader
from evoemb.modules.readers.features import MEMORY, MEMORY_MASK, PASTS, SEEN
from evoemb.modules.readers.key_values import KeyValues
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.state.live import KEPT_BYTES, LiveCache
from evoemb.streaming.limits import Limits as Limits  # re-exported: most callers need both

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
        token_states: Whether a text's result is its tokens' states ``(T, H)`` instead of its embedding ``(D,)``.
    """

    transformer: StatefulTransformer
    queue: LatentMemoryQueue
    run: Callable[[dict[str, Any]], dict[str, Any]]
    device: torch.device
    extra: dict[str, Any]
    token_states: bool = False

    def results(self, output: dict[str, Any]) -> Sequence[Tensor]:
        """Return one result a text from what a forward wrote, padding left out."""
        if not self.token_states:
            return list(output["sentence_embedding"])
        masks = output["attention_mask"].bool()
        return [states[mask] for states, mask in zip(output["token_embeddings"], masks, strict=True)]


class Row(NamedTuple):
    """A text and the memory it sees.

    Args:
        ids: Token ids.
        memory: Latents, already projected for reading, ``(M, S)``, newest last. Rows that see the same memory, or
            beginnings of it, share this tensor.
        seen: How many latents of ``memory`` the text sees, from the oldest on.
        live: Where to keep the memory once it has been run, and where it may lie already.
    """

    ids: TokenIds
    memory: Tensor
    seen: int
    live: LiveCache | None = None


class Emitted(NamedTuple):
    """The embedding ``(D,)`` of turn ``turn`` of stream ``stream``; None where no embedding was asked for."""

    stream: int
    turn: int
    embedding: Tensor | None


def pad_ids(rows: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ``input_ids`` and ``attention_mask``, both ``(N, T)``, padded on the right with id 0."""
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

    Texts that share a memory run it once, where the reader can continue it; the others run it in their own row. Of
    many memories a few are run and held at a time, see :func:`_run_some`.

    Returns:
        One embedding ``(D,)`` a row, in the order given.
    """
    found: dict[int, Tensor] = {}
    if (reader := continuing_reader(stack)) is not None:
        shared = _shared_memories(rows)
        while shared:
            found.update(_embed_continued(stack, reader, rows, shared, limits))
    alone = [index for index in range(len(rows)) if index not in found]

    def run_alone(chosen: Sequence[int]) -> Sequence[Tensor]:
        batch = [rows[alone[position]] for position in chosen]
        memory, memory_mask = stack_memories([_visible(row) for row in batch], share=True)
        return _embed(stack, batch, {MEMORY: memory, MEMORY_MASK: memory_mask})

    found.update(
        zip(alone, limits.run([len(rows[i].ids) + rows[i].seen for i in alone], run_alone, stack.device), strict=True)
    )
    return [found[index] for index in range(len(rows))]


def _embed_continued(
    stack: Stack, reader: SegmentReader, rows: Sequence[Row], shared: list[list[int]], limits: Limits
) -> list[tuple[int, Tensor]]:
    """Run the first of the shared memories, taking them from the list, and encode the texts behind them.

    Returns:
        Indices of rows and their embeddings. What was kept of the memories is let go of.
    """
    pasts = _run_some(reader, rows, shared, limits, stack.device)
    continued = sorted(pasts)

    def run_continued(chosen: Sequence[int]) -> Sequence[Tensor]:
        batch = [rows[continued[position]] for position in chosen]
        behind = [pasts[continued[position]] for position in chosen]
        one = behind[:1] if all(past is behind[0] for past in behind) else behind
        return _embed(stack, batch, {PASTS: one, SEEN: [row.seen for row in batch]})

    embeddings = limits.run([len(rows[i].ids) for i in continued], run_continued, stack.device)
    return list(zip(continued, embeddings, strict=True))


def _embed(stack: Stack, rows: Sequence[Row], memory: dict[str, Any]) -> Sequence[Tensor]:
    """Run one batch through the stack and return its results, one a row."""
    input_ids, attention_mask = pad_ids([row.ids for row in rows], stack.device)
    features = {"input_ids": input_ids, "attention_mask": attention_mask, **memory, **stack.extra}
    return stack.results(stack.run(features))


def continuing_reader(stack: Stack) -> SegmentReader | None:
    """Return the reader if it runs a memory once for several texts, else None."""
    reader = stack.transformer.reader.segments
    return reader if reader is not None and reader.continues else None


def _shared_memories(rows: Sequence[Row]) -> list[list[int]]:
    """Return the rows of every memory that more than one text sees, or that is kept for later texts."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if row.seen:
            groups.setdefault(id(row.memory), []).append(index)
    return [members for members in groups.values() if len(members) > 1 or rows[members[0]].live is not None]


def _run_some(
    reader: SegmentReader, rows: Sequence[Row], shared: list[list[int]], limits: Limits, device: torch.device
) -> dict[int, KeyValues]:
    """Run the first of the shared memories, several in one forward, and take them from the list.

    However many streams there are, what is run and held at a time takes at most :data:`KEPT_BYTES`, or is one memory.
    Where layers are recurrent, a memory's size is known only after it was run, so the last one may pass the bound. What
    a state holds already is not counted, because using it takes no new memory.

    Returns:
        What each of their rows continues, by its index.
    """
    room: float = math.inf if torch.is_grad_enabled() else KEPT_BYTES  # what gradients need stays held in any case
    if not reader.sees_beginnings:
        pasts: dict[int, KeyValues] = {}
        while shared and (room > 0 or not pasts):
            members = shared.pop(0)
            live = rows[members[0]].live
            known = None if live is None else live.reading
            found = _run_beginnings(reader, [rows[index] for index in members], device)
            room -= sum({id(past): past.nbytes for past in found if past is not known}.values())
            pasts.update(zip(members, found, strict=False))  # all of them or none
        return pasts
    every, seen, held = list[list[int]](), list[Row](), list[KeyValues | None]()
    while shared:
        row = max((rows[index] for index in shared[0]), key=lambda row: row.seen)
        past = None if row.live is None else row.live.reading
        room -= 0 if past is not None and past.length >= row.seen else reader.kept_bytes(row.seen)
        if every and room < 0:
            break
        every.append(shared.pop(0))
        seen.append(row)
        held.append(past)
    missing = [row.seen - (0 if past is None else past.length) for row, past in zip(seen, held, strict=True)]
    behind = [place for place, count in enumerate(missing) if count > 0]

    def run(chosen: Sequence[int]) -> list[KeyValues]:
        places = [behind[position] for position in chosen]
        memories = [seen[place].memory[: seen[place].seen] for place in places]
        return reader.run_memories(memories, [held[place] for place in places])

    done = limits.run([missing[place] for place in behind], run, device)
    for place, reached in zip(behind, done, strict=True):
        held[place] = reached
    for row, past in zip(seen, held, strict=True):
        if row.live is not None and past is not None:
            row.live.keep_reading(past)
    return {index: past for members, past in zip(every, held, strict=True) if past is not None for index in members}


def _run_beginnings(reader: SegmentReader, rows: Sequence[Row], device: torch.device) -> list[KeyValues]:
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
