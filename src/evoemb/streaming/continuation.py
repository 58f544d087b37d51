"""Texts that the bare base model continues from a memory: latents as input rows, no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.readers.prefix import PrefixReader
from evoemb.streaming.rows import Stack, TokenIds


class Continuation(NamedTuple):
    """A text, the memory it sees ``(M, H)`` (projected for reading), and how many of its tokens stand before that."""

    ids: TokenIds
    memory: Tensor
    insert: int


def continue_texts(stack: Stack, rows: Sequence[Continuation]) -> list[Tensor]:
    """Run the base model without adapters over ``[ first tokens | memory | rest ]``.

    Returns:
        For each text the final hidden states ``(T + M, H)``, in the order of the input rows.

    Raises:
        UnsupportedBackboneError: The backbone is no decoder with the prefix reader, so it continues nothing.

    Source: EvoEmbedding (arXiv 2606.21649), memory loss; positions run on through the memory.
    """
    reader = stack.transformer.reader
    if not isinstance(reader, PrefixReader) or not reader.causal:
        raise UnsupportedBackboneError(
            f"{type(stack.transformer.model).__name__} with memory_reader={stack.transformer.memory_config.reader!r} "
            "cannot continue a text from its memory. Use a decoder with memory_reader='prefix', or leave the memory "
            "loss out."
        )
    return reader.continue_rows([(row.ids, row.memory, row.insert) for row in rows])
