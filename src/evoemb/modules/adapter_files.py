"""Adapters on disk, one folder each, in the file format of PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from evoemb._errors import CheckpointError, EvoembError
from evoemb.modules.adapters import AdapterConfig, add_adapter, lora_layers
from evoemb.modules.intact import read_object, read_tensors

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."


def save_adapter(model: nn.Module, name: str, folder: str | Path) -> None:
    """Write the adapter ``name`` of ``model`` to ``folder``; PEFT loads it as it is."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    config, targets = AdapterConfig(), []
    for layer_name, layer in lora_layers(model):
        if name in layer.lora_config:
            config = layer.lora_config[name]
            targets.append(layer_name)
            tensors[f"{_PREFIX}{layer_name}.lora_A.weight"] = _tensor(layer.lora_A[name])
            tensors[f"{_PREFIX}{layer_name}.lora_B.weight"] = _tensor(layer.lora_B[name])
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    description = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", "") or None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2), encoding="utf-8")


def load_adapter(model: nn.Module, name: str, weights_path: str | Path, config_path: str | Path) -> None:
    """Put the adapter read from two files of a PEFT folder on ``model`` under ``name``.

    Raises:
        EvoembError: A layer that the files name is missing from the model, its shape differs, or a file is damaged.
    """
    tensors = read_tensors(Path(weights_path))
    description = read_object(Path(config_path), f"adapter {name!r}")
    config = _checked_config(description, tensors, config_path)
    layers = {layer_name for layer_name, _ in model.named_modules()}
    # PEFT shortens target_modules to suffixes or a pattern; the tensors name every layer in full.
    targets = [target for target in description["target_modules"] if target in layers]
    targets += sorted({key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors} - set(targets))
    if missing := [target for target in targets if target not in layers]:
        raise EvoembError(
            f"Adapter {name!r} in {weights_path} is for layers that the backbone does not have: {missing[0]!r} and "
            f"{len(missing) - 1} more. The adapter belongs to another backbone: load it with its own."
        )
    add_adapter(model, name, config, targets)
    for layer_name, layer in lora_layers(model):
        if name not in layer.lora_config:
            continue
        for part in ("lora_A", "lora_B"):
            key = f"{_PREFIX}{layer_name}.{part}.weight"
            target = getattr(layer, part)[name].weight
            if key not in tensors or tensors[key].shape != target.shape:
                given = tuple(tensors[key].shape) if key in tensors else "nothing"
                raise EvoembError(
                    f"Adapter {name!r} in {weights_path} holds {given} for {key}, but the backbone expects "
                    f"{tuple(target.shape)}. The adapter belongs to another backbone: load it with its own."
                )
            target.data.copy_(tensors[key])


def _checked_config(description: dict[str, Any], tensors: dict[str, torch.Tensor], path: str | Path) -> AdapterConfig:
    """Read an adapter's sizes; its rank is that of its tensors, so none that memory cannot hold is ever built."""
    rank, targets = description.get("r"), description.get("target_modules")
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if ".lora_A." in key and tensor.dim() == 2}
    if not isinstance(rank, int) or ranks - {rank}:
        raise CheckpointError(
            f"{path} says r={rank!r:.40}, but the adapter's tensors have the rank {sorted(ranks) or 'of none'}. The "
            "file is damaged: download the model again."
        )
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"{path}: target_modules is {targets!r:.60}, expected a list of names of layers.")
    numbers = {key: description.get(key) for key in ("lora_alpha", "lora_dropout")}
    for key, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"{path}: {key} is {value!r:.40}, expected a number. Download the model again.")
    return AdapterConfig(rank, float(numbers["lora_alpha"] or 0.0), float(numbers["lora_dropout"] or 0.0))


def _tensor(layer: nn.Module) -> torch.Tensor:
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().contiguous()
