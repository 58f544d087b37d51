"""A memory state as bytes, and as a file: written whole or not at all, read once and with every check."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from evoemb._errors import StateError
from evoemb._files import write_whole
from evoemb.state.memory import StateSpec, StreamMemory

FORMAT_VERSION = 2
_HEADER = "evoemb_state"
_BEFORE = "before."

# What a state can need at most; a damaged or hostile file asks for more, and is refused before memory is taken for it.
_MAX_BYTES = 2**33
_MAX_HEADER_BYTES = 2**26
_MAX_NUMBER = 2**48
_MAX_SIZE = 2**26
_MAX_TURN_TOKENS = 2**20
_LATENT_TYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class SavedState(NamedTuple):
    """What the bytes of a state hold: its spec, the memory of each stream, and what a program noted with them."""

    spec: StateSpec
    memories: list[StreamMemory]
    notes: dict[str, str]


def to_bytes(spec: StateSpec, memories: Sequence[StreamMemory], notes: Mapping[str, str] | None = None) -> bytes:
    """Return a state as the bytes of a safetensors file.

    They hold ``latents.<i>`` ``(M, S)`` for stream i and, where a segment is open, its token ids in ``open_ids.<i>``
    with the length of each turn in ``open_lengths.<i>``; the header holds the spec, the counts and a checksum of all.
    Where the newest turn is unanswered, the header holds its text, and ``before.latents.<i>`` and so on are the memory
    before it.

    Args:
        notes: Texts that a program wants to find with the state again.
    """
    tensors: dict[str, Tensor] = {}
    for index, memory in enumerate(memories):
        _add_tensors(tensors, memory, index)
        if memory.unanswered is not None:
            _add_tensors(tensors, memory.unanswered.before, index, _BEFORE)
    counts = [memory.num_turns for memory in memories]
    unanswered = [memory.unanswered and memory.unanswered.said for memory in memories]
    about = {"num_turns": counts, "unanswered": unanswered, "notes": dict(notes or {})}
    header = json.dumps({"format": FORMAT_VERSION, "spec": asdict(spec), **about})
    return save_tensors(tensors, metadata={_HEADER: f"{_digest(header, tensors)} {header}"})


def _add_tensors(tensors: dict[str, Tensor], memory: StreamMemory, index: int, before: str = "") -> None:
    tensors[f"{before}latents.{index}"] = memory.latents.detach().cpu().contiguous().clone()
    if memory.open_turns:
        tensors[f"{before}open_ids.{index}"] = torch.tensor([i for turn in memory.open_turns for i in turn])
        tensors[f"{before}open_lengths.{index}"] = torch.tensor([len(turn) for turn in memory.open_turns])


def from_bytes(content: bytes, name: str = "These bytes") -> SavedState:
    """Read a state from the bytes of :func:`to_bytes`.

    Args:
        name: What errors call them.

    Raises:
        StateError: They are a pickle, cut off, changed, no evoemb state, of an unknown format version, hold NaN or
            infinite latents, or their parts contradict each other.
    """
    try:
        return _read(content, _outline(content, len(content)))
    except _UnreadableError as error:
        raise _refusal(name, error) from error.__cause__


def write_state(
    path: str | os.PathLike[str],
    spec: StateSpec,
    memories: Sequence[StreamMemory],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a state to ``path``. A crash leaves the file that was there before, or the new one, never a part.

    Raises:
        StorageError: The file cannot be written.
    """
    write_whole(path, to_bytes(spec, memories, notes))


def read_state(path: str | os.PathLike[str]) -> SavedState:
    """Read a state from ``path``, which is opened once: a writer that replaces it meanwhile changes nothing.

    Raises:
        FileNotFoundError: There is no such file.
        StateError: It is not a regular file, too large, or :func:`from_bytes` refuses it.
    """
    name = os.fspath(path) if isinstance(os.fspath(path), str) else repr(path)
    # Opening a pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise StateError(f"{name} is not a regular file. Pass a file written by MemoryState.save.")
    with open(handle, "rb") as file:
        try:
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES))
            outline = _outline(start, about.st_size)  # sizes are known to be right before memory is taken for the rest
            content = start + file.read(about.st_size - len(start))
            return _read(content, outline)
        except _UnreadableError as error:
            raise _refusal(name, error) from error.__cause__


