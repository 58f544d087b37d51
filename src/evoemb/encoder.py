"""How ``encode`` with a memory runs: streams through the recurrence by chunks, results in the asked-for form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from sentence_transformers.util import quantize_embeddings, truncate_embeddings
from torch import Tensor
from tqdm.auto import tqdm

from evoemb.cuts import CutTexts
from evoemb.data.turns import TurnText
from evoemb.encoding import EncodeOptions, converted
from evoemb.modules.readers.features import LAST_ONLY
from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.rows import Stack, TokenIds

# Turns of a stream that are tokenized and read at a time, so that memory use does not grow with the stream.
_CHUNK_TURNS = 512


class Encoder:
    """Runs the streams of one call through a stack; holds nothing beyond the call.

    Args:
        stack: The model's modules as the recurrence needs them.
        options: The call's arguments.
    """

    def __init__(self, stack: Stack, options: EncodeOptions) -> None:
        if options.prompt:
            # Poolings that leave the prompt out need its length, as sentence-transformers tells them.
            features = stack.transformer.preprocess([""], prompt=options.prompt, **options.preprocess_kwargs)
            stack = replace(stack, extra={**stack.extra, **{k: v for k, v in features.items() if k == "prompt_length"}})
        self._of_tokens = options.output_value == "token_embeddings"
        if self._of_tokens:
            extra = {name: value for name, value in stack.extra.items() if name != LAST_ONLY}
            stack = replace(stack, extra=extra, token_states=True)
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
        embeddings = [self._joined(parts) for parts in found] if causal else self.read_texts(streams, current)
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
        return [self._joined(parts) for parts in found]

    def _joined(self, parts: list[Tensor]) -> Any:
        """Join what was collected of one stream: ``(n, D)``, or the tokens ``(T, H)`` of every text."""
        return parts if self._of_tokens else torch.cat(parts)

    def give_back(self, embeddings: Sequence[Any], form: str) -> Any:
        """Convert what was read of every stream to what sentence-transformers returns for this form and options."""
        if form == "nested":
            return [self._convert(one) for one in embeddings]
        flat = [row for one in embeddings for row in one] if self._of_tokens else torch.cat(list(embeddings))
        converted = self._convert(flat)
        return converted[0] if form == "single" else converted

    def _convert(self, embeddings: Any) -> Any:
        """Quantize and convert ``(n, D)`` to an array, a tensor or a list of tensors; leave tokens as they are."""
        if self._of_tokens:
            return embeddings
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
            if self._of_tokens:
                parts += rows  # where they are, as sentence-transformers leaves them
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
