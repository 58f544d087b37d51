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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

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
from evoemb.modules.backbones.lookup import family_of
from evoemb.modules.config import MemoryConfig
from evoemb.modules.readers.base import MemoryReader
from evoemb.modules.readers.features import (
    BUCKETS,
    CARRIED,
    CARRIED_MASK,
    LATENTS,
    MEMORY,
    MEMORY_MASK,
    ROW_INDEX,
    ROW_STREAM,
)
from evoemb.modules.readers.watching import MemoryAttention, Watch
from evoemb.modules.readers.windows import Queue, Window, attend

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

    ``rows`` names them in the block ``(n,)``; ``input_ids`` and ``mask`` are ``(n, T)``; ``window`` is what they see of
    the queue; ``hidden`` and ``queries`` are the states entering the next layer, ``(n, T, H)`` and ``(n, K, H)``.
    """

    rows: Tensor
    input_ids: Tensor
    mask: Tensor
    inputs: LayerInputs
    window: Window
    hidden: Tensor
    queries: Tensor
    reading: str | None = None
    """The adapter under which the rows' texts run; None is the bare backbone."""

    def texts(self) -> list[tuple[int, ...]]:
        """Return the rows' token ids without padding."""
        lengths = self.mask.sum(-1).tolist()
        return [tuple(ids[:length].tolist()) for ids, length in zip(self.input_ids, lengths, strict=True)]


