"""EvoEmbedding: a SentenceTransformer whose embeddings depend on what was read before."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from evoemb._errors import InputError, StateError
from evoemb.defaults import DEFAULT_MODEL
from evoemb.dialogue.methods import DialogueMethods
from evoemb.encoding import (
    EncodeOptions,
    Encoder,
    MemoryMode,
    Precision,
    assign,
    check_finite,
    refuse_parallel,
    refuse_without_memory,
    wants_progress_bar,
)
from evoemb.model_card import EvoEmbeddingModelCardData, renamed
from evoemb.modules.compiled import compile_feed_forward
from evoemb.modules.config import MemoryConfig, ReaderName
from evoemb.modules.fingerprint import fingerprint
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.stateful_transformer import LAST_ONLY, StatefulTransformer
from evoemb.modules.tensor_files import Source
from evoemb.saved_memory import SavedMemory, default_base, default_memory
from evoemb.stack import check_stack, evolving_stack, own_module, pools_last_token
from evoemb.state import MemoryState
from evoemb.stream_memory import StateSpec, StreamMemory
from evoemb.streaming.rows import Limits, Stack
from evoemb.streaming.whole import is_stream_batch, run_streams
from evoemb.turns import as_streams
from evoemb.upstream.build import UpstreamChoices, build_stack
from evoemb.upstream.checkpoint import is_upstream
from evoemb.upstream.keys import KeyReport

logger = logging.getLogger(__name__)

_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


class EvoEmbedding(DialogueMethods):
    """Embed texts conditioned on a stream of turns read before them.

    Without ``stateful`` and ``state`` it is a SentenceTransformer, bit for bit. With them, turns are read in order into
    a bounded memory, and every embedding sees that memory.

    Args:
        model_name_or_path: A saved evoemb model or a released EvoRAG checkpoint (Hub id or folder), or any
            sentence-transformers or transformers text model, which gets a fresh, untrained memory and keeps its own
            embeddings where the memory is empty. None, or ``"evoemb-minilm"``: the trained model that ships with
            evoemb; a folder of that name is ``"./evoemb-minilm"``.
        memory_reader: How a fresh memory is read: ``"prefix"`` (latents as input tokens; default for decoders) or
            ``"attention"`` (the top layers attend to the queue; default for encoders).
        num_latents: ``K``, latents a turn of a fresh memory; None means 16, or 4 with the attention reader.
        capacity_latents: ``C``, latents the queue of a fresh memory keeps; None means 512, or 128.
        memory_kwargs: Further choices of a fresh memory: fields of :class:`evoemb.modules.config.MemoryConfig`.
        upstream_kwargs: For a released checkpoint: ``base_model``, ``tokenizer`` and ``token_ids`` of
            :func:`evoemb.load_upstream`.
        modules: Modules of a stack, instead of a name.
        **kwargs: As for SentenceTransformer (``device``, ``prompts``, ``truncate_dim``, ``model_kwargs``, ``revision``,
            ``token``, ``cache_folder``, ``local_files_only``, ...).

    Raises:
        UnsupportedBackboneError: The backbone cannot carry the memory asked for.
        InputError: A choice is unknown, out of range, or contradicts the saved memory.

    Source: EvoEmbedding (arXiv 2606.21649).
    """

    model_card_data_class = EvoEmbeddingModelCardData  # type: ignore[assignment]

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        memory_reader: ReaderName | None = None,
        num_latents: int | None = None,
        capacity_latents: int | None = None,
        memory_kwargs: dict[str, Any] | None = None,
        upstream_kwargs: dict[str, Any] | None = None,
        modules: list[nn.Module] | OrderedDict[str, nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        named = {"reader": memory_reader, "num_latents": num_latents, "capacity_latents": capacity_latents}
        given = {name: value for name, value in named.items() if value is not None}
        self._memory_choices: dict[str, Any] = {**(memory_kwargs or {}), **given}
        self.key_report: KeyReport | None = None  # what became of the keys of a released checkpoint
        self._upstream_choices = {"device": kwargs.get("device"), **(upstream_kwargs or {})}
        self._source = None if model_name_or_path is None else str(model_name_or_path)
        self._revision: str | None = None
        self._saved_memory: SavedMemory | None = None
        if modules is not None and model_name_or_path is None:
            modules = evolving_stack(modules, self._memory_choices, None)
        else:
            self._saved_memory = default_memory(model_name_or_path, kwargs.get("revision"))
        base = default_base() if self._saved_memory else self._source
        super().__init__(base, modules=modules, **kwargs)  # type: ignore[arg-type]
        check_stack(list(self))

    def encode(  # type: ignore[override]
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
        approximate_window: int = 1,
        max_batch_tokens: int | None = None,
        truncate: bool = True,
        native: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Encode texts, or a stream of turns with its memory.

        The arguments up to ``chunk_size`` are those of ``SentenceTransformer.encode``.

        Args:
            inputs: Texts; or with ``stateful`` one stream (strings or ``{"role", "content"}`` messages) or a list of
                streams, which are read side by side.
            batch_size: Rows of one forward at most.
            show_progress_bar: Show a bar that counts turns; None shows it where logging is at INFO.
            device: Move the model there first. Several devices are refused with a memory.
            pool: Refused with a memory: a stream is read in order.
            stateful: Read ``inputs`` as streams in order, every turn conditioned on the memory of its stream.
            state: Memory to start from. With ``stateful`` it is advanced when the call has succeeded, and left as it
                was when it fails; without, it is only read, and every text sees all of it. A state of B streams takes
                B streams, or one list of B texts of which text i belongs to stream i.
            memory: With ``stateful``: ``"causal"``, turn t sees the memory of the turns before it; ``"final"``, every
                turn sees the memory after the whole stream.
            approximate_window: Above 1, an approximation: turns see a full queue that moves once in so many turns.
            max_batch_tokens: Rows times the longest row of one forward at most, memory included; None for no limit.
            truncate: Cut turns longer than the model's window, with one warning; False refuses them.
            native: Use the plain model of a released checkpoint, which sees no ``state``; see :meth:`encode_native`.
            **kwargs: Passed on to the tokenization (``task``, ``processing_kwargs``).

        Returns:
            One stream: ``(n, D)``. Several: a list of ``(n_i, D)``. One string: ``(D,)``. An array, or tensors as
            ``convert_to_tensor`` and ``convert_to_numpy`` say.

        Raises:
            InputError: A stream is empty or malformed, a turn is too long and ``truncate`` is False, ``memory`` is
                unknown, or an argument does not work with a memory.
            InputTypeError: The input is no text, stream or list of streams.
            StateError: The state belongs to another model or packing, or holds another number of streams.
        """
        if native:
            if stateful:
                raise InputError("The native model has no memory to read a stream into. Leave out native or stateful.")
            given: dict[str, bool] = {"convert_to_numpy": convert_to_numpy, "convert_to_tensor": convert_to_tensor}
            return self.encode_native(inputs, batch_size=batch_size, **given)
        plain: Any = super().encode  # typed with one overload a combination of arguments
        if not stateful and state is None:
            refuse_without_memory(memory, approximate_window, max_batch_tokens, truncate=truncate)
            return plain(
                inputs,
                prompt_name=prompt_name,
                prompt=prompt,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                output_value=output_value,
                precision=precision,
                convert_to_numpy=convert_to_numpy,
                convert_to_tensor=convert_to_tensor,
                device=device,
                normalize_embeddings=normalize_embeddings,
                truncate_dim=truncate_dim,
                pool=pool,
                chunk_size=chunk_size,
                **kwargs,
            )
        refuse_parallel(pool, device, output_value)
        options = EncodeOptions(
            Limits(batch_size, max_batch_tokens),
            memory=memory,
            approximate_window=approximate_window,
            prompt=self._resolve_prompt(prompt, prompt_name),
            truncate=truncate,
            truncate_dim=self.truncate_dim if truncate_dim is None else truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            to_numpy=convert_to_numpy and not convert_to_tensor,
            to_tensor=convert_to_tensor,
            show_progress_bar=wants_progress_bar(show_progress_bar),
            preprocess_kwargs=kwargs,
        )
        if device is not None:
            self.to(device)
        return self._encode_with_memory(inputs, state, options, stateful=stateful)

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: A002 - the parent names it so
        """Run the modules over texts, or over a batch of whole streams as training gives them."""
        if not is_stream_batch(input):
            return super().forward(input, **kwargs)
        # Not through self(...): a loss may have wrapped this forward, and texts inside a stream are not its business.
        stack = replace(self._stack(), run=super().forward)
        return run_streams(stack, input, self.dtype or torch.float32)

    @torch.no_grad()
    def _encode_with_memory(
        self, inputs: Any, state: MemoryState | None, options: EncodeOptions, *, stateful: bool
    ) -> Any:
        """Run the streams; the state is swapped last, so nothing that fails before changes it."""
        self.check_state(state)
        assigned = assign(as_streams(inputs), None if state is None else state.batch_size, stateful=stateful)
        lasting = state is not None
        if state is None:
            state = self.new_state(len(assigned.streams))
        self.eval()
        before = state.snapshot()
        memories = [memory.to(self.device, self.dtype) for memory in before]
        if not lasting:
            memories = [memory.without_live() for memory in memories]
        encoder = Encoder(self._stack(), options)
        if not stateful:
            return encoder.give_back(encoder.read_texts(assigned.streams, memories), assigned.form)
        embeddings, after = encoder.read_streams(assigned.streams, memories)
        result = encoder.give_back(embeddings, assigned.form)
        check_finite(after)
        state.advance(before, after)
        return result

    def new_state(self, batch_size: int = 1) -> MemoryState:
        """Give an empty memory for ``batch_size`` streams.

        Raises:
            InputError: ``batch_size`` is less than 1.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} was given. A state holds at least one stream.")
        latent_size = self._transformer.reader.latent_size
        empty = StreamMemory.empty(latent_size, dtype=self.dtype or torch.float32, device=self.device)
        return MemoryState(self.state_spec, [empty] * batch_size)

    @property
    def state_spec(self) -> StateSpec:
        """What a state of this model belongs to."""
        memory = self._transformer.memory_config
        return StateSpec(
            model_id=self.model_card_data.model_id or _name_of(self._source) or type(self).__name__,
            revision=self._revision or "",
            fingerprint=fingerprint(self),
            reader=memory.reader,
            num_latents=memory.num_latents,
            capacity_latents=memory.capacity_latents,
            latent_size=self._transformer.reader.latent_size,
            segment_turns=memory.segment_turns,
            segment_tokens=memory.segment_tokens,
        )

    @property
    def memory_config(self) -> MemoryConfig:
        """The choices this model's memory was built with."""
        return self._transformer.memory_config

    def describe(self) -> dict[str, str | int | bool]:
        """Give the facts ``evoemb info`` prints: backbone, reader, sizes, packing, parameters."""
        transformer, memory = self._transformer, self.memory_config
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        size = (
            transformer.reader.latent_size * memory.capacity_latents * torch.empty(0, dtype=self.dtype).element_size()
        )
        return {
            "model": self.state_spec.model_id,
            "backbone": type(transformer.model).__name__,
            "stack": " -> ".join(type(module).__name__ for module in self),
            "memory_reader": memory.reader,
            "adapters": ", ".join(transformer.adapter_names),
            "memory_trained": transformer.is_memory_trained,
            "num_latents": memory.num_latents,
            "capacity_latents": memory.capacity_latents,
            "segment_turns": memory.segment_turns,
            "segment_tokens": memory.segment_tokens,
            "embedding_dimension": self.get_embedding_dimension() or 0,
            "max_seq_length": self.max_seq_length or 0,
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
            "memory_parameters": trainable,
            "dtype": str(self.dtype).removeprefix("torch."),
            "full_queue_bytes": size,
            "fingerprint": self.state_spec.fingerprint,
        }

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Enable gradient checkpointing; every block is recomputed under the adapter it ran with."""
        backbone = self._transformer.model
        # Transformers renames it; the old name warns, and goes in version 6.
        enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs, **kwargs)
        self._transformer.keep_adapter_in_checkpoints()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Do the same under the name that newer trainers call."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the backbone's feed-forward blocks for inference with ``torch.compile``; arguments are passed on.

        One graph serves all lengths, layers and roles, so a stream compiles nothing anew.

        Raises:
            UnsupportedBackboneError: The backbone has no gated feed-forward blocks.
        """
        compile_feed_forward(self._transformer.model, *args, **kwargs)

    @property
    def _transformer(self) -> StatefulTransformer:
        return self[0]  # type: ignore[return-value]

    def _stack(self, **extra: Any) -> Stack:
        queue: LatentMemoryQueue = self[1]  # type: ignore[assignment]
        return Stack(self._transformer, queue, self, self.device, {LAST_ONLY: pools_last_token(list(self)), **extra})

    def check_state(self, state: MemoryState | None) -> None:
        """Refuse a state that another model made."""
        if state is None:
            return
        if not isinstance(state, MemoryState):
            raise StateError(f"state is {type(state).__name__}, expected MemoryState. Make one with model.new_state().")
        if differences := self.state_spec.differences(state.spec):
            raise StateError(
                f"This state was made by {state.spec.model_id!r} and does not fit {self.state_spec.model_id!r}: "
                f"{'; '.join(differences)} (model against state). Load the model that made it, or read the stream "
                "again into model.new_state()."
            )

    def _load_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        if saved := self._saved_memory:
            saved.check_base(Source.of_hub_kwargs(model_name_or_path, kwargs))
            modules, module_kwargs = super()._load_modules(model_name_or_path, *args, **kwargs)
            modules = saved.put_on(modules)
            self._source, self._model_card_text = DEFAULT_MODEL, saved.card  # type: ignore[assignment]
            self.model_card_data.base_model = saved.base.base_model
        else:
            revision = kwargs.get("revision")
            # Recent huggingface_hub resolves a branch once and passes its commit along.
            self._source, self._revision = model_name_or_path, getattr(revision, "resolved", revision)
            modules, module_kwargs = super()._load_modules(model_name_or_path, *args, **kwargs)
        return evolving_stack(modules, self._memory_choices, self._source), module_kwargs

    def _load_default_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        """Build the stack of a released checkpoint, or of a plain transformers model: its text side, unit length."""
        source = Source.of_hub_kwargs(model_name_or_path, kwargs)
        if is_upstream(source):
            choices = UpstreamChoices.of(kwargs.get("model_kwargs"), self._memory_choices, self._upstream_choices)
            stack = build_stack(source, choices)
            self._parse_model_config({"prompts": stack.prompts})
            self.key_report = stack.report
            return stack.modules, {}
        modules, module_kwargs = super()._load_default_modules(model_name_or_path, *args, **kwargs)
        transformer: Any = modules[0]  # type: ignore[index]
        if "text" in getattr(transformer, "modality_config", {}):
            # A chat template would wrap every turn in a conversation of its own.
            transformer.modality_config = dict(_TEXT_ONLY)
        return [*modules, Normalize()], module_kwargs

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        """Resolve our own module classes from the installed package; anything else as sentence-transformers does."""
        return own_module(class_ref) or super()._load_module_class_from_ref(class_ref, *args, **kwargs)

    def _update_default_model_id(self, model_card: str) -> str:
        """Let the snippet of a card that is saved again name the model where it now lies."""
        return renamed(model_card, self.model_card_data)

    def _get_model_config(self) -> dict[str, Any]:
        reason = "its embeddings depend on a memory that evoemb threads through the stack"
        requirement = {"evoemb": {"specifier": ">=0.1", "reason": reason}}
        return {**super()._get_model_config(), "requirements": requirement}


def _name_of(source: str | None) -> str | None:
    """Give a Hub id as it is, and the last part of a folder's path."""
    return Path(source).resolve().name if source and Path(source).exists() else source
