"""What every memory reader can be asked, so that nobody asks which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from evoemb.modules.latent_memory_queue import Projection
from evoemb.modules.readers.key_values import KeyValues


class SegmentRow(NamedTuple):
    """One stream's part of a memory forward: projected memory ``(M, H)`` and token ids ``(T_j,)`` of the turns.

    With a ``past``, memory and earlier turns have been run already and ``turns`` are those that continue them.
    """

    memory: Tensor
    turns: Sequence[Tensor]
    past: KeyValues | None = None


class Written(NamedTuple):
    """States at the memory queries ``(turns * K, H)``, oldest turn first, and what later turns continue, if wanted."""

    states: Tensor
    past: KeyValues | None


class SegmentReader(Protocol):
    """A reader that writes turns in segments, by a forward of its own, and may run a memory once for many texts."""

    sees_beginnings: bool
    """Whether what was kept of rows also serves texts that see only the first of them."""

    @property
    def continues(self) -> bool:
        """Whether rows can be continued from keys and values, exactly and cheaply, as things stand now."""

    def write(self, segments: Sequence[SegmentRow], *, keep: bool = False) -> list[Written]:
        """Read one segment of each stream; with ``keep``, also return what later turns continue."""

    def run_memories(self, memories: Sequence[Tensor], pasts: Sequence[KeyValues | None]) -> list[KeyValues]:
        """Run projected latents ``(M_i, H)`` as texts would see them, each behind its past."""

    def kept_bytes(self, rows: int) -> int:
        """Estimate the bytes of what a later turn continues, for ``rows`` rows of memory, turns and queries."""


class MemoryReader(nn.Module, ABC):
    """How a backbone reads the memory and writes to it. Its parameters are saved as ``memory.safetensors``.

    A new kind of reader is a subclass, an entry in :mod:`evoemb.modules.readers.lookup` and its rules in
    :mod:`evoemb.modules.config`; nothing else knows the kinds.
    """

    latent_size: int
    """``S``, the size of one stored latent."""
    projection: Projection
    """Which projections the queue of a fresh memory has."""
    stateless_adapter: str | None = None
    """The adapter of texts that name no memory; None is the bare backbone."""
    joins_turns: bool = False
    """Whether one memory forward may read several turns of a stream."""
    has_input_rows: bool = False
    """Whether texts see latents as input rows, which the bare base model can read, too."""
    can_answer: bool = False
    """Whether the bare base model can continue a text from its memory."""

    @abstractmethod
    def add_adapters(self) -> None:
        """Put the memory's two adapters on the backbone."""

    @abstractmethod
    def embed(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the texts of a forward on the memory that its features name.

        Args:
            features: ``input_ids`` and ``attention_mask`` ``(N, T)``, and those of
                :mod:`evoemb.modules.readers.features`.

        Returns:
            The features that are new or other than before: ``token_embeddings`` at least.
        """

    @property
    def segments(self) -> SegmentReader | None:
        """Return what writes turns in segments; None if :meth:`embed` writes them, in blocks."""
        return None
