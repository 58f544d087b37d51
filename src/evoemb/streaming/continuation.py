"""Texts that the bare base model continues from a memory: latents as input rows, no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.adapters import using
from evoemb.modules.readers.prefix_rows import pad_left
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
    transformer = stack.transformer
    if not transformer.reader.can_answer:
        raise UnsupportedBackboneError(
            f"{type(transformer.model).__name__} with memory_reader={transformer.memory_config.reader!r} "
            "cannot continue a text from its memory. Use a decoder with memory_reader='prefix', or leave the memory "
            "loss out."
        )
    backbone = transformer.model
    embed = backbone.get_input_embeddings()
    parts: list[Tensor] = []
    for row in rows:
        text = embed(torch.as_tensor(row.ids, device=row.memory.device))
        parts.append(torch.cat((text[: row.insert], row.memory.to(text.dtype), text[row.insert :])))
    real = pad_left([torch.ones(part.shape[0], dtype=torch.long, device=part.device) for part in parts])
    with using(None):
        output = backbone(
            inputs_embeds=pad_left(parts),
            attention_mask=real,
            position_ids=(real.cumsum(-1) - 1).masked_fill(real == 0, 1),
            use_cache=False,
        )
    hidden: Tensor = output.last_hidden_state
    return [states[states.shape[0] - part.shape[0] :] for states, part in zip(hidden, parts, strict=True)]