class _UnreadableError(Exception):
    """Why bytes are no state, without their name."""


def _refusal(name: str, error: _UnreadableError) -> StateError:
    return StateError(
        f"{name} cannot be read as a memory state: {error}. Pass what MemoryState.save or to_bytes wrote, or read the "
        "stream again into model.new_state()."
    )


class _Outline(NamedTuple):
    """What the header of a state says: its checksum and the text that it covers, and what is read from that text."""

    digest: str
    text: str
    spec: StateSpec
    counts: list[int]
    unanswered: list[str | None]
    notes: dict[str, str]


def _outline(content: bytes, size: int) -> _Outline:
    """Read and check the header; nothing else is looked at.

    Args:
        content: The beginning of the bytes, with the whole header at least.
        size: Bytes in all.
    """
    tensors, entry = _safetensors_header(content, size)
    if entry.startswith("{"):  # the first format had no checksum
        entry = f" {entry}"
    digest, _, text = entry.partition(" ")
    outline = _Outline(digest, text, *_checked_header(text))
    _check_sizes(outline.spec, outline.unanswered, tensors)
    return outline


def _read(content: bytes, outline: _Outline) -> SavedState:
    """Read the tensors of a state whose header is known, with every check."""
    tensors = _tensors(content)
    if outline.digest != _digest(outline.text, tensors):
        raise _UnreadableError("its checksum is another one: the file was changed or damaged")
    memories = []
    for index, (count, said) in enumerate(zip(outline.counts, outline.unanswered, strict=True)):
        memory = _memory(outline.spec, tensors, index, count)
        if said is not None:
            memory = memory.with_unanswered(said, _memory(outline.spec, tensors, index, count - 1, _BEFORE))
        memories.append(memory)
    return SavedState(outline.spec, memories, outline.notes)


def _safetensors_header(content: bytes, size: int) -> tuple[dict[str, Any], str]:
    """Return what safetensors says of the tensors, and our own header."""
    length = int.from_bytes(content[:8], "little")
    if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES) or size > _MAX_BYTES:
        # Only now: a safetensors file begins with a length, which may happen to look like a pickle's first bytes.
        if content[:1] == b"\x80" or content[:2] == b"PK":
            raise _UnreadableError("it is a pickle (torch.save), which can run code when it is read")
        raise _UnreadableError("it is cut off, too large, or no safetensors file")
    try:
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        ends = [int(one["data_offsets"][1]) for one in header.values()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        if content[:1] == b"\x80" or content[:2] == b"PK":
            raise _UnreadableError("it is a pickle (torch.save), which can run code when it is read") from error
        raise _UnreadableError(f"it is no safetensors file ({error!r:.100})") from error
    if 8 + length + max(ends, default=0) != size:
        raise _UnreadableError(f"it is cut off or has something behind its end ({size} bytes)")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_HEADER), str):
        raise _UnreadableError("it is a safetensors file, but not a memory state")
    return header, metadata[_HEADER]


