"""Llama and its kin with pre-norm blocks and rotary positions: Llama, Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask

from evoemb.modules.backbones.family import (
    Heads,
    LayerFamily,
    LayerInputs,
    merge_heads,
    output_of,
    rotate,
    split_heads,
)


class DecoderFamily(LayerFamily):
    """Blocks with ``self_attn.{q,k,v,o}_proj``, ``input_layernorm``, ``post_attention_layernorm`` and ``mlp``."""

    causal = True

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder blocks."""
        layers: Sequence[Any] = self.backbone.layers
        return layers

    @property
    def layers_name(self) -> str:
        """Name of the blocks."""
        return "layers"

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> LayerInputs:
        """Embed the tokens; positions count real tokens only, so padding on either side is invisible."""
        hidden = self.backbone.get_input_embeddings()(input_ids)
        position = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=None,
            position_ids=position,
        )
        rotary = self.backbone.rotary_emb(hidden, position)
        return LayerInputs(hidden, attention_mask, {"full_attention": mask}, {"full_attention": rotary})

    def run(self, index: int, inputs: LayerInputs, hidden: Tensor) -> Tensor:
        """Run one block."""
        return output_of(
            self.layers[index](
                hidden,
                attention_mask=inputs.layer_masks["full_attention"],
                position_embeddings=inputs.rotary["full_attention"],
            )
        )

    def heads(self, index: int, hidden: Tensor, inputs: LayerInputs | None) -> Heads:
        """Norm, project and repeat keys and values to the query heads, with rotary positions for text."""
        layer = self.layers[index]
        attention, hidden = layer.self_attn, layer.input_layernorm(hidden)
        query = split_heads(attention.q_proj(hidden), self.head_dim)
        key = split_heads(attention.k_proj(hidden), self.head_dim)
        value = split_heads(attention.v_proj(hidden), self.head_dim)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        repeats = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        if inputs is None:
            return Heads(query, key, value, query, key)
        rotary = inputs.rotary["full_attention"]
        return Heads(rotate(query, rotary), rotate(key, rotary), value, query, key)

    def finish(self, index: int, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual, then the gated feed-forward and its residual."""
        layer = self.layers[index]
        hidden = hidden + layer.self_attn.o_proj(merge_heads(attended))
        completed: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return completed

    def final(self, hidden: Tensor) -> Tensor:
        """Apply the last norm."""
        normed: Tensor = self.backbone.norm(hidden)
        return normed

    def dropout(self, index: int) -> float:
        """Dropout on attention probabilities."""
        return float(getattr(self.config, "attention_dropout", 0.0) or 0.0)
