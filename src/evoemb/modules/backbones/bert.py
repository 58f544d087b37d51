"""BERT and its kin with post-norm blocks and absolute positions: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from evoemb.modules.backbones.family import Heads, LayerFamily, LayerInputs, merge_heads, output_of, split_heads


class BertFamily(LayerFamily):
    """Blocks with ``attention.self.{query,key,value}``, ``attention.output`` and a feed-forward chunk."""

    @property
    def layers(self) -> Sequence[Any]:
        """The encoder blocks."""
        layers: Sequence[Any] = self.backbone.encoder.layer
        return layers

    @property
    def layers_name(self) -> str:
        """Name of the blocks."""
        return "encoder.layer"

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> LayerInputs:
        """Embed words, positions and token type 0."""
        hidden = self.backbone.embeddings(input_ids=input_ids)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=attention_mask)
        return LayerInputs(hidden, attention_mask, {"full_attention": mask})

    def run(self, index: int, inputs: LayerInputs, hidden: Tensor) -> Tensor:
        """Run one block."""
        return output_of(self.layers[index](hidden, inputs.layer_masks["full_attention"]))

    def heads(self, index: int, hidden: Tensor, inputs: LayerInputs | None) -> Heads:
        """Project; positions were added to the embeddings, so none are applied here."""
        attention = self.layers[index].attention.self
        query, key, value = (
            split_heads(projection(hidden), self.head_dim)
            for projection in (attention.query, attention.key, attention.value)
        )
        return Heads(query, key, value, query, key)

    def memory_heads(self, index: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Project latents to keys and values; no query is asked of them."""
        attention = self.layers[index].attention.self
        key, value = (
            split_heads(projection(latents), self.head_dim) for projection in (attention.key, attention.value)
        )
        return key, value

    def finish(self, index: int, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, residual and norm, then the feed-forward chunk."""
        layer = self.layers[index]
        after_attention = layer.attention.output(merge_heads(attended), hidden)
        hidden_states: Tensor = layer.feed_forward_chunk(after_attention)
        return hidden_states

    def dropout(self, index: int) -> float:
        """Dropout on attention probabilities."""
        return float(self.config.attention_probs_dropout_prob)
