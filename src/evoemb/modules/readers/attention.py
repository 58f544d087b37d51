"""The attention reader: the top layers attend to the queue, and latents start from the turn's own text states.

In each memory layer the keys and values of queued latents join the turn's self-attention, with a bias and a key offset
that depend on head and age. A turn's ``K`` latents are ``K`` query tokens that start as chunk means of the turn's text
states and run beside it; the latents of a layer are their states as they enter it. So a layer's latents depend on
layers below only, and a block of turns runs in one pass, layer by layer, exactly as turn by turn.

Adapters lie on the memory path alone: ``memory`` on the query tokens, ``retriever`` on the latents' keys and values.
With ``adapted_reading`` texts that see a memory run under ``memory`` too. With an empty memory a text is encoded by the
bare backbone in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoemb._errors import InputError, UnsupportedBackboneError
from evoemb.modules.adapters import (
    MEMORY_ADAPTER,
    RETRIEVER_ADAPTER,
    AdapterConfig,
    add_adapter,
    target_names,
    using,
)
from evoemb.modules.backbones.family import Heads, LayerFamily, LayerInputs
from evoemb.modules.config import MemoryConfig
from evoemb.modules.readers.watching import MemoryAttention, Watch, attention_by_age

# Fresh weights are the same in every process, so that a saved state fits the same fresh model tomorrow.
_INIT_SEED = 0
# With every age's weight falling as 1/age, all queued latents together weigh a few percent of one turn's tokens.
_GATE_BIAS = -3.0
_QUERY_STD = 0.02


class BlockOutput(NamedTuple):
    """Text states ``(N, T, H)`` and latents ``(N, K, S)`` of a block of turns."""

    hidden: Tensor
    latents: Tensor


@dataclass(slots=True)
class _Bucket:
    """Rows of like length that go through a layer together, without the padding of longer ones.

    ``rows`` names them in the block ``(n,)``; ``input_ids`` and ``mask`` are ``(n, T)``; ``hidden`` and ``queries`` are
    the states entering the next layer, ``(n, T, H)`` and ``(n, K, H)``.
    """

    rows: Tensor
    input_ids: Tensor
    mask: Tensor
    inputs: LayerInputs
    hidden: Tensor
    queries: Tensor
    reading: str | None = None
    """The adapter under which the rows' texts run; None is the bare backbone."""


class _Window(NamedTuple):
    """What rows see of the queue in one layer, slots oldest first.

    Keys (with their age offset) and values ``(n or 1, heads, W, d)``, the bias of each head ``(heads, W)``, and which
    slots hold, ``(n or 1, W)``.
    """

    key: Tensor
    value: Tensor
    bias: Tensor
    valid: Tensor


class _Queue(NamedTuple):
    """The queue in one layer, as tensors that gradients go through.

    Keys and values of whole streams, or of one that all rows see, ``(B or 1, heads, L, d)``; for the slots of a window,
    the bias of each head ``(heads, W)`` and what is added to keys ``(heads, W, d)``.
    """

    key: Tensor
    value: Tensor
    bias: Tensor
    offset: Tensor

    def window(self, valid: Tensor) -> _Window:
        """Give the window of rows that see all of it."""
        return _Window(self.key + self.offset, self.value, self.bias, valid)

    def of_rows(self, *, streams: Tensor, slots: Tensor, valid: Tensor) -> _Window:
        """Gather the window of each row: ``slots`` ``(n, W)`` of its stream, ``(n,)``."""
        # Advanced indices stand apart, so the gathered axes come first.
        chosen = (streams[:, None], slice(None), slots)
        key, value = (part[chosen].transpose(1, 2) for part in (self.key, self.value))
        return _Window(key + self.offset, value, self.bias, valid)


