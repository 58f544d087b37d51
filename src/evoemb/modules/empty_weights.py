"""Building a transformers model without weights: its large tensors take no memory until real ones are put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class EmptyWeights(TorchFunctionMode):
    """Inside this context, tensors that are left uninitialized lie on the meta device.

    Layers make their weights with ``torch.empty``; what is computed at once, such as the tables of rotary positions,
    stays real, which it would not under ``torch.device("meta")``.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def put_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer of ``module``, without a copy."""
    parent_name, _, leaf = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    old = parent._parameters.get(leaf)
    if old is None:
        parent._buffers[leaf] = tensor
    else:
        parent._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)
