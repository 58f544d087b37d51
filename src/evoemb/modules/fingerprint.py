"""A short digest of a model's weights, by which a state knows the model it came from."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# Elements read from every tensor: enough to notice any training step, few enough for billions of weights.
_SAMPLES = 64
_Version = tuple[int, int, int]
_KNOWN: WeakKeyDictionary[nn.Module, tuple[tuple[_Version, ...], str]] = WeakKeyDictionary()
# Steps that any optimizer has taken. Fused ones change weights without counting it on the tensors.
_STEPS = [0]


def fingerprint(model: nn.Module) -> str:
    """Digest names, shapes and evenly spaced elements of all parameters of ``model``.

    Elements are rounded to bfloat16 first, so one checkpoint has one fingerprint in float32 and in bfloat16. The digest
    is computed once and again only after a parameter has changed.

    Returns:
        32 hexadecimal digits.
    """
    versions = tuple(version_of(parameter) for parameter in model.parameters())
    known = _KNOWN.get(model)
    if known is None or known[0] != versions:
        known = (versions, _digest(model))
        _KNOWN[model] = known
    return known[1]


def version_of(parameter: torch.Tensor) -> _Version:
    """Return a value that changes when a parameter's values do; only writes to ``parameter.data`` go unseen."""
    changes = -1 if parameter.is_inference() else parameter._version  # inference tensors count none
    return parameter.data_ptr(), changes, _STEPS[0]


def _count_step(*_: Any) -> None:
    _STEPS[0] += 1


register_optimizer_step_post_hook(_count_step)


@torch.no_grad()
def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    samples: list[torch.Tensor] = []
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        if flat.numel():
            # In whole numbers: floats miss elements of large tensors, and differ between devices.
            count = min(_SAMPLES, flat.numel())
            picked = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
            samples.append(flat[picked].to(torch.bfloat16).view(torch.int16))
    for sample in samples:
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
