"""What a causal backbone keeps of rows it has already run, so that later rows continue them exactly.

In a causal backbone a row's states depend on earlier rows only. So the memory in front of a text, or a segment's turns
so far, need to be run once. Attention layers keep keys and values of every row; recurrent layers keep the state behind
the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache


class AttendedRows(NamedTuple):
    """Keys and values of an attention layer, ``(heads, length, d)`` each."""

    key: Tensor
    value: Tensor


class RecurrentState(NamedTuple):
    """State of a gated linear attention layer behind its last row: convolution ``(channels, width)`` and recurrence."""

    convolution: Tensor
    recurrence: Tensor


Layer = AttendedRows | RecurrentState


@dataclass(frozen=True, slots=True)
class KeyValues:
    """What is kept of ``length`` rows, a value that is never changed in place.

    Args:
        layers: One entry a layer of the backbone.
        length: Rows run.
        memory_rows: How many of the rows, from the front, are memory: the gate weighs them.
    """

    layers: tuple[Layer, ...]
    length: int
    memory_rows: int

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


def recurrence_can_continue() -> bool:
    """Tell whether the installed transformers passes recurrent states the way :class:`PastRows` gives them.

    Earlier versions restart gated linear attention in a call of several rows, whatever was run before.
    """
    return all(hasattr(Cache, name) for name in ("get_conv_state", "get_recurrent_state", "is_recording_past"))


class PastRows:
    """What a backbone gets as ``past_key_values``: rows to continue, and a record of the call's own rows.

    Args:
        pasts: One past for all rows of the call, or one a row; None where a row has none.
        rows: Rows of the call.
        keep: Whether to record the call's own rows.
    """

    is_compileable = False

    def __init__(self, pasts: Sequence[KeyValues | None], rows: int, *, keep: bool) -> None:
        self._pasts = pasts
        self._rows = rows
        self._keep = keep
        self.width = max((past.length for past in pasts if past is not None), default=0)
        self.attended: dict[int, tuple[Tensor, Tensor]] = {}
        self.convolution: dict[int, Tensor] = {}
        self.recurrence: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the past's keys and values in front of those of layer ``layer_idx``, ``(N, heads, T, d)``."""
        if self.width:
            key_states = self._before(key_states, layer_idx, 0)
            value_states = self._before(value_states, layer_idx, 1)
        if self._keep:
            self.attended[layer_idx] = (key_states, value_states)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the past; positions and masks are given explicitly, so only its being a number matters."""
        return self.width

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the convolution's state of a recurrent layer, ``(N, channels, width)``, or None for a new start."""
        return self._states(layer_idx, 0)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the recurrence's state of a recurrent layer, or None for a new start."""
        return self._states(layer_idx, 1)

    def is_recording_past(self, layer_idx: int) -> bool:
        """Say yes, so that no kernel changes a past in place."""
        return True

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, conv_kernel_size: int, **kwargs: Any) -> Tensor:
        """Put the convolution's state in front of new channels ``(N, channels, T)``."""
        past = self._states(layer_idx, 0)
        full = conv_states if past is None else torch.cat((past, conv_states), dim=-1)
        full = F.pad(full, (max(0, conv_kernel_size - full.shape[-1]), 0))
        if self._keep:
            self.convolution[layer_idx] = full[..., -conv_kernel_size:]
        return full

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, **kwargs: Any) -> Tensor:
        """Record the recurrence's state behind the call's rows."""
        if self._keep:
            self.recurrence[layer_idx] = recurrent_states
        return recurrent_states

    def _before(self, states: Tensor, layer: int, part: int) -> Tensor:
        past = [
            states.new_zeros(states.shape[1], 0, states.shape[3]) if one is None else one.layers[layer][part]
            for one in self._pasts
        ]
        # Not where nothing is missing: padding by nothing is a copy too, and for one more turn copies are what costs.
        missing = [self.width - one.shape[1] for one in past]
        padded = [F.pad(one, (0, 0, 0, rows)) if rows else one for one, rows in zip(past, missing, strict=True)]
        return torch.cat((self._spread(padded), states), dim=2)

    def _states(self, layer: int, part: int) -> Tensor | None:
        known = next((past.layers[layer][part] for past in self._pasts if past is not None), None)
        if known is None:
            return None
        return self._spread(
            [torch.zeros_like(known) if one is None else one.layers[layer][part] for one in self._pasts]
        )

    def _spread(self, pasts: Sequence[Tensor]) -> Tensor:
        """Return the past of every row of the call: one for all, or one each."""
        if len(pasts) == 1:
            return pasts[0].unsqueeze(0).expand(self._rows, *pasts[0].shape)
        return torch.stack(list(pasts))

    def kept(self, own: Sequence[tuple[int, int]]) -> list[KeyValues]:
        """Return what is kept of every row of the call: its past and its first own rows, and drop the record.

        Args:
            own: For each row of the call, how many own rows are real, and how many of those are memory. Where layers
                are recurrent, the call's rows must have no padding.
        """
        pasts = [self._pasts[row if len(self._pasts) > 1 else 0] for row in range(len(own))]
        layers: list[dict[int, Layer]] = [{} for _ in own]
        # Layer by layer, so that the record and what is kept of it are not both held as a whole.
        for layer in list(self.attended):
            states = self.attended.pop(layer)
            for row, (length, _) in enumerate(own):
                layers[row][layer] = AttendedRows(*(self._rows_of(part, row, length, pasts[row]) for part in states))
        for layer in list(self.recurrence):
            convolution, recurrence = self.convolution.pop(layer), self.recurrence.pop(layer)
            for row in range(len(own)):
                layers[row][layer] = RecurrentState(convolution[row].clone(), recurrence[row].clone())
        found = []
        for past, (length, memory), one in zip(pasts, own, layers, strict=True):
            before, before_memory = (0, 0) if past is None else (past.length, past.memory_rows)
            in_order = tuple(one[layer] for layer in range(len(one)))
            found.append(KeyValues(in_order, before + length, before_memory + memory))
        return found

    def _rows_of(self, states: Tensor, row: int, length: int, past: KeyValues | None) -> Tensor:
        """Cut ``(heads, P + length, d)`` of one call row out of what a layer attended to, ``(N, heads, P + T, d)``."""
        before = 0 if past is None else past.length
        rows = states[row, :, : self.width + length]
        if before < self.width:  # a shorter past was filled up behind its end
            return torch.cat((rows[:, :before], rows[:, self.width :]), dim=1)
        # Not a view that keeps the whole call alive.
        return rows if rows.nbytes == states.untyped_storage().nbytes() else rows.clone()


def bytes_a_row(config: Any, dtype: torch.dtype) -> int:
    """Estimate what :class:`KeyValues` hold of one row of a backbone, from its configuration; 0 where it does not say.

    What recurrent layers keep does not grow with the rows and is left out.
    """
    depth, heads = (getattr(config, name, 0) for name in ("num_hidden_layers", "num_attention_heads"))
    if not depth or not heads:
        return 0
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kept_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    attending = [kind for kind in getattr(config, "layer_types", None) or [""] * depth if "linear" not in kind]
    return 2 * len(attending) * kept_heads * size * dtype.itemsize
