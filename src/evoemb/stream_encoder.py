"""``encode``: sentence-transformers' own without a memory, the recurrence with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from evoemb._errors import InputError
from evoemb.data.turns import Message, Stream, TurnText, as_streams
from evoemb.encoder import Encoder
from evoemb.encoding import (
    EncodeArguments,
    EncodeOptions,
    MemoryMode,
    Precision,
    assign,
    check_finite,
    refuse_without_memory,
    taken_up,
)
from evoemb.memory_model import MemoryModel
from evoemb.state import MemoryState

if TYPE_CHECKING:
    from typing_extensions import Unpack

OneText: TypeAlias = str | Message
Texts: TypeAlias = str | Message | Stream
Streams: TypeAlias = Sequence[Stream]
EncodeResult: TypeAlias = NDArray[Any] | Tensor | list[NDArray[Any]] | list[Tensor] | list[Any] | dict[str, Any]
"""All that ``encode`` may return; the arguments say which."""


class StreamEncoder(MemoryModel):
    """A model that encodes texts, and streams of turns with their memory; arguments as :class:`evoemb.EvoEmbedding`."""

    @overload  # type: ignore[override]
    def encode(  # type: ignore[overload-overlap]
        self,
        inputs: Texts,
        *,
        stateful: bool = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> NDArray[Any]: ...

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        inputs: Texts,
        *,
        stateful: bool = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **arguments: Unpack[EncodeArguments],
    ) -> Tensor: ...

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        inputs: OneText,
        *,
        stateful: bool = ...,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> Tensor: ...

    @overload
    def encode(
        self,
        inputs: Stream,
        *,
        stateful: bool = ...,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> list[Tensor]: ...

    @overload
    def encode(
        self,
        inputs: Streams,
        *,
        stateful: Literal[True],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> list[NDArray[Any]]: ...

    @overload
    def encode(
        self,
        inputs: Streams,
        *,
        stateful: Literal[True],
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **arguments: Unpack[EncodeArguments],
    ) -> list[Tensor]: ...

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        inputs: OneText,
        *,
        output_value: Literal["token_embeddings"],
        stateful: bool = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> Tensor: ...

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        inputs: Stream,
        *,
        output_value: Literal["token_embeddings"],
        stateful: bool = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> list[Tensor]: ...

    @overload
    def encode(
        self,
        inputs: Streams,
        *,
        output_value: Literal["token_embeddings"],
        stateful: Literal[True],
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **arguments: Unpack[EncodeArguments],
    ) -> list[list[Tensor]]: ...

    @overload
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        output_value: str | None = ...,
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        device: str | list[str | torch.device] | None = ...,
        normalize_embeddings: bool = ...,
        truncate_dim: int | None = ...,
        pool: dict[str, Any] | None = ...,
        chunk_size: int | None = ...,
        *,
        stateful: bool = ...,
        state: MemoryState | None = ...,
        memory: MemoryMode = ...,
        max_batch_tokens: int | None = ...,
        truncate: bool = ...,
        **kwargs: Any,
    ) -> EncodeResult: ...

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        *,
        stateful: bool = False,
        state: MemoryState | None = None,
        memory: MemoryMode = "causal",
        max_batch_tokens: int | None = None,
        truncate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Encode texts, or a stream of turns with its memory.

        The arguments up to ``chunk_size`` are those of ``SentenceTransformer.encode``.

        Args:
            inputs: Texts; or with ``stateful`` one stream (strings or ``{"role", "content"}`` messages) or a list of
                streams, which are read side by side.
            batch_size: Rows of one forward at most.
            show_progress_bar: Show a bar that counts turns; None shows it where logging is at INFO.
            output_value: With a memory ``"sentence_embedding"``, or ``"token_embeddings"``: each text's own tokens,
                special ones too, in the light of the memory and without padding. Arguments that shape an embedding
                are refused with it.
            device: Move the model there first. Several devices are refused with a memory.
            pool: Refused with a memory: a stream is read in order.
            stateful: Read ``inputs`` as streams in order, every turn conditioned on the memory of its stream.
            state: Memory to start from. With ``stateful`` it is advanced when the call has succeeded, and left as it
                was when it fails; without, it is only read, and every text sees all of it. If the stream goes on with
                the answer to a user message that the state still waits for (``state.unanswered``), that turn is read
                again as a whole: the first embedding takes the place of its former one. A state of B streams takes
                B streams, or one list of B texts of which text i belongs to stream i.
            memory: With ``stateful``: ``"causal"``, turn t sees the memory of the turns before it; ``"final"``, every
                turn sees the memory after the whole stream.
            max_batch_tokens: Rows times the longest row of one forward at most, memory included; None for no limit.
            truncate: Cut turns longer than the model's window, with one warning; False refuses them.
            **kwargs: Passed on to the tokenization (``task``, ``processing_kwargs``).

        Returns:
            One stream: ``(n, D)``. Several: a list of ``(n_i, D)``. One string: ``(D,)``. An array, or tensors as
            ``convert_to_tensor`` and ``convert_to_numpy`` say. With ``output_value="token_embeddings"`` a tensor
            ``(T, H)`` stands for each text instead.

        Raises:
            InputError: A stream is empty or malformed, a turn is too long and ``truncate`` is False, or an argument is
                unknown or does not work with a memory.
            InputTypeError: The input is no text, stream or list of streams.
            StateError: The state belongs to another model or packing, or holds another number of streams.
        """
        asked: dict[str, Any] = {
            "prompt_name": prompt_name,
            "prompt": prompt,
            "batch_size": batch_size,
            "show_progress_bar": show_progress_bar,
            "output_value": output_value,
            "precision": precision,
            "convert_to_numpy": convert_to_numpy,
            "convert_to_tensor": convert_to_tensor,
            "device": device,
            "normalize_embeddings": normalize_embeddings,
            "truncate_dim": truncate_dim,
            "pool": pool,
            "chunk_size": chunk_size,
        }
        if not stateful and state is None:
            refuse_without_memory(memory, max_batch_tokens, truncate=truncate)
            plain: Any = super().encode  # typed with one overload a combination of arguments
            return plain(inputs, **asked, **kwargs)
        if not stateful and memory != "causal":
            raise InputError(
                f"memory={memory!r} says what turns read with stateful=True see. Texts on a state see all of it: leave "
                "memory out, or pass stateful=True."
            )
        own = {"memory": memory, "max_batch_tokens": max_batch_tokens, "truncate": truncate}
        options = EncodeOptions.of({**asked, **own}, kwargs, prompt=self._resolve_prompt(prompt, prompt_name))
        if truncate_dim is None and options.output_value == "sentence_embedding":
            options = replace(options, truncate_dim=self.truncate_dim)
        if device is not None:
            self.to(device)
        return self._encode_with_memory(inputs, state, options, stateful=stateful)

    @torch.no_grad()
    def _encode_with_memory(
        self, inputs: Any, state: MemoryState | None, options: EncodeOptions, *, stateful: bool
    ) -> Any:
        """Run the streams; the state is swapped last, so nothing that fails before changes it."""
        self.check_state(state)
        assigned = assign(as_streams(inputs), None if state is None else state.batch_size, stateful=stateful)
        lasting = state is not None
        if state is None:
            state = self.new_state(len(assigned.turns))
        self.eval()
        before = state.snapshot()
        memories = [memory.to(self.device, self.dtype) for memory in before]
        if not lasting:
            memories = [memory.without_live() for memory in memories]
        encoder = Encoder(self._stack(), options)
        if not stateful:
            return encoder.give_back(encoder.read_texts(assigned.streams, memories), assigned.form)
        if lasting:
            starts = [taken_up(turns, memory) for turns, memory in zip(assigned.turns, memories, strict=True)]
            turns, memories = [turns for turns, _ in starts], [memory for _, memory in starts]
        else:  # no later call can bring an answer
            turns = [[TurnText(turn.text) for turn in turns] for turns in assigned.turns]
        embeddings, after = encoder.read_streams(turns, memories)
        result = encoder.give_back(embeddings, assigned.form)
        check_finite(after)
        state.advance(before, after)
        return result
