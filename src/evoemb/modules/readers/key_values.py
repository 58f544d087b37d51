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
        if self._keep:
            self.attended[layer_idx] = (key_states, value_states)
        if not self.width:
            return key_states, value_states
        return self._before(key_states, layer_idx, 0), self._before(value_states, layer_idx, 1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the past; positions and masks are given explicitly, so only its being a number matters."""
        return self.width

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Give the convolution's state of a recurrent layer, ``(N, channels, width)``, or None for a new start."""
        return self._states(layer_idx, 0)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Give the recurrence's state of a recurrent layer, or None for a new start."""
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
        """Give every row of the call its past: one for all, or one each."""
        if len(pasts) == 1:
            return pasts[0].unsqueeze(0).expand(self._rows, *pasts[0].shape)
        return torch.stack(list(pasts))

    def after(self, row: int, length: int, memory_rows: int) -> KeyValues:
        """Give what is kept of call row ``row``: its past and its first ``length`` own rows.

        Args:
            length: Own rows that are real. Where layers are recurrent, the call's rows must have no padding.
            memory_rows: How many of the own rows are memory.
        """
        past = self._pasts[row if len(self._pasts) > 1 else 0]
        layers: dict[int, Layer] = {}
        for layer, states in self.attended.items():
            key, value = (part[row, :, :length] for part in states)
            if past is None:
                layers[layer] = AttendedRows(key.clone(), value.clone())  # not views that keep the whole call alive
            else:
                before = past.layers[layer]
                layers[layer] = AttendedRows(torch.cat((before[0], key), dim=1), torch.cat((before[1], value), dim=1))
        for layer, recurrence in self.recurrence.items():
            layers[layer] = RecurrentState(self.convolution[layer][row].clone(), recurrence[row].clone())
        in_order = tuple(layers[layer] for layer in range(len(layers)))
        before_length, before_memory = (0, 0) if past is None else (past.length, past.memory_rows)
        return KeyValues(in_order, before_length + length, before_memory + memory_rows)
