"""Rows of one forward: texts with the memory each of them sees, in batches under two limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evoemb._errors import InputError
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.stateful_transformer import MEMORY, MEMORY_MASK, StatefulTransformer

TokenIds = Sequence[int]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one forward may hold.

    Args:
        batch_size: Rows at most.
        max_tokens: Rows times the longest row, memory included, at most; None for no such limit. One row is always
            taken, however long.
    """

    batch_size: int = 32
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits under which nothing runs."""
        if self.batch_size < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise InputError(
                f"batch_size={self.batch_size} and max_batch_tokens={self.max_tokens} were given. Use 1 or more for "
                "both, or max_batch_tokens=None for no token limit."
            )

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Cut rows into batches of like length: index lists that cover every row once, longest rows first."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        batch: list[int] = []
        for index in order:
            too_many = (
                self.max_tokens is not None and (len(batch) + 1) * lengths[batch[0]] > self.max_tokens
                if batch
                else False
            )
            if batch and (len(batch) >= self.batch_size or too_many):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


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
    """A text and the memory it sees, already projected for reading, ``(M, S)``, newest latent last."""

    ids: TokenIds
    memory: Tensor


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

    Returns:
        One embedding ``(D,)`` a row, in the order given.
    """
    found: list[Tensor | None] = [None] * len(rows)
    for batch in limits.batches([len(row.ids) + row.memory.shape[0] for row in rows]):
        input_ids, attention_mask = pad_ids([rows[index].ids for index in batch], stack.device)
        memory, memory_mask = stack_memories([rows[index].memory for index in batch], share=True)
        features = {"input_ids": input_ids, "attention_mask": attention_mask, MEMORY: memory, MEMORY_MASK: memory_mask}
        embeddings = stack.run({**features, **stack.extra})["sentence_embedding"]
        for index, embedding in zip(batch, embeddings, strict=True):
            found[index] = embedding
    return [embedding for embedding in found if embedding is not None]