def _tensors(content: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _UnreadableError(f"it is no safetensors file ({error!s:.100})") from error


def _checked_header(text: str) -> tuple[StateSpec, list[int], list[str | None], dict[str, str]]:
    """Return the spec, how many turns each stream has read, what its unanswered turn says, and the notes."""
    try:
        header = json.loads(text)
        version = header["format"]
        if version != FORMAT_VERSION:
            raise _UnreadableError(f"it has format {version!r:.40}, and this version of evoemb reads {FORMAT_VERSION}")
        spec = StateSpec(**{field.name: header["spec"][field.name] for field in fields(StateSpec)})
        counts, unanswered, notes = header["num_turns"], header["unanswered"], header["notes"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _UnreadableError(f"its header is damaged ({error!r:.100})") from error
    for field in fields(StateSpec):
        value = getattr(spec, field.name)
        if type(value).__name__ != field.type or (isinstance(value, int) and not 0 < value <= _MAX_SIZE):
            raise _UnreadableError(f"its header is damaged ({field.name} is {value!r:.40})")
    if not isinstance(counts, list) or not counts:
        raise _UnreadableError("it holds no stream")
    for count in counts:
        if type(count) is not int or not 0 <= count <= _MAX_NUMBER:
            raise _UnreadableError(f"its header is damaged (num_turns is {count!r:.40})")
    if not isinstance(unanswered, list) or len(unanswered) != len(counts):
        raise _UnreadableError(f"its header is damaged (unanswered is {unanswered!r:.40})")
    for count, text_waiting in zip(counts, unanswered, strict=True):
        if text_waiting is not None and (not isinstance(text_waiting, str) or count < 1):
            raise _UnreadableError(f"its header is damaged (unanswered is {text_waiting!r:.40})")
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise _UnreadableError(f"its header is damaged (notes is {notes!r:.40})")
    return spec, counts, unanswered, notes


def _check_sizes(spec: StateSpec, unanswered: Sequence[str | None], header: Mapping[str, Any]) -> None:
    """Refuse tensors of another kind or of more numbers than the spec allows, by their header alone."""
    places = [(str(index), "") for index in range(len(unanswered))]
    places += [(str(index), _BEFORE) for index, text in enumerate(unanswered) if text is not None]
    allowed = {f"{before}latents.{index}" for index, before in places}
    missing = allowed - set(header)
    allowed |= {f"{before}{name}.{index}" for index, before in places for name in ("open_ids", "open_lengths")}
    if missing or set(header) - allowed:
        wrong = sorted(missing)[:1] or sorted(set(header) - allowed)[:1]
        raise _UnreadableError(f"its tensors are not those of {len(unanswered)} streams ({wrong[0]!r:.60})")
    for name, one in header.items():
        kind, shape = one.get("dtype"), one.get("shape")
        if not isinstance(shape, list) or not all(type(length) is int for length in shape):
            raise _UnreadableError(f"its header is damaged (the shape of {name} is {shape!r:.40})")
        index = name.rpartition(".")[2]
        if ".latents." in f".{name}":
            most = spec.capacity_latents + spec.segment_turns * spec.num_latents
            if kind not in _LATENT_TYPES:
                raise _UnreadableError(f"stream {index} holds latents of type {kind}, expected a floating-point type")
            if len(shape) != 2 or shape[1] != spec.latent_size:
                raise _UnreadableError(
                    f"stream {index} holds latents of shape {tuple(shape)}, expected (M, {spec.latent_size})"
                )
        else:
            most = spec.segment_turns if "open_lengths" in name else spec.segment_tokens + _MAX_TURN_TOKENS
            if kind != "I64" or len(shape) != 1:
                raise _UnreadableError(f"stream {index} holds an open segment of another form ({name}: {kind} {shape})")
        if shape[0] > most:
            raise _UnreadableError(f"stream {index} holds {shape[0]} entries in {name}, more than {most}")


def _memory(
    spec: StateSpec, tensors: Mapping[str, Tensor], index: int, num_turns: int, before: str = ""
) -> StreamMemory:
    lengths, ids = tensors.get(f"{before}open_lengths.{index}"), tensors.get(f"{before}open_ids.{index}")
    turns: tuple[tuple[int, ...], ...] = ()
    if (lengths is None) != (ids is None):
        raise _UnreadableError(f"stream {index} holds half of an open segment")
    if lengths is not None and ids is not None:
        if bool((lengths < 0).any()) or int(lengths.sum()) != len(ids):
            raise _UnreadableError(f"stream {index} holds an open segment whose turns do not add up")
        turns = tuple(tuple(part.tolist()) for part in ids.split(lengths.tolist()))
    memory = StreamMemory(tensors[f"{before}latents.{index}"], num_turns, turns)
    if problem := memory.problem(spec):
        raise _UnreadableError(f"stream {index} {problem}")
    return memory


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that a state holds: the header's text, and every tensor with its name and form."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
