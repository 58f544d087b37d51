"""A memory state as one safetensors file: written whole or not at all, read with every check."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evoemb._errors import StateError
from evoemb.stream_memory import StateSpec, StreamMemory

FORMAT_VERSION = 1
_HEADER = "evoemb_state"


def write_state(path: str | os.PathLike[str], spec: StateSpec, memories: Sequence[StreamMemory]) -> None:
    """Write a state to ``path``. A crash leaves the file that was there before, or the new one, never a part.

    The file holds ``latents.<i>`` ``(M, S)`` for stream i and, where a segment is open, its token ids in
    ``open_ids.<i>`` with the length of each turn in ``open_lengths.<i>``; the header holds the spec and the counts.
    """
    target = Path(path)
    tensors: dict[str, torch.Tensor] = {}
    for index, memory in enumerate(memories):
        tensors[f"latents.{index}"] = memory.latents.detach().cpu().contiguous().clone()
        if memory.open_turns:
            tensors[f"open_ids.{index}"] = torch.tensor([i for turn in memory.open_turns for i in turn])
            tensors[f"open_lengths.{index}"] = torch.tensor([len(turn) for turn in memory.open_turns])
    header = {"format": FORMAT_VERSION, "spec": asdict(spec), "num_turns": [memory.num_turns for memory in memories]}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps(header)})
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def read_state(path: str | os.PathLike[str]) -> tuple[StateSpec, list[StreamMemory]]:
    """Read a state from ``path``.

    Raises:
        FileNotFoundError: There is no such file.
        StateError: The file is a pickle, is cut off, is no evoemb state, has an unknown format version, holds NaN or
            infinite latents, or its parts contradict each other.
    """
    start = _first_bytes(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        # Only now: a safetensors file begins with a length, which may happen to look like a pickle's first bytes.
        if start[:1] == b"\x80" or start == b"PK":
            raise _unreadable(path, "it is a pickle (torch.save), which can run code when it is read") from error
        raise _unreadable(path, f"it is cut off or no safetensors file ({error})") from error
    if _HEADER not in metadata:
        raise _unreadable(path, "it is a safetensors file, but not a memory state")
    try:
        header = json.loads(metadata[_HEADER])
        version = header["format"]
        if version != FORMAT_VERSION:
            raise _unreadable(path, f"it has format {version!r}, and this version of evoemb reads {FORMAT_VERSION}")
        spec = StateSpec(**{field.name: header["spec"][field.name] for field in fields(StateSpec)})
        for field in fields(StateSpec):
            if type(getattr(spec, field.name)).__name__ != field.type:
                raise TypeError(f"{field.name} is {getattr(spec, field.name)!r}")
        memories = [_memory(tensors, index, count) for index, count in enumerate(header["num_turns"])]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, StateError):
            raise
        raise _unreadable(path, f"its header is damaged ({error!r})") from error
    if not memories:
        raise _unreadable(path, "it holds no stream")
    for index, memory in enumerate(memories):
        if problem := _contradiction(spec, memory):
            raise _unreadable(path, f"stream {index} {problem}")
    return spec, memories


def _memory(tensors: dict[str, torch.Tensor], index: int, num_turns: Any) -> StreamMemory:
    lengths = tensors.get(f"open_lengths.{index}")
    turns: tuple[tuple[int, ...], ...] = ()
    if lengths is not None:
        parts = tensors[f"open_ids.{index}"].split(lengths.tolist())
        turns = tuple(tuple(part.tolist()) for part in parts)
    return StreamMemory(tensors[f"latents.{index}"], int(num_turns), turns)


def _contradiction(spec: StateSpec, memory: StreamMemory) -> str | None:
    """Say what is wrong with one stream's memory, or None."""
    latents, open_latents = memory.latents, len(memory.open_turns) * spec.num_latents
    if latents.dim() != 2 or latents.shape[1] != spec.latent_size:
        return f"holds latents of shape {tuple(latents.shape)}, expected (M, {spec.latent_size})"
    if not open_latents <= latents.shape[0] <= spec.capacity_latents + open_latents:
        return f"holds {latents.shape[0]} latents, more than its capacity of {spec.capacity_latents} allows"
    if not latents.is_floating_point():
        return f"holds latents of type {latents.dtype}, expected a floating-point type"
    if len(memory.open_turns) >= max(spec.segment_turns, 1) or any(i < 0 for turn in memory.open_turns for i in turn):
        return "holds an open segment that does not fit its packing"
    if memory.num_turns * spec.num_latents < latents.shape[0]:
        return f"claims {memory.num_turns} turns, too few for its {latents.shape[0]} latents"
    if not bool(torch.isfinite(latents).all()):
        return "holds latents that are NaN or infinite"
    return None


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read(2)


def _unreadable(path: str | os.PathLike[str], why: str) -> StateError:
    return StateError(
        f"{os.fspath(path)} cannot be read as a memory state: {why}. Pass a file written by MemoryState.save, or read "
        "the stream again into model.new_state()."
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; its rename is durable by itself
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
