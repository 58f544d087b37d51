"""What one stream has left in memory, as a value: never changed in place, cheap to share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What a state belongs to. Two states mix only if their specs are equal.

    Args:
        model_id: Hub id or folder name of the model, for messages; not compared.
        revision: Hub commit of the model, for messages; not compared.
        fingerprint: Digest of the model's weights (see :func:`evoemb.modules.fingerprint.fingerprint`).
        reader: How the backbone reads the memory, ``"prefix"`` or ``"attention"``.
        num_latents: ``K``, latents a turn.
        capacity_latents: ``C``, latents the queue keeps.
        latent_size: ``S``, numbers in one latent.
        segment_turns: Packing policy: turns a segment.
        segment_tokens: Packing policy: tokens a segment.
    """

    model_id: str
    revision: str
    fingerprint: str
    reader: str
    num_latents: int
    capacity_latents: int
    latent_size: int
    segment_turns: int
    segment_tokens: int

    def differences(self, other: StateSpec) -> list[str]:
        """Say in words where two specs differ: ``"num_latents 4 against 16"``; empty if states may mix."""
        compared = [field.name for field in fields(self) if field.name not in ("model_id", "revision")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in compared]
        return [f"{name} {mine!r} against {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """The memory of one stream after some turns.

    Args:
        latents: ``(M, S)``, oldest first. The queue as it was when the open segment began (at most ``C`` latents),
            followed by the latents of the open segment's turns.
        num_turns: Turns ever read; keeps growing after old latents have left the queue.
        open_turns: Token ids of the turns in the open segment, oldest first. Later turns of a segment see the raw
            earlier ones, so they are kept until the segment is full. Empty where a segment is one turn.
    """

    latents: Tensor
    num_turns: int = 0
    open_turns: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def empty(cls, latent_size: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> StreamMemory:
        """Give the memory of a stream of which nothing has been read."""
        return cls(torch.zeros(0, latent_size, dtype=dtype, device=device))

    def queue(self, capacity_latents: int) -> Tensor:
        """Give the latents a text sees now: the newest ``min(M, C)``, oldest first, ``(<=C, S)``."""
        return self.latents[max(0, self.latents.shape[0] - capacity_latents) :]

    def before_open_segment(self, num_latents: int) -> Tensor:
        """Give the queue as it was when the open segment began, ``(<=C, S)``."""
        return self.latents[: self.latents.shape[0] - len(self.open_turns) * num_latents]

    @property
    def nbytes(self) -> int:
        """Bytes held: latents, plus eight for every token id of the open segment."""
        return self.latents.nbytes + 8 * sum(len(turn) for turn in self.open_turns)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> StreamMemory:
        """Give the same memory on ``device`` (and in ``dtype``, if given)."""
        return replace(self, latents=self.latents.to(device=device, dtype=dtype or self.latents.dtype))

    def copy(self) -> StreamMemory:
        """Give a memory that shares no storage with this one."""
        return replace(self, latents=self.latents.detach().clone())
