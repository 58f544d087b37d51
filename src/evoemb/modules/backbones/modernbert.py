"""ModernBERT: pre-norm blocks, one fused projection, rotary positions, sliding windows in most layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from evoemb.modules.backbones.family import (
    Heads,
    LayerFamily,
    LayerInputs,
    merge_heads,
    output_of,
    rotate,
    split_heads,
)


class ModernBertFamily(LayerFamily):
    """Blocks with ``attn_norm``, ``attn.{Wqkv,Wo}``, ``mlp_norm`` and ``mlp``."""

    @property
    def layers(self) -> Sequence[Any]:
        """The encoder blocks."""
        layers: Sequence[Any] = self.backbone.layers
        return layers

    @property
    def layers_name(self) -> str:
        """Name of the blocks."""
        return "layers"

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> LayerInputs:
        """Embed the tokens, and build masks and rotary tables for both kinds of layers."""
        hidden = self.backbone.embeddings(input_ids=input_ids)
        arguments = {"config": self.config, "inputs_embeds": hidden, "attention_mask": attention_mask}
        masks = {
            "full_attention": create_bidirectional_mask(**arguments),
            "sliding_attention": create_bidirectional_sliding_window_mask(**arguments),
        }
        position = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rotary = {kind: self.backbone.rotary_emb(hidden, position, kind) for kind in set(self.config.layer_types)}
        return LayerInputs(hidden, attention_mask, masks, rotary)

    def run(self, index: int, inputs: LayerInputs, hidden: Tensor) -> Tensor:
        """Run one block."""
        kind = self.kind(index)
        return output_of(
            self.layers[index](hidden, attention_mask=inputs.layer_masks[kind], position_embeddings=inputs.rotary[kind])
        )

    def heads(self, index: int, hidden: Tensor, inputs: LayerInputs | None) -> Heads:
        """Norm and project, with rotary positions for text."""
        layer = self.layers[index]
        fused = layer.attn.Wqkv(layer.attn_norm(hidden))
        query, key, value = (split_heads(part, self.head_dim) for part in fused.chunk(3, dim=-1))
        if inputs is None:
            return Heads(query, key, value, query, key)
        rotary = inputs.rotary[self.kind(index)]
        return Heads(rotate(query, rotary), rotate(key, rotary), value, query, key)

    def finish(self, index: int, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual, then the gated feed-forward and its residual."""
        layer = self.layers[index]
        hidden = hidden + layer.attn.out_drop(layer.attn.Wo(merge_heads(attended)))
        completed: Tensor = hidden + layer.mlp(layer.mlp_norm(hidden))
        return completed

    def final(self, hidden: Tensor) -> Tensor:
        """Apply the last norm."""
        normed: Tensor = self.backbone.final_norm(hidden)
        return normed

    def kind(self, index: int) -> str:
        """Full or sliding attention."""
        return str(self.config.layer_types[index])

    def window(self, index: int) -> int | None:
        """Half window of a sliding layer."""
        return int(self.config.sliding_window) if self.kind(index) == "sliding_attention" else None

    def dropout(self, index: int) -> float:
        """Dropout on attention probabilities."""
        return float(self.config.attention_dropout)
