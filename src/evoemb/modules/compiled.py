"""Compiled feed-forward blocks: the part of a backbone that is the same for every role, length and memory.

Compiling a whole model would trace through caches, masks and the adapter in use: dozens of graphs, and new ones for
other lengths. A feed-forward block is a function of its rows and weights alone, so one graph serves all layers and both
roles, and what a compiler gains (activation and product in one pass) lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.adapters import LoraLinear

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def compile_feed_forward(backbone: nn.Module, *args: Any, **kwargs: Any) -> int:
    """Compile the gated feed-forward blocks of ``backbone`` for inference; training runs them as they are.

    Args:
        *args: Passed on to ``torch.compile``.
        **kwargs: Passed on as well; ``dynamic=True`` unless said otherwise, so that no length compiles anew.

    Returns:
        How many blocks run compiled.

    Raises:
        UnsupportedBackboneError: The backbone has no such block.
    """
    blocks = list(_gated_blocks(backbone))
    if not blocks:
        raise UnsupportedBackboneError(
            f"{type(backbone).__name__} has no feed-forward blocks of {', '.join(_PROJECTIONS)}, so compile finds "
            "nothing to speed up. Leave model.compile() out."
        )
    compiled: Any = torch.compile(_feed_forward, *args, **{"dynamic": True, **kwargs})
    for block in blocks:
        # Where torch.nn.Module.compile keeps its own: left out of copies and pickles.
        block._compiled_call_impl = _Block(block, compiled)
    return len(blocks)


def _gated_blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    for module in backbone.modules():
        layers = [getattr(module, name, None) for name in _PROJECTIONS]
        if all(isinstance(layer, nn.Linear) for layer in layers) and callable(getattr(module, "act_fn", None)):
            yield module


class _Block:
    """Calls one block: compiled in inference, as it is while gradients are recorded."""

    def __init__(self, block: Any, compiled: Callable[..., Tensor]) -> None:
        self._block = block
        self._compiled = compiled

    def __call__(self, hidden: Tensor) -> Tensor:
        block = self._block
        layers = [getattr(block, name) for name in _PROJECTIONS]
        count = hidden.shape[:-1].numel()
        weights = [layer.weight_in_use(count) if isinstance(layer, LoraLinear) else layer.weight for layer in layers]
        if block.training or torch.is_grad_enabled() or any(weight is None for weight in weights):
            output: Tensor = block._call_impl(hidden)
            return output
        # One length that varies, however many texts; as data, for a view's graph serves views of its base's shape only.
        rows = hidden.flatten(0, -2).data
        return self._compiled(rows, *weights, *(layer.bias for layer in layers), block.act_fn).view(hidden.shape)


def _feed_forward(
    hidden: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    inner = activation(F.linear(hidden, gate, gate_bias)) * F.linear(hidden, up, up_bias)
    return F.linear(inner, down, down_bias)
