"""Reading a released checkpoint: its configuration, and its tensors one by one into modules built without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from evoemb._errors import CheckpointError
from evoemb.modules.empty_weights import put_tensor
from evoemb.modules.tensor_files import Source, TensorFiles
from evoemb.upstream.keys import LAST_PROJECTION, KeyReport, match

MODEL_TYPE = "EvoRAG"
CONFIG_FILE = "config.json"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """The numbers in a released checkpoint's ``config.json``.

    Args:
        base_model: Name of the base model: its configuration and tokenizer are fetched, never its weights.
        num_latents: ``K``.
        capacity_latents: ``C``; ``buffer_capacity`` in the file.
        lora_rank: Rank of both adapters.
        lora_alpha: Scale of both adapters.
    """

    base_model: str
    num_latents: int
    capacity_latents: int
    lora_rank: int
    lora_alpha: float


def is_upstream(source: Source) -> bool:
    """Tell whether a folder or repository is a released checkpoint."""
    values = source.json(CONFIG_FILE)
    return values is not None and values.get("model_type") == MODEL_TYPE


def read_config(source: Source) -> UpstreamConfig:
    """Read the configuration of a released checkpoint.

    Raises:
        CheckpointError: There is none, it is of another kind, or a number is missing.
    """
    values = source.json(CONFIG_FILE)
    if values is None:
        raise CheckpointError(
            f"{source.name} has no {CONFIG_FILE}. Name the folder or Hub id of an {MODEL_TYPE} checkpoint; offline, it "
            "must be in the cache already."
        )
    if values.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f'{source.name} has model_type {values.get("model_type")!r}, expected "{MODEL_TYPE}". Load other models '
            "with EvoEmbedding(name)."
        )
    names = ("base_model_name_or_path", "num_latents", "buffer_capacity", "lora_r", "lora_alpha")
    if missing := [name for name in names if values.get(name) is None]:
        raise CheckpointError(
            f"{CONFIG_FILE} of {source.name} lacks {', '.join(missing)}, without which the weights mean nothing. "
            "Download the checkpoint again."
        )
    base, latents, capacity, rank, alpha = (values[name] for name in names)
    return UpstreamConfig(str(base), int(latents), int(capacity), int(rank), float(alpha))


def embedding_dimension(files: TensorFiles) -> int:
    """Return ``D``, the size of the last projection.

    Raises:
        CheckpointError: The projection is missing.
    """
    if LAST_PROJECTION not in files.shapes:
        raise CheckpointError(
            f"{files.source.name} holds no {LAST_PROJECTION}, so it is no whole {MODEL_TYPE} checkpoint. Download it "
            "again."
        )
    return files.shapes[LAST_PROJECTION][0]


def stored_dtype(files: TensorFiles) -> torch.dtype:
    """Return the dtype in which the base weights are stored; adapters and projections may be stored wider."""
    for path in files.paths:
        with safe_open(path, framework="pt") as file:
            for name in files.names_in(path):
                if name.endswith("embed_tokens.weight") and name.startswith("model."):
                    return _DTYPES.get(file.get_slice(name).get_dtype(), torch.float32)
    return torch.float32


def fill(
    rooms: Mapping[str, nn.Module], files: TensorFiles, *, dtype: torch.dtype, device: torch.device | str
) -> KeyReport:
    """Read a checkpoint's tensors into modules, one after another; no second copy of the weights is ever held.

    Args:
        rooms: ``transformer`` (the backbone with its adapters), ``reader`` and ``queue``.
        dtype: What the weights become.
        device: Where they go.

    Raises:
        CheckpointError: A tensor is missing or has another shape.
    """
    expected = {f"{room}.{name}": old for room, module in rooms.items() for name, old in module.state_dict().items()}
    report = match(files.shapes, {name: tuple(value.shape) for name, value in expected.items()}, files.source.name)
    if report.missing:
        raise CheckpointError(
            f"{files.source.name} lacks {len(report.missing)} of {len(expected)} tensors: "
            f"{', '.join(report.missing[:5])}{', ...' if len(report.missing) > 5 else ''}. Check that the checkpoint "
            "is whole and that base_model is the one it was trained with."
        )
    bar = transformers_logging.tqdm(total=len(report.mapped), desc="Loading weights", unit="tensor")
    with bar:
        for path in files.paths:
            with safe_open(path, framework="pt") as file:
                for key in files.names_in(path):
                    if key not in report.mapped:
                        continue
                    room, _, name = report.mapped[key].partition(".")
                    tensor = file.get_tensor(key).view(expected[report.mapped[key]].shape)
                    # A copy: the tensor lies in the mapped file, which may be replaced while the model lives.
                    put_tensor(rooms[room], name, tensor.to(device=device, dtype=dtype, copy=True))
                    bar.update(1)
    return report
