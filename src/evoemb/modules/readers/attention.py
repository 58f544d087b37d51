"""The attention reader: the top layers attend to the queue, and latents start from the turn's own text states.

In each memory layer the keys and values of queued latents join the turn's self-attention, with a bias and a key offset
that depend on head and age. A turn's ``K`` latents are ``K`` query tokens that start as chunk means of the turn's text
states and run beside it; the latents of a layer are their states as they enter it. So a layer's latents depend on
layers below only, and a block of turns runs in one pass, layer by layer, exactly as turn by turn.

Adapters lie on the memory path alone: ``memory`` on the query tokens, ``retriever`` on the latents' keys and values.
With an empty memory a text is encoded by the bare backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.adapters import (
    MEMORY_ADAPTER,
    RETRIEVER_ADAPTER,
    AdapterConfig,
    add_adapter,
    target_names,
    using,
)
from evoemb.modules.backbones.family import Heads, LayerFamily
from evoemb.modules.config import MemoryConfig

# Fresh weights are the same in every process, so that a saved state fits the same fresh model tomorrow.
_INIT_SEED = 0
# With every age's weight falling as 1/age, all queued latents together weigh a few percent of one turn's tokens.
_GATE_BIAS = -3.0
_QUERY_STD = 0.02


class BlockOutput(NamedTuple):
    """Text states ``(N, T, H)`` and latents ``(N, K, S)`` of a block of turns."""

    hidden: Tensor
    latents: Tensor


class _Window(NamedTuple):
    """Queued keys and values a row attends to, ``(N or 1, heads, W, d)``, and which of them hold, ``(N, W)``."""

    key: Tensor
    value: Tensor
    valid: Tensor


class AttentionReader(nn.Module):
    """Read the queue by attention in the top layers of one backbone; see the module's description.

    Args:
        family: The backbone's layers.
        config: ``reader`` must be ``"attention"``.
    """

    def __init__(self, family: LayerFamily, config: MemoryConfig) -> None:
        super().__init__()
        self._family = [family]  # in a list: the backbone is registered elsewhere already
        self.config = config
        num_layers = len(family.layers)
        self.num_memory_layers = config.memory_layers or max(1, num_layers // 2)
        if self.num_memory_layers > num_layers:
            raise UnsupportedBackboneError(
                f"memory_layers={self.num_memory_layers} was given, but the backbone has {num_layers} layers. "
                "Use at most as many."
            )
        self.first_layer = num_layers - self.num_memory_layers
        hidden_size = int(family.config.hidden_size)
        self.latent_size = self.num_memory_layers * hidden_size
        window_turns = max(1, math.ceil(config.capacity_latents / config.num_latents))
        self.num_ages = 1 + math.ceil(math.log2(window_turns)) if window_turns > 1 else 1
        reference = next(family.backbone.parameters())
        like: dict[str, Any] = {"dtype": reference.dtype, "device": reference.device}
        generator = torch.Generator().manual_seed(_INIT_SEED)
        queries = torch.randn(config.num_latents, hidden_size, generator=generator) * _QUERY_STD
        self.memory_queries = nn.Parameter(queries.to(**like))
        start = config.gate_bias if config.gate_bias is not None else _GATE_BIAS
        by_age = start - math.log(2.0) * torch.arange(self.num_ages)
        shape = (self.num_memory_layers, family.num_heads, self.num_ages)
        self.age_bias = nn.Parameter(by_age.expand(shape).clone().to(**like))
        self.age_key = nn.Parameter(torch.zeros(*shape, family.head_dim, **like))

    @property
    def family(self) -> LayerFamily:
        """The backbone's layers."""
        return self._family[0]

    def add_adapters(self) -> None:
        """Put both adapters on the memory layers of the backbone."""
        family, config = self.family, self.config
        lora = AdapterConfig(config.lora_rank, config.lora_alpha, config.lora_dropout)
        layers = range(self.first_layer, len(family.layers))
        targets = target_names(family.backbone, within=[f"{family.layers_name}.{index}." for index in layers])
        keys = [name for name in targets if name.rsplit(".", 1)[-1] in ("key", "value", "k_proj", "v_proj", "Wqkv")]
        add_adapter(family.backbone, MEMORY_ADAPTER, lora, targets, seed=_INIT_SEED)
        add_adapter(family.backbone, RETRIEVER_ADAPTER, lora, keys, seed=_INIT_SEED + 1)

    def read(self, input_ids: Tensor, attention_mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Encode texts that see a finished memory.

        Args:
            input_ids: ``(N, T)``.
            attention_mask: ``(N, T)``.
            memory: Stored latents ``(N, M, S)``, or ``(1, M, S)`` for one memory that all rows see; newest last.
            memory_mask: True at latents that hold, of the same leading shape.

        Returns:
            Hidden states after the last layer, ``(N, T, H)``.
        """

        def window(index: int, queries: Tensor | None) -> _Window | None:
            if memory.shape[1] == 0:
                return None
            layer = self._layer_latents(memory, index)
            heads = self._memory_heads(index, layer)
            return _Window(heads.free_key, heads.value, memory_mask)

        hidden, _ = self._run(input_ids, attention_mask, window, write=False)
        return hidden

    def read_and_write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        carried: Tensor,
        carried_mask: Tensor,
        row_stream: Tensor,
        row_index: Tensor,
    ) -> BlockOutput:
        """Encode a block of consecutive turns of several streams; each turn sees the turns before it.

        Args:
            input_ids: ``(N, T)``, one turn a row, in any order.
            attention_mask: ``(N, T)``.
            carried: Latents that the streams bring along, ``(B, M, S)``, newest last.
            carried_mask: True at latents that hold, ``(B, M)``.
            row_stream: Which stream a row belongs to, ``(N,)``.
            row_index: Which turn of the block a row is in its stream, from 0 without gaps, ``(N,)``.

        Returns:
            Text states and new latents, in the order of the rows.
        """
        num_latents, capacity = self.config.num_latents, self.config.capacity_latents
        streams, held = carried.shape[:2]
        turns = int(row_index.max()) + 1
        width = min(capacity, held + (turns - 1) * num_latents)
        # A row's window ends where its own latents would begin.
        ends = held + row_index * num_latents
        slots = ends[:, None] - width + torch.arange(width, device=carried.device)
        holds = F.pad(carried_mask.bool(), (0, turns * num_latents), value=True)
        valid = (slots >= 0) & holds[row_stream[:, None], slots.clamp(min=0)]
        slots = slots.clamp(min=0)

        def window(index: int, queries: Tensor | None) -> _Window | None:
            if width == 0 or queries is None:
                return None
            fresh = queries.new_zeros(streams, turns, num_latents, queries.shape[-1])
            fresh = fresh.index_put((row_stream, row_index), queries)
            layer = self._layer_latents(carried, index)
            heads = self._memory_heads(index, torch.cat((layer.to(fresh.dtype), fresh.flatten(1, 2)), dim=1))
            rows = (row_stream[:, None], slice(None), slots)  # advanced indices apart: gathered axes come first
            key, value = (part[rows].transpose(1, 2) for part in (heads.free_key, heads.value))
            return _Window(key, value, valid)

        hidden, latents = self._run(input_ids, attention_mask, window, write=True)
        return BlockOutput(hidden, latents)

    def _run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        window: Callable[[int, Tensor | None], _Window | None],
        *,
        write: bool,
    ) -> tuple[Tensor, Tensor]:
        """Run all layers; memory layers ask ``window`` for what they see, given the query tokens entering them."""
        family = self.family
        inputs = family.embed(input_ids, attention_mask)
        hidden = inputs.hidden
        for index in range(self.first_layer):
            hidden = family.run(index, inputs, hidden)
        queries = self._first_queries(hidden, attention_mask) if write else None
        latents: list[Tensor] = []
        for index in range(self.num_memory_layers):
            layer = self.first_layer + index
            seen = window(index, queries)
            bias, offset = self._age_terms(index, seen)
            text_mask = family.text_mask(layer, attention_mask)
            with using(None):
                text = family.heads(layer, hidden, inputs)
                attended = self._attend(layer, text, text, text_mask, seen, bias, offset)
                after = family.finish(layer, hidden, attended)
            if queries is not None:
                latents.append(queries)
                # The last layer's outcome at the query tokens enters no layer, so it is nobody's latent.
                if index + 1 < self.num_memory_layers:
                    queries = self._write_layer(layer, queries, text, attention_mask, seen, bias, offset)
            hidden = after
        written = torch.cat(latents, dim=-1) if write else hidden.new_zeros(0)
        return family.final(hidden), written

    def _write_layer(
        self,
        layer: int,
        queries: Tensor,
        text: Heads,
        attention_mask: Tensor,
        seen: _Window | None,
        bias: Tensor | None,
        offset: Tensor | None,
    ) -> Tensor:
        """Run the query tokens through one layer; they see the memory, the whole turn and each other."""
        family = self.family
        with using(MEMORY_ADAPTER):
            own = family.heads(layer, queries, None)
            both = Heads(
                own.query,
                torch.cat((text.free_key, own.key), dim=2),
                torch.cat((text.value, own.value), dim=2),
                own.free_query,
                torch.cat((text.free_key, own.free_key), dim=2),
            )
            count = queries.shape[1]
            mask = F.pad(attention_mask.bool(), (0, count), value=True)[:, None, None, :]
            attended = self._attend(layer, own, both, mask.expand(-1, 1, count, -1), seen, bias, offset)
            return family.finish(layer, queries, attended)

    def _attend(
        self,
        layer: int,
        queries: Heads,
        keys: Heads,
        mask: Tensor,
        seen: _Window | None,
        bias: Tensor | None,
        offset: Tensor | None,
    ) -> Tensor:
        """Attend to ``keys`` where ``mask`` allows, and to the memory without positions, in one softmax."""
        family = self.family
        dropout = family.dropout(layer) if self.training else 0.0
        scale = family.head_dim**-0.5
        if seen is None or bias is None or offset is None:
            return F.scaled_dot_product_attention(
                queries.query, keys.key, keys.value, attn_mask=mask, dropout_p=dropout, scale=scale
            )
        rows, heads, length = queries.query.shape[:3]
        memory_key = (seen.key + offset).expand(rows, -1, -1, -1)
        memory_value = seen.value.expand(rows, -1, -1, -1)
        if queries.free_query is queries.query:
            query, key = queries.query, torch.cat((memory_key, keys.key), dim=2)
        else:
            # Memory has no positions but text has: score the two parts in separate halves of a doubled head.
            query = torch.cat((queries.free_query, queries.query), dim=-1)
            key = torch.cat((F.pad(memory_key, (0, family.head_dim)), F.pad(keys.key, (family.head_dim, 0))), dim=2)
        blocked = torch.finfo(query.dtype).min
        to_memory = torch.where(seen.valid[:, None, None, :], bias[None, :, None, :], blocked)
        to_text = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, blocked)
        joint = torch.cat(
            (
                to_memory.to(query.dtype).expand(rows, heads, length, -1),
                to_text.expand(rows, heads, length, -1),
            ),
            dim=-1,
        )
        value = torch.cat((memory_value, keys.value), dim=2)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=joint, dropout_p=dropout, scale=scale)

    def _layer_latents(self, latents: Tensor, index: int) -> Tensor:
        """Cut the part ``(B, M, H)`` of stored latents ``(B, M, S)`` that belongs to one memory layer."""
        size = self.latent_size // self.num_memory_layers
        return latents[..., index * size : (index + 1) * size]

    def _memory_heads(self, index: int, latents: Tensor) -> Heads:
        """Project latents ``(B, M, H)`` of memory layer ``index`` to keys and values, under the retriever adapter."""
        with using(RETRIEVER_ADAPTER):
            return self.family.heads(self.first_layer + index, latents, None)

    def _age_terms(self, index: int, seen: _Window | None) -> tuple[Tensor | None, Tensor | None]:
        """Give the bias ``(heads, W)`` and the key offset ``(heads, W, d)`` of a window's slots in one layer.

        A slot's age is counted in turns, 1 for the turn just before. The terms are linear between powers of two.
        """
        if seen is None:
            return None, None
        width = seen.valid.shape[-1]
        num_latents = self.config.num_latents
        behind = torch.arange(width, 0, -1, device=seen.valid.device)
        age = torch.div(behind + num_latents - 1, num_latents, rounding_mode="floor")
        knot = torch.log2(age.to(self.age_bias.dtype)).clamp(max=self.num_ages - 1)
        knots = torch.arange(self.num_ages, device=age.device)
        weight = (1 - (knot[:, None] - knots).abs()).clamp(min=0).to(self.age_bias.dtype)  # (W, ages)
        bias = self.age_bias[index] @ weight.T
        offset = torch.einsum("hfd,wf->hwd", self.age_key[index], weight)
        return bias, offset

    def _first_queries(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Start the query tokens as means over ``K`` even chunks of each row's real tokens, ``(N, K, H)``."""
        count = self.config.num_latents
        mask = attention_mask.to(torch.long)
        lengths = mask.sum(-1, keepdim=True)[:, None]  # (N, 1, 1)
        position = (mask.cumsum(-1) - 1)[:, None]  # (N, 1, T)
        chunk = torch.arange(count, device=hidden.device)[None, :, None]
        first = torch.div(chunk * lengths, count, rounding_mode="floor")
        last = torch.div((chunk + 1) * lengths + count - 1, count, rounding_mode="floor")
        inside = (position >= first) & (position < last) & mask.bool()[:, None]
        weight = inside.to(hidden.dtype)
        means = weight @ hidden / weight.sum(-1, keepdim=True).clamp(min=1)
        return means + self.memory_queries
