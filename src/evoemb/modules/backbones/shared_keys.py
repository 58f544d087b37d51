"""Keys and values that several query heads share, read where they lie: transformers copies them for every query head.

It does so wherever a mask is given, and a memory always comes with one. Torch's attention on a CPU reads shared keys in
place, mask or not, and gives the same numbers to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from evoemb.modules.backbones.last_layer import KNOWN_ATTENTION

_NAME = "evoemb_shared_keys"
# Earlier versions take shared keys too, but with a mask and on a CPU by way of a copy and slower kernels.
_TORCH_READS_SHARED_KEYS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 9)


class _Choosing:
    """A layer's view of its backbone's configuration: all of it, but another name for transformers' own attention.

    A view, not a copy: what is chosen later for the whole backbone holds for its layers, and is what gets saved.
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    @property
    def _attn_implementation(self) -> Any:
        chosen = self._config._attn_implementation
        return _NAME if chosen == "sdpa" else chosen

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_config":  # asked for by copies, before there is anything to look in
            raise AttributeError(name)
        return getattr(self._config, name)


def share_keys(backbone: PreTrainedModel) -> int:
    """Let the layers of ``backbone`` read shared keys and values in place, wherever transformers' attention would run.

    Returns:
        How many layers do; 0 where every query head has keys of its own, or the layers are of no known kind.
    """
    if not _TORCH_READS_SHARED_KEYS:
        return 0
    AttentionInterface.register(_NAME, _attend)
    count = 0
    for module in backbone.modules():
        layer: Any = module
        if type(layer).__name__ in KNOWN_ATTENTION and layer.num_key_value_groups > 1:
            count += 1
            if not isinstance(layer.config, _Choosing):
                layer.config = _Choosing(layer.config)
    return count


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend from ``(N, heads, T, d)`` to ``(N, key heads, keys, d)``, as transformers' function does."""
    # It shares without a mask and for a single token itself; elsewhere than on a CPU kernels are chosen by other rules.
    if attention_mask is None or query.shape[2] == 1 or query.device.type != "cpu" or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    attended = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
    return attended.transpose(1, 2).contiguous(), None
