"""What ``encode`` does with a memory: inputs to streams, streams through the recurrence, embeddings in ST's forms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from sentence_transformers.util import quantize_embeddings, truncate_embeddings
from torch import Tensor
from tqdm.auto import tqdm

from evoemb._errors import InputError, StateError
from evoemb.cuts import CutTexts
from evoemb.data.turns import ParsedStreams, TurnText
from evoemb.state import MemoryState
from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.rows import Limits, Stack, TokenIds

logger = logging.getLogger(__name__)

MemoryMode = Literal["causal", "final"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("causal", "final")
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

# What sentence-transformers passes on from encode to the tokenization.
_TOKENIZATION_KWARGS = {"task", "processing_kwargs"}
# Turns of a stream that are tokenized and read at a time, so that memory use does not grow with the stream.
_CHUNK_TURNS = 512


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
        refuse_parallel(given["pool"], given["device"], given["chunk_size"], given["output_value"])
        same = ("memory", "truncate", "truncate_dim", "normalize_embeddings")
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


def refuse_parallel(pool: Any, device: Any, chunk_size: int | None, output_value: str | None) -> None:
    """Refuse what would cut a stream apart, or what a stream has none of."""
    if pool is not None or chunk_size is not None or isinstance(device, (list, tuple)):
        raise InputError(
            "A stream is read in order, so it cannot be split over a process pool or several devices. Leave pool and "
            "chunk_size out and pass one device; to use several, give each process streams of its own."
        )
    if output_value != "sentence_embedding":
        raise InputError(
            f'output_value={output_value!r} was given. With a memory, encode returns "sentence_embedding" only.'
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


class Encoder:
    """Runs the streams of one call through a stack; holds nothing beyond the call.

    Args:
        stack: The model's modules as the recurrence needs them.
        options: The call's arguments.
    """

    def __init__(self, stack: Stack, options: EncodeOptions) -> None:
        if options.prompt:
            # Poolings that leave the prompt out need its length, as sentence-transformers tells them.
            told = stack.transformer.preprocess([""], prompt=options.prompt, **options.preprocess_kwargs)
            stack = replace(stack, extra={**stack.extra, **{k: v for k, v in told.items() if k == "prompt_length"}})
        self.stack = stack
        self.options = options
        self._cut = CutTexts(stack.transformer, truncate=options.truncate)

    def read_streams(
        self, turns: Sequence[Sequence[TurnText]], memories: Sequence[StreamMemory]
    ) -> tuple[list[Tensor], list[StreamMemory]]:
        """Read streams into memory and encode their turns; ``memories`` stay unchanged.

        Returns:
            Embeddings ``(n_i, D)`` of every stream, and the memories after it. A last turn that waits for its answer
            is read by itself, so that it can be read again from the memory before it.
        """
        streams = [[turn.text for turn in own] for own in turns]
        ends = [len(own) - own[-1].is_unanswered for own in turns]
        current = list(memories)
        causal = self.options.memory == "causal"
        found: list[list[Tensor]] = [[] for _ in streams]
        with self._progress(streams, "Turns" if causal else "Reading turns") as advance_bar:
            for chunk in self._chunks([texts[:end] for texts, end in zip(streams, ends, strict=True)]):
                self._advance(current, chunk, found, advance_bar)
            before = list(current)
            for chunk in self._chunks([texts[end:] for texts, end in zip(streams, ends, strict=True)], ends):
                self._advance(current, chunk, found, advance_bar)
        embeddings = [torch.cat(parts) for parts in found] if causal else self.read_texts(streams, current)
        self._cut.report()
        # Slices share storage with the larger tensors they were cut from; a state keeps only its own.
        after = [memory.compact() for memory in current]
        for index, last in enumerate(own[-1] for own in turns):
            if last.said is not None and last.is_unanswered:
                after[index] = after[index].with_unanswered(last.said, before[index].compact())
        return embeddings, after

    def _advance(
        self,
        current: list[StreamMemory],
        chunk: Sequence[Sequence[TokenIds]],
        found: list[list[Tensor]],
        advance_bar: Callable[[int], Any],
    ) -> None:
        """Read a chunk of each stream into ``current`` and, if turns see what is before them, add their embeddings."""
        rows: list[dict[int, Tensor]] = [{} for _ in chunk]
        causal = self.options.memory == "causal"
        for stream, turn, embedding in engine.advance(self.stack, current, chunk, self.options.limits, embed=causal):
            if embedding is not None:
                rows[stream][turn] = embedding
            advance_bar(1)
        self._collect(found, [[one[turn] for turn in sorted(one)] for one in rows])

    def read_texts(self, texts: Sequence[Sequence[str]], memories: Sequence[StreamMemory]) -> list[Tensor]:
        """Encode ``texts[i]`` on ``memories[i]``; nothing is written. Returns ``(n_i, D)`` a stream."""
        found: list[list[Tensor]] = [[] for _ in texts]
        with self._progress(texts, "Turns") as advance_bar:
            for chunk in self._chunks(texts):
                self._collect(found, engine.read(self.stack, memories, chunk, self.options.limits))
                advance_bar(sum(len(part) for part in chunk))
        self._cut.report()
        return [torch.cat(parts) for parts in found]

    def give_back(self, embeddings: list[Tensor], form: str) -> Any:
        """Convert ``(n_i, D)`` tensors to what sentence-transformers returns for this form and these options."""
        if form == "nested":
            return [self._convert(one) for one in embeddings]
        converted = self._convert(torch.cat(embeddings))
        return converted[0] if form == "single" else converted

    def _convert(self, embeddings: Tensor) -> Any:
        """Quantize and convert ``(n, D)`` to an array, a tensor or a list of tensors."""
        options = self.options
        quantized: Any = embeddings
        if options.precision != "float32":
            quantized = quantize_embeddings(embeddings, precision=options.precision)
        return converted(quantized, to_numpy=options.to_numpy, to_tensor=options.to_tensor)

    def _collect(self, found: list[list[Tensor]], chunk: Sequence[Sequence[Tensor]]) -> None:
        """Cut, normalize and move a chunk's embeddings ``(D,)``, and add them to those of their streams."""
        for parts, rows in zip(found, chunk, strict=True):
            if not rows:
                continue
            embeddings = torch.stack(list(rows))
            if self.options.truncate_dim is not None:
                embeddings = truncate_embeddings(embeddings, self.options.truncate_dim)
            if self.options.normalize_embeddings:
                embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
            parts.append(embeddings.cpu() if self.options.to_numpy else embeddings)

    def _chunks(
        self, streams: Sequence[Sequence[str]], firsts: Sequence[int] | None = None
    ) -> Iterator[list[list[TokenIds]]]:
        """Tokenize the streams a few hundred turns at a time; a stream that has ended gives an empty list.

        Args:
            firsts: Turns of each stream that stand before these; None for none.
        """
        firsts = [0] * len(streams) if firsts is None else firsts
        share = max(1, _CHUNK_TURNS // len(streams))
        for start in range(0, max(len(turns) for turns in streams), share):
            parts = [list(turns[start : start + share]) for turns in streams]
            texts = [text for part in parts for text in part]
            ids = self._token_ids(texts)
            places = [
                (stream, firsts[stream] + start + turn)
                for stream, part in enumerate(parts)
                for turn in range(len(part))
            ]
            name_of = partial(_name_of_turn, places, several=len(streams) > 1)
            self._cut.check(texts, ids, name_of, self.options.prompt)
            rest = iter(ids)
            yield [[next(rest) for _ in part] for part in parts]

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        return self.stack.transformer.token_ids(texts, prompt=self.options.prompt, **self.options.preprocess_kwargs)

    def _progress(self, streams: Sequence[Sequence[str]], label: str) -> _Bar:
        total = sum(len(turns) for turns in streams)
        return _Bar(total, label, shown=self.options.show_progress_bar)


def _name_of_turn(places: Sequence[tuple[int, int]], index: int, *, several: bool) -> str:
    stream, turn = places[index]
    return f"Turn {turn} of stream {stream}" if several else f"Turn {turn}"


class _Bar:
    """A progress bar over turns; yields the function that moves it."""

    def __init__(self, total: int, label: str, *, shown: bool) -> None:
        self._bar = tqdm(total=total, desc=label, unit="turn", disable=not shown)

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        self._bar.close()
