"""A short digest of a model's weights, by which a state knows the model it came from."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import torch
from torch import nn

# Elements read from every tensor: enough to notice any training step, few enough for billions of weights.
_SAMPLES = 64
_Versions = tuple[tuple[int, int], ...]
_KNOWN: WeakKeyDictionary[nn.Module, tuple[_Versions, str]] = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """Digest names, shapes and evenly spaced elements of all parameters of ``model``.

    Elements are rounded to bfloat16 first, so one checkpoint has one fingerprint in float32 and in bfloat16. The digest
    is computed once and again only after a parameter has changed.

    Returns:
        32 hexadecimal digits.
    """
    versions = tuple((parameter.data_ptr(), version_of(parameter)) for parameter in model.parameters())
    known = _KNOWN.get(model)
    if known is None or known[0] != versions:
        known = (versions, _digest(model))
        _KNOWN[model] = known
    return known[1]


def version_of(parameter: torch.Tensor) -> int:
    """Give how often a parameter was changed in place; -1 for one made in inference mode, which is not counted."""
    return -1 if parameter.is_inference() else parameter._version


@torch.no_grad()
def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    samples: list[torch.Tensor] = []
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        if flat.numel():
            picked = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), device=flat.device).long()
            samples.append(flat[picked].to(torch.bfloat16).view(torch.int16))
    for sample in samples:
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
