"""Keys and values of rows a causal backbone has already run, so that later rows continue them exactly.

In a causal backbone a row's states depend on earlier rows only. So the memory in front of a text, or a segment's turns
so far, need to be run once; what follows attends to their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of ``length`` rows, a value that is never changed in place.

    Args:
        layers: For each layer, keys and values ``(heads, length, d)``.
        memory_rows: How many of the rows, from the front, are memory: the gate weighs them.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    memory_rows: int

    @property
    def length(self) -> int:
        """Rows held."""
        return int(self.layers[0][0].shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(key.nbytes + value.nbytes for key, value in self.layers)


class PastRows:
    """What a backbone gets as ``past_key_values``: rows to attend to before those of the call.

    Args:
        pasts: One past for all rows of the call, or one a row; None where a row has none.
        rows: Rows of the call.
        keep: Whether to remember the call's own keys and values.
    """

    is_compileable = False

    def __init__(self, pasts: Sequence[KeyValues | None], rows: int, *, keep: bool) -> None:
        self._pasts = pasts
        self._rows = rows
        self._keep = keep
        self.width = max((past.length for past in pasts if past is not None), default=0)
        self.own: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the past's keys and values in front of those of layer ``layer_idx``, ``(N, heads, T, d)``."""
        if self._keep:
            self.own[layer_idx] = (key_states, value_states)
        if not self.width:
            return key_states, value_states
        return self._before(key_states, layer_idx, 0), self._before(value_states, layer_idx, 1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the past; positions and masks are given explicitly, so only its being a number matters."""
        return self.width

    def _before(self, states: Tensor, layer: int, part: int) -> Tensor:
        past = [
            states.new_zeros(states.shape[1], 0, states.shape[3]) if one is None else one.layers[layer][part]
            for one in self._pasts
        ]
        padded = [
            F.pad(one, (0, 0, 0, self.width - one.shape[1])) if one.shape[1] < self.width else one for one in past
        ]
        front = padded[0].unsqueeze(0).expand(self._rows, -1, -1, -1) if len(padded) == 1 else torch.stack(padded)
        return torch.cat((front, states), dim=2)


def joined(
    past: KeyValues | None, own: dict[int, tuple[Tensor, Tensor]], row: int, length: int, memory: int
) -> KeyValues:
    """Append the first ``length`` own rows of call row ``row`` to its past.

    Args:
        memory: How many of the own rows are memory; only a past of nothing but memory can be continued by memory.
    """
    layers = []
    for layer in range(len(own)):
        key, value = (part[row, :, :length] for part in own[layer])
        if past is None:
            layers.append((key.clone(), value.clone()))  # not a view that would keep the whole call alive
        else:
            layers.append((torch.cat((past.layers[layer][0], key), 1), torch.cat((past.layers[layer][1], value), 1)))
    return KeyValues(tuple(layers), (0 if past is None else past.memory_rows) + memory)