class AttentionReader(MemoryReader):
    """Read the queue by attention in the top layers of one backbone; see the module's description.

    Args:
        backbone: One whose layers are known, see :func:`evoemb.modules.backbones.lookup.family_of`.
        config: ``reader`` must be ``"attention"``.
    """

    def __init__(self, backbone: PreTrainedModel, config: MemoryConfig) -> None:
        super().__init__()
        family = family_of(backbone)
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
        self.projection = "none"
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

    def embed(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Encode texts on a finished memory, or a block of turns, which also leaves new latents."""
        texts = (features["input_ids"], features["attention_mask"])
        if CARRIED not in features:
            return {"token_embeddings": self.read(*texts, features[MEMORY], features[MEMORY_MASK])}
        carried, turns = (features[CARRIED], features[CARRIED_MASK]), (features[ROW_STREAM], features[ROW_INDEX])
        output = self.read_and_write(*texts, *carried, *turns, features.get(BUCKETS))
        return {"token_embeddings": output.hidden, LATENTS: output.latents}

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
        rows = torch.arange(len(input_ids), device=input_ids.device)
        places = torch.arange(memory.shape[0] * memory.shape[1], device=memory.device).view(memory.shape[:2])
        window = Window.of(*(part.expand(len(rows), -1) for part in (places, memory_mask.bool())))
        bucket = self._enter(input_ids, attention_mask, rows, window)
        bucket.reading = self._reading(bool(sees.any()))
        for index in range(self.num_memory_layers):
            queue = self._queue(index, self._layer_latents(memory, index), memory.shape[1])
            self._run_layer(index, bucket, queue, write=False)
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
        places = row_stream[:, None] * holds.shape[1] + slots.clamp(min=0)

        whole: Sequence[Sequence[int]] = [range(len(input_ids))]
        parts = [torch.as_tensor(rows, device=input_ids.device) for rows in buckets or whole]
        sees = valid.any(-1)
        # Rows that see as much stand together, and attend without what others see.
        parts = [part[valid[part].sum(-1).argsort(stable=True)] for part in parts]
        if self.config.adapted_reading:
            parts = [part[chosen] for part in parts for chosen in (sees[part], ~sees[part]) if chosen.any()]
        running = [
            self._enter(input_ids[rows], attention_mask[rows], rows, Window.of(places[rows], valid[rows]))
            for rows in parts
        ]
        for bucket in running:
            bucket.reading = self._reading(bool(sees[bucket.rows[0]]))
        order = torch.cat(parts)
        latents: list[Tensor] = []
        for index in range(self.num_memory_layers):
            entering = torch.cat([bucket.queries for bucket in running])
            latents.append(entering[order.argsort()])
            fresh = entering.new_zeros(streams, turns, num_latents, entering.shape[-1])
            fresh = fresh.index_put((row_stream[order], row_index[order]), entering).flatten(1, 2)
            queued = torch.cat((self._layer_latents(carried, index).to(fresh.dtype), fresh), dim=1)
            queue = self._queue(index, queued, width)
            for bucket in running:
                # The last layer's outcome at the query tokens enters no layer, so it is nobody's latent.
                self._run_layer(index, bucket, queue, write=index + 1 < self.num_memory_layers)
        return BlockOutput(self._leave(running, order, input_ids.shape[1]), torch.cat(latents, dim=-1))

    def _enter(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, window: Window) -> _Bucket:
        """Run rows up to the first memory layer, cut to their longest."""
        longest = int(attention_mask.sum(-1).max())
        input_ids, mask = input_ids[:, :longest], attention_mask[:, :longest]
        inputs = self.family.embed(input_ids, mask)
        hidden = inputs.hidden
        for layer in range(self.first_layer):
            hidden = self.family.run(layer, inputs, hidden)
        return _Bucket(rows, input_ids, mask, inputs, window, hidden, self._first_queries(hidden, mask))

    def _leave(self, running: Sequence[_Bucket], order: Tensor, length: int) -> Tensor:
        """Put the buckets' states back into one tensor ``(N, T, H)`` in the order of the rows."""
        states = [self.family.final(bucket.hidden) for bucket in running]
        padded = [F.pad(state, (0, 0, 0, length - state.shape[1])) for state in states]
        return torch.cat(padded)[order.argsort()]

    def _reading(self, sees_memory: bool) -> str | None:
        """Name the adapter of texts that see a memory, or see none."""
        return MEMORY_ADAPTER if sees_memory and self.config.adapted_reading else None

    def _run_layer(self, index: int, bucket: _Bucket, queue: Queue | None, *, write: bool) -> None:
        """Run a bucket's text, and with ``write`` its query tokens, through one memory layer.

        With gradient checkpointing the backward pass runs it again, the gathering of keys included, instead of holding
        what lies between.
        """
        family, layer = self.family, self.first_layer + index

        def run(hidden: Tensor, queries: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
            with using(bucket.reading):
                text = family.heads(layer, hidden, bucket.inputs)
            with using(MEMORY_ADAPTER):
                own = family.heads(layer, queries, None) if write else None
            attended = self._attend(index, bucket, text, own, Queue(*parts) if parts else None)
            length = hidden.shape[1]
            with using(bucket.reading):
                hidden = family.finish(layer, hidden, attended[:, :, :length])
            with using(MEMORY_ADAPTER):
                return hidden, family.finish(layer, queries, attended[:, :, length:]) if write else queries

        block: Any = family.layers[layer]
        again = getattr(block, "_gradient_checkpointing_func", None) if block.training else None
        tensors = (bucket.hidden, bucket.queries, *(queue or ()))
        if again is not None and getattr(block, "gradient_checkpointing", False):
            bucket.hidden, bucket.queries = again(run, *tensors)
        else:
            bucket.hidden, bucket.queries = run(*tensors)

    def _attend(self, index: int, bucket: _Bucket, text: Heads, own: Heads | None, queue: Queue | None) -> Tensor:
        """Return what the text attends to, and after it the query tokens: the memory, the whole turn and each other.

        Args:
            index: Memory layer, from 0.
            bucket: Its rows.
            text: Of its tokens, ``(n, heads, T, d)``.
            own: Of its query tokens, ``(n, heads, K, d)``; None without them.
            queue: None without a memory.

        Returns:
            Attended values, ``(n, heads, T + K, d)``.
        """
        family, layer, window = self.family, self.first_layer + index, bucket.window
        if self._watched is not None and queue is not None:
            self._watched.note(index, bucket.texts(), bucket.mask, text, queue, window, self.config.num_latents)
            if own is not None:
                self._watched.note(index, bucket.texts(), None, own, queue, window, self.config.num_latents)
        mask = family.text_mask(layer, bucket.mask)
        over = partial(attend, queue=queue, window=window, dropout=family.dropout(layer) if self.training else 0.0)
        if own is None:
            return over(text, text, mask)
        count = own.query.shape[2]
        whole_turn = F.pad(bucket.mask.bool(), (0, count), value=True)[:, None, None, :].expand(-1, 1, count, -1)
        key, value = torch.cat((text.free_key, own.key), dim=2), torch.cat((text.value, own.value), dim=2)
        if text.free_key is not text.key:
            # Text sees text by its places, query tokens see it without.
            return torch.cat(
                (over(text, text, mask), over(own, Heads(own.query, key, value, own.free_query, key), whole_turn)),
                dim=2,
            )
        query = torch.cat((text.query, own.query), dim=2)
        both = Heads(query, key, value, query, key)
        return over(both, both, torch.cat((F.pad(mask, (0, count)), whole_turn), dim=2))

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

    def _queue(self, index: int, latents: Tensor, width: int) -> Queue | None:
        """Project latents ``(B, latents, H)`` of a memory layer under the retriever adapter, for windows of ``width``.

        A slot's age is counted in turns, 1 for the turn just before. What it adds is linear between powers of two.
        """
        if not width:
            return None
        with using(RETRIEVER_ADAPTER):
            key, value = self.family.memory_heads(self.first_layer + index, latents)
        num_latents = self.config.num_latents
        behind = torch.arange(width, 0, -1, device=latents.device)
        age = torch.div(behind + num_latents - 1, num_latents, rounding_mode="floor")
        knot = torch.log2(age.to(self.age_bias.dtype)).clamp(max=self.num_ages - 1)
        knots = torch.arange(self.num_ages, device=age.device)
        weight = (1 - (knot[:, None] - knots).abs()).clamp(min=0).to(self.age_bias.dtype)  # (W, A)
        return Queue(key, value, self.age_bias[index], self.age_key[index], weight)

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
