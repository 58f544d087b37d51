"""What ``encode`` with a memory is given and gives back: its arguments, inputs as streams, embeddings in ST's forms."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from evoemb._errors import InputError, StateError
from evoemb.data.turns import ParsedStreams, TurnText
from evoemb.state import MemoryState
from evoemb.state.memory import StreamMemory
from evoemb.streaming.rows import Limits

MemoryMode = Literal["causal", "final"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("causal", "final")
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]

# What sentence-transformers passes on from encode to the tokenization.
_TOKENIZATION_KWARGS = {"task", "processing_kwargs"}


class EncodeArguments(TypedDict, total=False):
    """Arguments of ``encode`` that do not change the kind of its result."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int
    show_progress_bar: bool | None
    precision: Precision
    device: str | list[str | torch.device] | None
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: dict[str, Any] | None
    chunk_size: int | None
    state: MemoryState | None
    memory: MemoryMode
    max_batch_tokens: int | None
    truncate: bool
    task: str | None
    processing_kwargs: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """The arguments of ``encode`` that act on every text or embedding; see :meth:`evoemb.EvoEmbedding.encode`."""

    limits: Limits
    memory: MemoryMode = "causal"
    prompt: str | None = None
    truncate: bool = True
    truncate_dim: int | None = None
    normalize_embeddings: bool = False
    precision: Precision = "float32"
    output_value: OutputValue = "sentence_embedding"
    to_numpy: bool = True
    to_tensor: bool = False
    show_progress_bar: bool = False
    preprocess_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what sentence-transformers does not check."""
        if self.memory not in MEMORY_MODES:
            raise InputError(
                f'memory={self.memory!r} is not known. Use "causal" (a turn sees the memory before it) or "final" '
                "(every turn sees the memory after the whole stream)."
            )
        if self.precision not in get_args(Precision):
            raise InputError(f"precision={self.precision!r} was given. Use one of {', '.join(get_args(Precision))}.")
        if self.output_value not in get_args(OutputValue):
            raise InputError(
                f"output_value={self.output_value!r} was given. With a memory, encode returns "
                f"{' or '.join(get_args(OutputValue))}."
            )
        if self.output_value == "token_embeddings":
            shaping = {"precision": "float32", "truncate_dim": None, "normalize_embeddings": False}
            if given := [
                f"{name}={getattr(self, name)!r}" for name, usual in shaping.items() if getattr(self, name) != usual
            ]:
                raise InputError(
                    f"{', '.join(given)} acts on sentence embeddings, and token_embeddings are returned as they are. "
                    "Leave it out."
                )
        refuse_unknown(self.preprocess_kwargs, "encode with a memory")

    @classmethod
    def of(cls, given: Mapping[str, Any], preprocess_kwargs: dict[str, Any], prompt: str | None) -> EncodeOptions:
        """Return the options of a call.

        Args:
            given: The named arguments of ``encode``.
            preprocess_kwargs: The others.
            prompt: What stands before every text.

        Raises:
            InputError: An argument is unknown, or does not work with a memory.
        """
        refuse_parallel(given["pool"], given["device"], given["chunk_size"])
        same = ("memory", "truncate", "truncate_dim", "normalize_embeddings", "output_value")
        return cls(
            Limits(given["batch_size"], given["max_batch_tokens"]),
            prompt=prompt,
            to_numpy=given["convert_to_numpy"] and not given["convert_to_tensor"],
            to_tensor=given["convert_to_tensor"],
            show_progress_bar=wants_progress_bar(given["show_progress_bar"]),
            preprocess_kwargs=preprocess_kwargs,
            precision="float32" if given["precision"] is None else given["precision"],  # as sentence-transformers
            **{name: given[name] for name in same},
        )


@dataclass(frozen=True, slots=True)
class Assigned:
    """Turns by stream, and the form in which results go back: one vector, one array, or an array a stream."""

    turns: list[list[TurnText]]
    form: Literal["single", "flat", "nested"]

    @property
    def streams(self) -> list[list[str]]:
        """The texts of the turns."""
        return [[turn.text for turn in turns] for turns in self.turns]


def taken_up(turns: list[TurnText], memory: StreamMemory) -> tuple[list[TurnText], StreamMemory]:
    """Join an answer that comes first with the turn of ``memory`` that waits for it.

    Returns:
        The turns to read, and the memory to read them on: for such an answer, the one before the turn it belongs to.
    """
    waiting = memory.unanswered
    if waiting is None or (first := turns[0].after(waiting.said)) is turns[0]:
        return turns, memory
    return [first, *turns[1:]], waiting.before


def assign(parsed: ParsedStreams, batch_size: int | None, *, stateful: bool) -> Assigned:
    """Match inputs with the streams of a state.

    Args:
        parsed: Streams found in the input.
        batch_size: Streams of the state; None if no state was given.

    Raises:
        StateError: The numbers do not match.
    """
    form: Literal["single", "flat", "nested"] = "single" if parsed.single else "nested" if parsed.nested else "flat"
    streams = parsed.turns
    if batch_size is None or len(streams) == batch_size:
        return Assigned(streams, form)
    if not parsed.nested and len(streams[0]) == batch_size:
        return Assigned([[turn] for turn in streams[0]], form)
    given = f"{len(streams)} streams" if parsed.nested else f"{len(streams[0])} texts in one list"
    verb = "is read on" if stateful else "is encoded on"
    raise StateError(
        f"This state holds {batch_size} streams, but {given} were given. Pass one list of {batch_size} texts (text i "
        f"{verb} stream i), a list of {batch_size} streams, or one stream of the state: state[i]."
    )


def refuse_without_memory(memory: MemoryMode, max_batch_tokens: int | None, *, truncate: bool) -> None:
    """Refuse what plain sentence-transformers encoding would not do, rather than leave it out silently."""
    given = {"memory": memory, "max_batch_tokens": max_batch_tokens, "truncate": truncate}
    usual = {"memory": "causal", "max_batch_tokens": None, "truncate": True}
    if other := [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]:
        raise InputError(
            f"{', '.join(other)} needs a memory. Pass stateful=True to read the inputs as a stream, or state=... to "
            "encode them on one; without either, encode is that of sentence-transformers."
        )


def refuse_parallel(pool: Any, device: Any, chunk_size: int | None) -> None:
    """Refuse what would cut a stream apart, or what a stream has none of."""
    if pool is not None or chunk_size is not None or isinstance(device, (list, tuple)):
        raise InputError(
            "A stream is read in order, so it cannot be split over a process pool or several devices. Leave pool and "
            "chunk_size out and pass one device; to use several, give each process streams of its own."
        )


def refuse_unknown(kwargs: Mapping[str, Any], call: str) -> None:
    """Refuse arguments that no tokenization takes.

    Raises:
        InputError: An argument is unknown.
    """
    if unknown := sorted(set(kwargs) - _TOKENIZATION_KWARGS):
        raise InputError(
            f"{call} does not know {', '.join(unknown)}. It takes the arguments of its signature, "
            f"{' and '.join(sorted(_TOKENIZATION_KWARGS))}. Check the spelling, or leave it out."
        )


def wants_progress_bar(show_progress_bar: bool | None) -> bool:
    """Decide as sentence-transformers does: None shows a bar where logging is at INFO or below."""
    if show_progress_bar is None:
        return logging.getLogger("sentence_transformers").getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    return show_progress_bar


def check_finite(memories: Sequence[StreamMemory]) -> None:
    """Refuse memories that no number can come from any more."""
    if not all(bool(torch.isfinite(memory.latents).all()) for memory in memories):
        raise StateError(
            "Reading gave latents that are NaN or infinite, so the state was not advanced. The weights may be damaged, "
            "or the dtype too narrow: try model_kwargs={'dtype': 'float32'}."
        )


def converted(embeddings: Any, *, to_numpy: bool, to_tensor: bool) -> Any:
    """Return embeddings ``(n, D)`` as sentence-transformers does: a tensor, an array, or a list of tensors.

    Args:
        embeddings: A tensor, or the array of quantized embeddings.
        to_numpy: Whether an array is wanted; ``to_tensor`` goes before it.
    """
    if to_tensor:
        return torch.as_tensor(embeddings)
    if to_numpy:
        if isinstance(embeddings, Tensor):
            embeddings = embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings
            return np.asarray(embeddings.cpu())
        return embeddings
    return list(torch.from_numpy(embeddings) if isinstance(embeddings, np.ndarray) else embeddings)