class AttentionReader(nn.Module):
    """Read the queue by attention in the top layers of one backbone; see the module's description.

    Args:
        family: The backbone's layers.
        config: ``reader`` must be ``"attention"``.
    """

    def __init__(self, family: LayerFamily, config: MemoryConfig) -> None:
        super().__init__()
        self._family = [family]  # in a list: the backbone is registered elsewhere already
        self._watched: Watch | None = None
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
        sees = memory_mask.any(-1)
        if self.config.adapted_reading and sees.any() and not sees.all():
            # Rows without memory run on the bare backbone, the others under the adapter.
            groups = (sees.nonzero()[:, 0], (~sees).nonzero()[:, 0])
            parts = [
                self.read(input_ids[rows], attention_mask[rows], memory[rows], memory_mask[rows]) for rows in groups
            ]
            padded = [F.pad(part, (0, 0, 0, input_ids.shape[1] - part.shape[1])) for part in parts]
            return torch.cat(padded)[torch.cat(groups).argsort()]
        bucket = self._enter(input_ids, attention_mask)
        bucket.reading = self._reading(bool(sees.any()))
        for index in range(self.num_memory_layers):
            queue = None
            if memory.shape[1]:
                heads = self._memory_heads(index, self._layer_latents(memory, index))
                queue = _Queue(*heads, *self._age_terms(index, memory.shape[1]))
            self._run_layer(index, bucket, queue, lambda seen: seen.window(memory_mask), write=False)
        return self.family.final(bucket.hidden)

    def read_and_write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        carried: Tensor,
        carried_mask: Tensor,
        row_stream: Tensor,
        row_index: Tensor,
        buckets: Sequence[Sequence[int]] | None = None,
    ) -> BlockOutput:
        """Encode a block of consecutive turns of several streams; each turn sees the turns before it.

        Args:
            input_ids: ``(N, T)``, one turn a row, in any order, padded on the right.
            attention_mask: ``(N, T)``.
            carried: Latents that the streams bring along, ``(B, M, S)``, newest last.
            carried_mask: True at latents that hold, ``(B, M)``.
            row_stream: Which stream a row belongs to, ``(N,)``.
            row_index: Which turn of the block a row is in its stream, from 0 without gaps, ``(N,)``.
            buckets: Rows that go through a layer together; None takes all at once. Changes no number.

        Returns:
            Text states and new latents, in the order of the rows.
        """
        num_latents = self.config.num_latents
        streams, held = carried.shape[:2]
        turns = int(row_index.max()) + 1
        width = min(self.config.capacity_latents, held + (turns - 1) * num_latents)
        # A row's window ends where its own latents would begin.
        ends = held + row_index * num_latents
        slots = ends[:, None] - width + torch.arange(width, device=carried.device)
        holds = F.pad(carried_mask.bool(), (0, turns * num_latents), value=True)
        valid = (slots >= 0) & holds[row_stream[:, None], slots.clamp(min=0)]
        slots = slots.clamp(min=0)

        whole: Sequence[Sequence[int]] = [range(len(input_ids))]
        parts = [torch.as_tensor(rows, device=input_ids.device) for rows in buckets or whole]
        sees = valid.any(-1)
        if self.config.adapted_reading:
            parts = [part[chosen] for part in parts for chosen in (sees[part], ~sees[part]) if chosen.any()]
        running = [self._enter(input_ids[rows], attention_mask[rows], rows) for rows in parts]
        for bucket in running:
            bucket.reading = self._reading(bool(sees[bucket.rows[0]]))
        order = torch.cat(parts)
        latents: list[Tensor] = []
        for index in range(self.num_memory_layers):
            entering = torch.cat([bucket.queries for bucket in running])
            latents.append(entering[order.argsort()])
            queue: _Queue | None = None
            if width:
                fresh = entering.new_zeros(streams, turns, num_latents, entering.shape[-1])
                fresh = fresh.index_put((row_stream[order], row_index[order]), entering).flatten(1, 2)
                queued = torch.cat((self._layer_latents(carried, index).to(fresh.dtype), fresh), dim=1)
                queue = _Queue(*self._memory_heads(index, queued), *self._age_terms(index, width))
            for bucket in running:
                rows = bucket.rows
                own = partial(_Queue.of_rows, streams=row_stream[rows], slots=slots[rows], valid=valid[rows])
                # The last layer's outcome at the query tokens enters no layer, so it is nobody's latent.
                self._run_layer(index, bucket, queue, own, write=index + 1 < self.num_memory_layers)
        return BlockOutput(self._leave(running, order, input_ids.shape[1]), torch.cat(latents, dim=-1))

    def _enter(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor | None = None) -> _Bucket:
        """Run rows up to the first memory layer, cut to their longest."""
        longest = int(attention_mask.sum(-1).max())
        input_ids, mask = input_ids[:, :longest], attention_mask[:, :longest]
        inputs = self.family.embed(input_ids, mask)
        hidden = inputs.hidden
        for layer in range(self.first_layer):
            hidden = self.family.run(layer, inputs, hidden)
        rows = torch.arange(len(input_ids), device=input_ids.device) if rows is None else rows
        return _Bucket(rows, input_ids, mask, inputs, hidden, self._first_queries(hidden, mask))

    def _leave(self, running: Sequence[_Bucket], order: Tensor, length: int) -> Tensor:
        """Put the buckets' states back into one tensor ``(N, T, H)`` in the order of the rows."""
        states = [self.family.final(bucket.hidden) for bucket in running]
        padded = [F.pad(state, (0, 0, 0, length - state.shape[1])) for state in states]
        return torch.cat(padded)[order.argsort()]

    def _reading(self, sees_memory: bool) -> str | None:
        """Name the adapter of texts that see a memory, or see none."""
        return MEMORY_ADAPTER if sees_memory and self.config.adapted_reading else None

    def _run_layer(
        self, index: int, bucket: _Bucket, queue: _Queue | None, seen_of: Callable[[_Queue], _Window], *, write: bool
    ) -> None:
        """Run a bucket's text, and with ``write`` its query tokens, through one memory layer.

        With gradient checkpointing the backward pass runs it again, the gathering of windows included, instead of
        holding what lies between.
        """

        def run(hidden: Tensor, queries: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
            entering = replace(bucket, hidden=hidden, queries=queries)
            seen = seen_of(_Queue(*parts)) if parts else None
            left, text = self._read_layer(index, entering, seen)
            return left, self._write_layer(index, entering, text, seen) if write else queries

        layer: Any = self.family.layers[self.first_layer + index]
        again = getattr(layer, "_gradient_checkpointing_func", None) if layer.training else None
        tensors = (bucket.hidden, bucket.queries, *(queue or ()))
        if again is not None and getattr(layer, "gradient_checkpointing", False):
            bucket.hidden, bucket.queries = again(run, *tensors)
        else:
            bucket.hidden, bucket.queries = run(*tensors)

    def _read_layer(self, index: int, bucket: _Bucket, seen: _Window | None) -> tuple[Tensor, Heads]:
        """Run the text through one memory layer; give its states and the heads it was projected to."""
        family, layer = self.family, self.first_layer + index
        with using(bucket.reading):
            text = family.heads(layer, bucket.hidden, bucket.inputs)
            self._note(index, bucket, text, seen, of_latents=False)
            attended = self._attend(layer, text, text, family.text_mask(layer, bucket.mask), seen)
            return family.finish(layer, bucket.hidden, attended), text

    def _write_layer(self, index: int, bucket: _Bucket, text: Heads, seen: _Window | None) -> Tensor:
        """Run the query tokens through one layer; they see the memory, the whole turn and each other."""
        family, layer, queries = self.family, self.first_layer + index, bucket.queries
        with using(MEMORY_ADAPTER):
            own = family.heads(layer, queries, None)
            self._note(index, bucket, own, seen, of_latents=True)
            both = Heads(
                own.query,
                torch.cat((text.free_key, own.key), dim=2),
                torch.cat((text.value, own.value), dim=2),
                own.free_query,
                torch.cat((text.free_key, own.free_key), dim=2),
            )
            count = queries.shape[1]
            mask = F.pad(bucket.mask.bool(), (0, count), value=True)[:, None, None, :]
            attended = self._attend(layer, own, both, mask.expand(-1, 1, count, -1), seen)
            return family.finish(layer, queries, attended)

    def _attend(self, layer: int, queries: Heads, keys: Heads, mask: Tensor, seen: _Window | None) -> Tensor:
        """Attend to ``keys`` where ``mask`` allows, and to the memory without positions, in one softmax."""
        family = self.family
        dropout = family.dropout(layer) if self.training else 0.0
        scale = family.head_dim**-0.5
        if seen is None:
            return F.scaled_dot_product_attention(
                queries.query, keys.key, keys.value, attn_mask=mask, dropout_p=dropout, scale=scale
            )
        rows, heads, length = queries.query.shape[:3]
        memory_key = seen.key.expand(rows, -1, -1, -1)
        memory_value = seen.value.expand(rows, -1, -1, -1)
        if queries.free_query is queries.query:
            query, key = queries.query, torch.cat((memory_key, keys.key), dim=2)
        else:
            # Memory has no positions but text has: score the two parts in separate halves of a doubled head.
            query = torch.cat((queries.free_query, queries.query), dim=-1)
            key = torch.cat((F.pad(memory_key, (0, family.head_dim)), F.pad(keys.key, (family.head_dim, 0))), dim=2)
        blocked = torch.finfo(query.dtype).min
        to_memory = torch.where(seen.valid[:, None, None, :], seen.bias[None, :, None, :], blocked)
        to_text = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, blocked)
        shapes = (rows, heads, length, -1)
        joint = torch.cat((to_memory.to(query.dtype).expand(shapes), to_text.expand(shapes)), dim=-1)
        value = torch.cat((memory_value, keys.value), dim=2)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=joint, dropout_p=dropout, scale=scale)

    def _note(self, index: int, bucket: _Bucket, queries: Heads, seen: _Window | None, *, of_latents: bool) -> None:
        """Note how rows' queries attend to what they see of the memory, while somebody watches."""
        if self._watched is None or seen is None:
            return
        lengths = bucket.mask.sum(-1).tolist()
        texts = [tuple(ids[:length].tolist()) for ids, length in zip(bucket.input_ids, lengths, strict=True)]
        rows = [row for row, ids in enumerate(texts) if ids in self._watched.texts]
        if not rows:
            return
        query, valid = queries.free_query[rows], seen.valid.expand(len(texts), -1)[rows]
        key = seen.key.expand(len(texts), -1, -1, -1)[rows]
        weights = attention_by_age(query, key, seen.bias, valid, self.config.num_latents)
        tokens = query.new_ones(query.shape[0], query.shape[2]) if of_latents else bucket.mask[rows].to(query.dtype)
        weights = (weights * tokens[:, None, :, None]).sum(2) / tokens.sum(-1)[:, None, None]
        turns = (valid.sum(-1) / self.config.num_latents).ceil().long()
        found = MemoryAttention(index, of_latents, [texts[row] for row in rows], turns.tolist(), weights)
        self._watched.found.append(found)

    @contextmanager
    def watching(self, texts: Collection[tuple[int, ...]]) -> Iterator[list[MemoryAttention]]:
        """Collect where texts, and the query tokens that run beside them, look in memory, in the forwards run inside.

        Costs a second attention of these texts over the memory; gradients go through it.

        Args:
            texts: Token ids of the texts to watch.

        Raises:
            InputError: Gradient checkpointing is on: what is collected would not be run again with its layer.
        """
        if self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in self.family.layers):
            raise InputError(
                "Attention is watched while gradient checkpointing is on, which runs layers a second time without it. "
                "Switch one of them off."
            )
        before, self._watched = self._watched, Watch(texts)
        try:
            yield self._watched.found
        finally:
            self._watched = before

    def _layer_latents(self, latents: Tensor, index: int) -> Tensor:
        """Cut the part ``(B, M, H)`` of stored latents ``(B, M, S)`` that belongs to one memory layer."""
        size = self.latent_size // self.num_memory_layers
        return latents[..., index * size : (index + 1) * size]

    def _memory_heads(self, index: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Project latents ``(B, M, H)`` of memory layer ``index`` to keys and values, under the retriever adapter."""
        with using(RETRIEVER_ADAPTER):
            return self.family.memory_heads(self.first_layer + index, latents)

    def _age_terms(self, index: int, width: int) -> tuple[Tensor, Tensor]:
        """Give the bias ``(heads, W)`` and the key offset ``(heads, W, d)`` of a window's slots in one layer.

        A slot's age is counted in turns, 1 for the turn just before. The terms are linear between powers of two.
        """
        num_latents = self.config.num_latents
        behind = torch.arange(width, 0, -1, device=self.age_bias.device)
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
