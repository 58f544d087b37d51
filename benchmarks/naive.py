"""The recurrence written plainly: every forward is the whole causal language model over whole rows of one stream.

No caches, no shared prefixes, adapters beside their layers instead of merged, hidden states of every layer and logits
of every row computed, memory projected again for every text. The weights are those of the model it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from evoemb import EvoEmbedding
from evoemb.modules.adapters import MEMORY_ADAPTER, RETRIEVER_ADAPTER, lora_layers, using
from evoemb.segments import SegmentPolicy


class Naive:
    """The plain recurrence over the weights of ``model``, which must be the paper's stack on a decoder."""

    def __init__(self, model: EvoEmbedding) -> None:
        self.backbone = model[0].model
        self.queries = model[0].reader.memory_queries
        self.queue = model[1]
        self.config = model[0].memory_config
        self.head = self.backbone.get_input_embeddings().weight  # tied, as in the released base models

    def build(self, turns: Sequence[Sequence[int]]) -> Tensor:
        """Read turns and give all their latents ``(n * K, H)``, oldest first."""
        latents = self.queries.new_zeros(0, self.queries.shape[1])
        policy = SegmentPolicy(self.config.segment_turns, self.config.segment_tokens)
        for segment in policy.group([len(turn) for turn in turns]):
            parts = [self._readable(latents)]
            places, at = [], parts[0].shape[0]
            for turn in turns[segment.start : segment.stop]:
                parts += [self._embed(turn), self.queries]
                at += len(turn) + self.config.num_latents
                places += range(at - self.config.num_latents, at)
            states = self._language_model(torch.cat(parts), MEMORY_ADAPTER)[places]
            latents = torch.cat((latents, F.relu(self.queue.latent_to_mem(states))))
        return latents

    def encode(self, text: Sequence[int], latents: Tensor) -> Tensor:
        """Encode one text on the newest of ``latents``, ``(D,)``."""
        row = torch.cat((self._readable(latents), self._embed(text)))
        last = self._language_model(row, RETRIEVER_ADAPTER)[-1]
        return F.normalize(self.queue.mem_to_emb(F.relu(self.queue.latent_to_mem(last))), dim=-1)

    def retrieve(self, turns: Sequence[Sequence[int]]) -> Tensor:
        """Encode every turn on the memory of the turns before it, ``(n, D)``."""
        latents = self.build(turns)
        held = self.config.num_latents
        return torch.stack([self.encode(turn, latents[: index * held]) for index, turn in enumerate(turns)])

    def _readable(self, latents: Tensor) -> Tensor:
        return self.queue.mem_to_latent(latents[-self.config.capacity_latents :] if len(latents) else latents)

    def _embed(self, ids: Sequence[int]) -> Tensor:
        return self.backbone.get_input_embeddings()(torch.as_tensor(ids, device=self.queries.device))

    def _language_model(self, row: Tensor, adapter: str) -> Tensor:
        """Run one row ``(L, H)``; give the states after the last layer, with all the others and the logits computed."""
        with self._plain_adapters(), using(adapter):
            output = self.backbone(
                inputs_embeds=row[None],
                attention_mask=torch.ones(1, len(row), dtype=torch.long, device=row.device),
                output_hidden_states=True,
                use_cache=True,
            )
            F.linear(output.hidden_states[-1], self.head)  # the logits, which nobody asks for
        return output.last_hidden_state[0]

    @contextmanager
    def _plain_adapters(self) -> Iterator[None]:
        layers = [layer for _, layer in lora_layers(self.backbone)]
        before = [layer.merges for layer in layers]
        for layer in layers:
            layer.merges = False
        try:
            yield
        finally:
            for layer, merges in zip(layers, before, strict=True):
                layer.merges = merges
