"""What a reader needs to know of a backbone's layers, one family of architectures a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(slots=True)
class LayerInputs:
    """What the layers of one forward share, for rows ``(N, T)``.

    Args:
        hidden: Hidden states entering the first layer, ``(N, T, H)``.
        attention_mask: True at real tokens, ``(N, T)``.
        layer_masks: The mask each kind of layer gets from transformers, by kind.
        rotary: Cosine and sine ``(N or 1, T, d)`` by kind of layer; empty for absolute positions.
    """

    hidden: Tensor
    attention_mask: Tensor
    layer_masks: dict[str, Any]
    rotary: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention inputs of some rows, each ``(N, heads, T, d)``, keys and values repeated to the query heads.

    ``query`` and ``key`` carry positions, ``free_query`` and ``free_key`` none; where a family has no rotary positions
    they are the same tensors.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    free_query: Tensor
    free_key: Tensor


class LayerFamily(ABC):
    """Take the layers of one backbone apart: embed, run a layer as it is, or run its parts around another attention."""

    causal: bool = False

    def __init__(self, backbone: PreTrainedModel) -> None:
        self.backbone: Any = backbone  # its parts are reached by name, beyond what its type knows
        self.config: Any = backbone.config

    @property
    @abstractmethod
    def layers(self) -> Sequence[Any]:
        """The blocks, in order."""

    @property
    @abstractmethod
    def layers_name(self) -> str:
        """Module name of the blocks inside the backbone, such as ``"encoder.layer"``."""

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        return int(self.config.num_attention_heads)

    @property
    def head_dim(self) -> int:
        """Size of one head, ``d``."""
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.num_heads)

    @abstractmethod
    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> LayerInputs:
        """Embed ``(N, T)`` token ids as the backbone does."""

    @abstractmethod
    def run(self, index: int, inputs: LayerInputs, hidden: Tensor) -> Tensor:
        """Run layer ``index`` unchanged, ``(N, T, H)`` to ``(N, T, H)``."""

    @abstractmethod
    def heads(self, index: int, hidden: Tensor, inputs: LayerInputs | None) -> Heads:
        """Project hidden states entering layer ``index``; ``inputs=None`` for states that have no position."""

    def memory_heads(self, index: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Project latents ``(B, M, H)`` entering layer ``index`` to position-free keys and values."""
        heads = self.heads(index, latents, None)
        return heads.free_key, heads.value

    @abstractmethod
    def finish(self, index: int, hidden: Tensor, attended: Tensor) -> Tensor:
        """Complete layer ``index`` from its input ``hidden`` and the attended values ``(N, heads, T, d)``."""

    def final(self, hidden: Tensor) -> Tensor:
        """Apply what the backbone applies after its last layer."""
        return hidden

    def kind(self, index: int) -> str:
        """Kind of layer ``index``, a key of ``layer_masks`` and ``rotary``."""
        return "full_attention"

    def window(self, index: int) -> int | None:
        """Half width of a sliding window in layer ``index``: tokens further apart do not see each other."""
        return None

    def dropout(self, index: int) -> float:
        """Attention dropout of layer ``index`` in training."""
        return 0.0

    def text_mask(self, index: int, attention_mask: Tensor) -> Tensor:
        """Say which tokens of a row see which, ``(N, 1, T, T)`` bool, padding on either side."""
        length = attention_mask.shape[1]
        allowed = attention_mask[:, None, None, :].bool().expand(-1, 1, length, -1)
        position = torch.arange(length, device=attention_mask.device)
        distance = position[:, None] - position[None, :]
        if self.causal:
            allowed = allowed & (distance >= 0)
        if (window := self.window(index)) is not None:
            allowed = allowed & (distance.abs() <= window)
        # Padding sees itself: a row of nothing but blocked positions would turn into NaN.
        return allowed | (distance == 0)


def split_heads(hidden: Tensor, head_dim: int) -> Tensor:
    """Reshape ``(N, T, heads * d)`` to ``(N, heads, T, d)``."""
    return hidden.view(*hidden.shape[:-1], -1, head_dim).transpose(1, 2)


def merge_heads(attended: Tensor) -> Tensor:
    """Reshape ``(N, heads, T, d)`` to ``(N, T, heads * d)``."""
    return attended.transpose(1, 2).flatten(-2)


def rotate(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to ``(N, heads, T, d)`` in the half-split layout of Llama and its kin."""
    cosine, sine = (part.unsqueeze(1) for part in rotary)
    first, second = states.float().chunk(2, dim=-1)
    return (states.float() * cosine + torch.cat((-second, first), dim=-1) * sine).to(states.dtype)


def output_of(layer_output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the hidden states of a layer; some transformers versions wrap them in a tuple."""
    return layer_output[0] if isinstance(layer_output, tuple) else layer_output
