"""The prefix reader: latents are input tokens before the turn, as in the paper.

Reading:  ``[ memory | turn ]`` under the retriever adapter; the turn's rows are its token states.
Writing:  ``[ memory | turn 1 | queries | turn 2 | queries | ... ]`` under the memory adapter; the states at the ``K``
query rows behind a turn become its latents. Later turns of a segment see the raw earlier ones.

Rows are contiguous and padded on the left as a whole, which recurrent layers need: a gap inside a row would change
their state. Where a row's states depend on earlier rows only, rows that others continue are run once: texts that see
the same memory, or its beginning, share its keys and values, and an open segment grows by its new turns alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evoemb.modules.adapters import (
    MEMORY_ADAPTER,
    RETRIEVER_ADAPTER,
    AdapterConfig,
    add_adapter,
    target_names,
    using,
)
from evoemb.modules.backbones.last_layer import states_at
from evoemb.modules.backbones.lookup import has_recurrent_layers, has_sliding_layers, is_causal
from evoemb.modules.config import MemoryConfig
from evoemb.modules.readers.base import MemoryReader, SegmentReader, SegmentRow, Written
from evoemb.modules.readers.features import LAST_ONLY, MEMORY_MASK, PASTS, SEEN
from evoemb.modules.readers.features import MEMORY as MEMORY_FEATURE
from evoemb.modules.readers.key_values import KeyValues, PastRows, bytes_a_row, recurrence_can_continue
from evoemb.modules.readers.prefix_rows import (
    MEMORY,
    PADDING,
    QUERY,
    TEXT,
    continued_mask,
    full_mask,
    kinds_of,
    pad_left,
    pad_right,
    query_places,
    running_positions,
    text_positions,
)

_INIT_SEED = 0
_QUERY_STD = 0.02
# At the start the latents of one turn together weigh as much as exp(-4), 2 %, of one average token, and a queue of more
# than 32 turns no more than one of 32. A lower start passes too little gradient to begin learning.
_GATE_BIAS = -4.0
_GATE_TURNS = 32
# The gate has to cross several units, where other weights move by hundredths: at their learning rate, and with the
# little gradient that a nearly closed gate lets through, it would stay closed for thousands of steps.
_GATE_SPEED = 100.0


class ReadOutput(NamedTuple):
    """Token states ``(N, T, H)`` of the texts and their mask ``(N, T)``; of last tokens alone, ``T`` is 1."""

    hidden: Tensor
    attention_mask: Tensor


class PrefixReader(MemoryReader):
    """Read and write the memory through input tokens of one backbone; see the module's description.

    Args:
        backbone: Any transformers model that takes ``inputs_embeds``.
        config: ``reader`` must be ``"prefix"``. With ``init="gated"`` the attention to memory rows carries one learned
            bias, so that an untrained memory hardly moves an embedding. Recurrent layers take no bias; there the
            queue's reading projection starts at zero, and zero rows leave their state untouched. Backbones with sliding
            windows go without the bias.
    """

    stateless_adapter = RETRIEVER_ADAPTER
    has_input_rows = True

    def __init__(self, backbone: PreTrainedModel, config: MemoryConfig) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list: the backbone is registered elsewhere already
        self.config = config
        self.causal = self.joins_turns = self.can_answer = is_causal(backbone)
        self.projection = "paper" if config.init == "paper" else "read"
        recurrent = has_recurrent_layers(backbone)
        # A sliding window would need another past in every layer.
        self._row_by_row = self.causal and not has_sliding_layers(backbone)
        self._row_by_row = self._row_by_row and (not recurrent or recurrence_can_continue())
        self.sees_beginnings = not recurrent
        self.absolute_positions = isinstance(_position_table(backbone), nn.Embedding)
        hidden_size = int(backbone.config.hidden_size)
        self.latent_size = hidden_size
        reference = next(backbone.parameters())
        generator = torch.Generator().manual_seed(_INIT_SEED)
        queries = torch.randn(config.num_latents, hidden_size, generator=generator) * _QUERY_STD
        self.memory_queries = nn.Parameter(queries.to(dtype=reference.dtype, device=reference.device))
        start = _GATE_BIAS if config.gate_bias is None else config.gate_bias
        self._gate_start = start - math.log(max(config.num_latents, config.capacity_latents / _GATE_TURNS))
        self.gate_opening: nn.Parameter | None = None
        if config.init == "gated" and not has_sliding_layers(backbone):
            # Counted from the start, as small steps from a number like -9 are lost in bfloat16.
            self.gate_opening = nn.Parameter(torch.zeros((), dtype=reference.dtype, device=reference.device))

    @property
    def backbone(self) -> PreTrainedModel:
        """The shared backbone."""
        return self._backbone[0]

    @property
    def gate_bias(self) -> Tensor | None:
        """Bias on the attention to every memory row, a float32 scalar; None where there is no gate."""
        return None if self.gate_opening is None else self._gate_start + _GATE_SPEED * self.gate_opening.float()

    def add_adapters(self) -> None:
        """Put both adapters on the projections of every layer."""
        config = self.config
        lora = AdapterConfig(config.lora_rank, config.lora_alpha, config.lora_dropout)
        targets = target_names(self.backbone)
        add_adapter(self.backbone, MEMORY_ADAPTER, lora, targets, seed=_INIT_SEED)
        add_adapter(self.backbone, RETRIEVER_ADAPTER, lora, targets, seed=_INIT_SEED + 1)

    @property
    def segments(self) -> SegmentReader:
        """This reader: it writes turns in segments."""
        return self

    def embed(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Encode texts on a finished memory, or behind one that has been run."""
        texts, last_only = (features["input_ids"], features["attention_mask"]), bool(features.get(LAST_ONLY))
        if PASTS in features:
            read = self.read_after(*texts, features[PASTS], features[SEEN], last_only=last_only)
        else:
            read = self.read(*texts, features[MEMORY_FEATURE], features[MEMORY_MASK], last_only=last_only)
        return {"token_embeddings": read.hidden, "attention_mask": read.attention_mask}

    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor,
        *,
        last_only: bool = False,
    ) -> ReadOutput:
        """Encode texts that see a memory.

        Args:
            input_ids: ``(N, T)``, padded on either side.
            attention_mask: ``(N, T)``.
            memory: Projected latents ``(N, M, H)``, or ``(1, M, H)`` for one memory that all rows see; newest last.
            memory_mask: True at latents that hold, of the same leading shape.
            last_only: Give each text's last token alone, which spares the others part of the last layer.

        Returns:
            Token states padded on the left, with their mask.
        """
        texts = self.backbone.get_input_embeddings()(input_ids)
        rows, shared = input_ids.shape[0], memory.shape[0] == 1
        parts: list[Tensor] = []
        kinds: list[Tensor] = []
        for row in range(rows):
            held = memory[0 if shared else row][memory_mask[0 if shared else row].bool()]
            text = texts[row][attention_mask[row].bool()]
            parts.append(torch.cat((held.to(text.dtype), text)))
            kinds.append(kinds_of(text.device, memory=held.shape[0], tokens=text.shape[0]))
        kind_rows = pad_left(kinds)
        inputs = pad_left(parts)
        with using(RETRIEVER_ADAPTER):
            if last_only:
                places = torch.full((rows, 1), inputs.shape[1] - 1, device=inputs.device)
                return ReadOutput(self._run(inputs, kind_rows, places), torch.ones_like(places))
            hidden = self._run(inputs, kind_rows)
        width = int(attention_mask.sum(-1).max())
        return ReadOutput(hidden[:, hidden.shape[1] - width :], (kind_rows == TEXT)[:, -width:].long())

    @property
    def continues(self) -> bool:
        """Whether rows can be continued from keys and values, exactly and cheaply, as things stand now."""
        # Not the backbone's property of that name: newer transformers rename it and warn.
        checkpointing = self.training and any(
            getattr(module, "gradient_checkpointing", False) for module in self.backbone.modules()
        )
        attention = getattr(self.backbone.config, "_attn_implementation", None)
        return self._row_by_row and not checkpointing and attention in ("sdpa", "eager")

    def run_memories(self, memories: Sequence[Tensor], pasts: Sequence[KeyValues | None]) -> list[KeyValues]:
        """Run projected latents ``(M_i, H)`` as texts would see them; a past holds the first of its memory already.

        Where layers are recurrent, one memory at a time: padding would go into their state.
        """
        new = [memory[0 if past is None else past.length :] for memory, past in zip(memories, pasts, strict=True)]
        parts = [one.to(self.memory_queries.dtype) for one in new]
        kinds = [kinds_of(one.device, memory=one.shape[0]) for one in new]
        nothing = torch.zeros(len(parts), 1, dtype=torch.long, device=parts[0].device)  # only the record is read
        with using(RETRIEVER_ADAPTER):
            _, rows = self._continue(parts, kinds, pasts, None, keep=True, places=nothing)
        return rows.kept([(one.shape[0], one.shape[0]) for one in new])

    def read_after(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pasts: Sequence[KeyValues],
        seen: Sequence[int],
        *,
        last_only: bool = False,
    ) -> ReadOutput:
        """Encode texts behind memories that have been run.

        Args:
            input_ids: ``(N, T)``, padded on the right.
            attention_mask: ``(N, T)``.
            pasts: One memory that all rows see, or one a row.
            seen: How many latents of it each row sees, from the oldest on.
            last_only: As in :meth:`read`.

        Returns:
            Token states padded on the right, with their mask.
        """
        texts = self.backbone.get_input_embeddings()(input_ids)
        kinds = attention_mask.long() * TEXT
        places = attention_mask.long().sum(-1, keepdim=True) - 1 if last_only else None
        with using(RETRIEVER_ADAPTER):
            hidden, _ = self._continue(texts, kinds, pasts, seen, keep=False, places=places)
        return ReadOutput(hidden, attention_mask if places is None else torch.ones_like(places))

    def kept_bytes(self, rows: int) -> int:
        """Estimate the bytes of what a later turn continues, for ``rows`` rows of memory, turns and queries."""
        return rows * bytes_a_row(self.backbone.config, self.memory_queries.dtype)

    def write(self, segments: Sequence[SegmentRow], *, keep: bool = False) -> list[Written]:
        """Read one segment of each stream and give the states at the memory queries.

        Args:
            keep: Also give each segment's keys and values, so that later turns can continue it. Only where
                :attr:`continues`.
        """
        embed = self.backbone.get_input_embeddings()
        queries, device = self.memory_queries, self.memory_queries.device
        parts: list[Tensor] = []
        kinds: list[Tensor] = []
        for segment in segments:
            memory = segment.memory if segment.past is None else segment.memory[:0]
            pieces, kind = [memory.to(queries.dtype)], [kinds_of(device, memory=memory.shape[0])]
            for ids in segment.turns:
                pieces += [embed(ids), queries]
                kind += [kinds_of(device, tokens=len(ids)), kinds_of(device, queries=queries.shape[0])]
            parts.append(torch.cat(pieces))
            kinds.append(torch.cat(kind))
        pasts = [segment.past for segment in segments]
        with using(MEMORY_ADAPTER):
            # Padding behind a row would go into a recurrent layer's state.
            keep = keep and (self.sees_beginnings or len(parts) == 1)
            if not keep and not any(pasts):
                kind_rows = pad_left(kinds)
                hidden = self._run(pad_left(parts), kind_rows, query_places(kind_rows))
            else:
                kind_rows = pad_right(kinds)
                hidden, rows = self._continue(parts, kind_rows, pasts, None, keep=keep, places=query_places(kind_rows))
        states = [row[: int((kind == QUERY).sum())] for row, kind in zip(hidden, kinds, strict=True)]
        kept: Sequence[KeyValues | None] = [None] * len(states)
        if keep:
            kept = rows.kept([(len(places), int((places == MEMORY).sum())) for places in kinds])
        return [Written(*one) for one in zip(states, kept, strict=True)]

    def _run(self, inputs_embeds: Tensor, kinds: Tensor, places: Tensor | None = None) -> Tensor:
        """Run the backbone on whole rows ``(N, L, H)`` whose kinds ``(N, L)`` are padding, memory, text or query.

        Returns:
            States of all rows, or at ``places`` ``(N, S)`` alone.
        """
        return self._states(
            places,
            inputs_embeds=inputs_embeds,
            attention_mask=self._mask(kinds, inputs_embeds.dtype),
            position_ids=self._positions(kinds),
        )

    def _states(self, places: Tensor | None, **inputs: object) -> Tensor:
        """Run the backbone and give its last states, all ``(N, L, H)`` or those at ``places`` ``(N, places, H)``."""
        if places is not None:
            return states_at(self.backbone, places, use_cache=False, **inputs)
        hidden: Tensor = self.backbone(use_cache=False, **inputs).last_hidden_state
        return hidden

    def _continue(
        self,
        parts: Sequence[Tensor] | Tensor,
        kinds: Sequence[Tensor] | Tensor,
        pasts: Sequence[KeyValues | None],
        seen: Sequence[int] | None,
        *,
        keep: bool,
        places: Tensor | None,
    ) -> tuple[Tensor, PastRows]:
        """Run rows behind their pasts; they are padded on the right, where causal rows do not look.

        Args:
            parts: Input embeddings of each row, or all of them ``(N, L, H)``.
            kinds: What the positions of each row are.
            pasts: One past for all rows, or one a row.
            seen: Rows of its past that each row sees; None means all.
            places: Own rows whose states are wanted, ``(N, S)``; None means all.
        """
        inputs = parts if isinstance(parts, Tensor) else pad_right(parts)
        kind_rows = kinds if isinstance(kinds, Tensor) else pad_right(kinds)
        count = inputs.shape[0]
        every = list(pasts) if len(pasts) == count else [pasts[0]] * count
        lengths = [0 if past is None else past.length for past in every]
        memory_rows = [0 if past is None else past.memory_rows for past in every]
        if seen is not None:
            memory_rows = [min(rows, sees) for rows, sees in zip(memory_rows, seen, strict=True)]
        past_rows = torch.tensor(lengths if seen is None else list(seen), device=inputs.device)
        past_memory = torch.tensor(memory_rows, device=inputs.device)
        rows = PastRows(pasts, count, keep=keep)
        mask = continued_mask(kind_rows, past_rows, past_memory, rows.width, self.gate_bias, inputs.dtype)
        hidden = self._states(
            places,
            inputs_embeds=inputs,
            attention_mask=mask if self.sees_beginnings else {"full_attention": mask, "linear_attention": None},
            position_ids=past_rows[:, None] + torch.arange(inputs.shape[1], device=inputs.device),
            past_key_values=rows,
        )
        return hidden, rows

    def _mask(self, kinds: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """Return the padding mask ``(N, L)``; with a gate the full mask, beside it where layers are of two kinds."""
        real = (kinds != PADDING).long()
        if self.gate_bias is None:
            return real
        gated = full_mask(kinds, self.gate_bias, dtype, causal=self.causal)
        if not has_recurrent_layers(self.backbone):
            return gated
        kinds_of_layer = set(self.backbone.config.layer_types)
        return {kind: gated if kind == "full_attention" else real for kind in kinds_of_layer}

    def _positions(self, kinds: Tensor) -> Tensor:
        """Count positions over real rows, or over text alone where the backbone's positions are absolute."""
        if self.absolute_positions:
            return text_positions(kinds, _first_position(self.backbone))
        return running_positions(kinds)


def _position_table(backbone: PreTrainedModel) -> object:
    """Return the table of absolute positions, if the backbone has one."""
    return getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)


def _first_position(backbone: PreTrainedModel) -> int:
    """Return the first absolute position: RoBERTa-like models start behind their padding index."""
    padding_idx = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return padding_idx + 1 if isinstance(padding_idx, int) else 0
