"""The prefix reader: latents are input tokens before the turn, as in the paper.

Reading:  ``[ memory | turn ]`` under the retriever adapter; the turn's rows are its token states.
Writing:  ``[ memory | turn 1 | queries | turn 2 | queries | ... ]`` under the memory adapter; the states at the ``K``
query rows behind a turn become its latents. Later turns of a segment see the raw earlier ones.

Rows are contiguous and padded on the left as a whole, which recurrent layers need: a gap inside a row would change
their state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
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
from evoemb.modules.backbones.lookup import has_recurrent_layers, has_sliding_layers, is_causal
from evoemb.modules.config import MemoryConfig

_INIT_SEED = 0
_QUERY_STD = 0.02
# At the start all queued latents together weigh as much as exp(-3), 5 %, of one average token.
_GATE_BIAS = -3.0


class SegmentRow(NamedTuple):
    """One stream's part of a memory forward: projected memory ``(M, H)`` and token ids ``(T_j,)`` of the turns."""

    memory: Tensor
    turns: Sequence[Tensor]


class ReadOutput(NamedTuple):
    """Token states ``(N, T, H)`` of the texts, padded on the left, and their mask ``(N, T)``."""

    hidden: Tensor
    attention_mask: Tensor


class PrefixReader(nn.Module):
    """Read and write the memory through input tokens of one backbone; see the module's description.

    Args:
        backbone: Any transformers model that takes ``inputs_embeds``.
        config: ``reader`` must be ``"prefix"``. With ``init="gated"`` the attention to memory rows carries one learned
            bias, so that an untrained memory hardly moves an embedding. Recurrent layers take no bias; there the
            queue's reading projection starts at zero, and zero rows leave their state untouched. Backbones with sliding
            windows go without the bias.
    """

    def __init__(self, backbone: PreTrainedModel, config: MemoryConfig) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list: the backbone is registered elsewhere already
        self.config = config
        self.causal = is_causal(backbone)
        self.absolute_positions = isinstance(_position_table(backbone), nn.Embedding)
        hidden_size = int(backbone.config.hidden_size)
        self.latent_size = hidden_size
        reference = next(backbone.parameters())
        generator = torch.Generator().manual_seed(_INIT_SEED)
        queries = torch.randn(config.num_latents, hidden_size, generator=generator) * _QUERY_STD
        self.memory_queries = nn.Parameter(queries.to(dtype=reference.dtype, device=reference.device))
        self.gate_bias: nn.Parameter | None = None
        if config.init == "gated" and not has_sliding_layers(backbone):
            start = _GATE_BIAS if config.gate_bias is None else config.gate_bias
            bias = torch.tensor(start - math.log(config.capacity_latents))
            self.gate_bias = nn.Parameter(bias.to(dtype=reference.dtype, device=reference.device))

    @property
    def backbone(self) -> PreTrainedModel:
        """The shared backbone."""
        return self._backbone[0]

    def add_adapters(self) -> None:
        """Put both adapters on the projections of every layer."""
        config = self.config
        lora = AdapterConfig(config.lora_rank, config.lora_alpha, config.lora_dropout)
        targets = target_names(self.backbone)
        add_adapter(self.backbone, MEMORY_ADAPTER, lora, targets, seed=_INIT_SEED)
        add_adapter(self.backbone, RETRIEVER_ADAPTER, lora, targets, seed=_INIT_SEED + 1)

    def read(self, input_ids: Tensor, attention_mask: Tensor, memory: Tensor, memory_mask: Tensor) -> ReadOutput:
        """Encode texts that see a memory.

        Args:
            input_ids: ``(N, T)``, padded on either side.
            attention_mask: ``(N, T)``.
            memory: Projected latents ``(N, M, H)``, or ``(1, M, H)`` for one memory that all rows see; newest last.
            memory_mask: True at latents that hold, of the same leading shape.
        """
        texts = self.backbone.get_input_embeddings()(input_ids)
        rows, shared = input_ids.shape[0], memory.shape[0] == 1
        parts: list[Tensor] = []
        kinds: list[Tensor] = []
        for row in range(rows):
            held = memory[0 if shared else row][memory_mask[0 if shared else row].bool()]
            text = texts[row][attention_mask[row].bool()]
            parts.append(torch.cat((held.to(text.dtype), text)))
            kinds.append(_kinds(text, memory=held.shape[0], tokens=text.shape[0]))
        with using(RETRIEVER_ADAPTER):
            hidden = self._run(_pad_left(parts), _pad_left(kinds))
        width = int(attention_mask.sum(-1).max())
        return ReadOutput(hidden[:, hidden.shape[1] - width :], (_pad_left(kinds) == _TEXT)[:, -width:].long())

    def write(self, segments: Sequence[SegmentRow]) -> list[Tensor]:
        """Read one segment of each stream and give the states at the memory queries.

        Returns:
            For each stream ``(J * K, H)``, with ``J`` its turns in the segment, oldest first.
        """
        embed = self.backbone.get_input_embeddings()
        count = self.config.num_latents
        parts: list[Tensor] = []
        kinds: list[Tensor] = []
        for segment in segments:
            pieces = [segment.memory.to(self.memory_queries.dtype)]
            kind = [_kinds(self.memory_queries, memory=segment.memory.shape[0])]
            for ids in segment.turns:
                pieces += [embed(ids), self.memory_queries]
                kind += [_kinds(self.memory_queries, tokens=len(ids)), _kinds(self.memory_queries, queries=count)]
            parts.append(torch.cat(pieces))
            kinds.append(torch.cat(kind))
        kind_rows = _pad_left(kinds)
        with using(MEMORY_ADAPTER):
            hidden = self._run(_pad_left(parts), kind_rows)
        return [row[kind == _QUERY] for row, kind in zip(hidden, kind_rows, strict=True)]

    def continue_rows(self, rows: Sequence[tuple[Sequence[int], Tensor, int]]) -> list[Tensor]:
        """Run the bare base model, no adapter and no gate, over ``[ first tokens | memory | rest ]``.

        Args:
            rows: Token ids ``(T,)``, projected memory ``(M, H)`` and the number of tokens in front of it, for each row.

        Returns:
            For each row the states ``(T + M, H)`` after the last layer, in the order of its inputs.
        """
        embed = self.backbone.get_input_embeddings()
        parts: list[Tensor] = []
        for ids, memory, insert in rows:
            text = embed(torch.as_tensor(ids, device=memory.device))
            parts.append(torch.cat((text[:insert], memory.to(text.dtype), text[insert:])))
        real = _pad_left([torch.ones(part.shape[0], dtype=torch.long, device=part.device) for part in parts])
        with using(None):
            output = self.backbone(
                inputs_embeds=_pad_left(parts),
                attention_mask=real,
                position_ids=(real.cumsum(-1) - 1).masked_fill(real == 0, 1),
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state
        return [row[row.shape[0] - part.shape[0] :] for row, part in zip(hidden, parts, strict=True)]

    def _run(self, inputs_embeds: Tensor, kinds: Tensor) -> Tensor:
        """Run the backbone on rows ``(N, L, H)`` whose kinds ``(N, L)`` are padding, memory, text or query."""
        output = self.backbone(
            inputs_embeds=inputs_embeds,
            attention_mask=self._mask(kinds, inputs_embeds.dtype),
            position_ids=self._positions(kinds),
            use_cache=False,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _mask(self, kinds: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """Give the padding mask ``(N, L)``; with a gate the full mask, beside it where layers are of two kinds."""
        real = (kinds != _PADDING).long()
        if self.gate_bias is None:
            return real
        gated = self._gated_mask(kinds, dtype)
        if not has_recurrent_layers(self.backbone):
            return gated
        kinds_of_layer = set(self.backbone.config.layer_types)
        return {kind: gated if kind == "full_attention" else real for kind in kinds_of_layer}

    def _positions(self, kinds: Tensor) -> Tensor:
        """Count positions over real rows; where positions are absolute, memory and queries share the first one.

        Absolute tables are short (512), and a text keeps the positions it has alone.
        """
        if not self.absolute_positions:
            return ((kinds != _PADDING).long().cumsum(-1) - 1).masked_fill(kinds == _PADDING, 1)
        first = _first_position(self.backbone)
        text = kinds == _TEXT
        return (text.long().cumsum(-1) - 1).clamp(min=0).masked_fill(~text, 0) + first

    def _gated_mask(self, kinds: Tensor, dtype: torch.dtype) -> Tensor:
        """Build the additive mask ``(N, 1, L, L)`` whose memory columns carry the gate's bias."""
        length = kinds.shape[1]
        blocked = torch.finfo(dtype).min
        allowed = (kinds != _PADDING)[:, None, None, :].expand(-1, 1, length, -1)
        if self.causal:
            allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=kinds.device).tril()
        bias = torch.where((kinds == _MEMORY)[:, None, None, :], self.gate_bias, 0.0).to(dtype)  # type: ignore[arg-type]
        return bias.expand(-1, 1, length, -1).masked_fill(~allowed, blocked)


_PADDING, _MEMORY, _TEXT, _QUERY = range(4)


def _kinds(like: Tensor, *, memory: int = 0, tokens: int = 0, queries: int = 0) -> Tensor:
    """Say what each position of a row is."""
    counts = ((_MEMORY, memory), (_TEXT, tokens), (_QUERY, queries))
    return torch.cat([torch.full((count,), kind, device=like.device) for kind, count in counts])


def _pad_left(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows ``(L_i, ...)`` to ``(N, max L, ...)`` with zeros on the left."""
    longest = max(row.shape[0] for row in rows)
    padding = [(0, 0) * (row.dim() - 1) + (longest - row.shape[0], 0) for row in rows]
    return torch.stack([F.pad(row, pad) for row, pad in zip(rows, padding, strict=True)])


def _position_table(backbone: PreTrainedModel) -> object:
    """Give the table of absolute positions, if the backbone has one."""
    return getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)


def _first_position(backbone: PreTrainedModel) -> int:
    """Give the first absolute position: RoBERTa-like models start behind their padding index."""
    padding_idx = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return padding_idx + 1 if isinstance(padding_idx, int) else 0
