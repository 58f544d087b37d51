"""A SentenceTransformer whose stack carries a memory: how it is built and loaded, and the states that belong to it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from evoemb._errors import InputError, InputTypeError, UnsupportedBackboneError
from evoemb.default_model.base import BASE_MODEL, DEFAULT_MODEL, closest_name, installed_base, offline_folder
from evoemb.default_model.packaged import PackagedModel, default_base, packaged_model
from evoemb.model_card import EvoEmbeddingModelCardData, renamed
from evoemb.modules.compiled import compile_feed_forward
from evoemb.modules.config import MemoryConfig, ReaderName
from evoemb.modules.intact import check_numbers, check_sizes, check_whole, check_words
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.readers.features import LAST_ONLY
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.tensor_files import Source
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.ranking import RetrievalConfig
from evoemb.stack import check_stack, evolving_stack, own_module, pools_last_token, spec_of
from evoemb.state import MemoryState
from evoemb.state.handle import checked_state
from evoemb.state.memory import StateSpec, StreamMemory
from evoemb.streaming.rows import Stack
from evoemb.streaming.whole import is_stream_batch, run_streams
from evoemb.upstream.build import UpstreamChoices, build_stack
from evoemb.upstream.checkpoint import is_upstream
from evoemb.upstream.keys import KeyReport

_RETRIEVAL = "retrieval"  # in config_sentence_transformers.json
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


class MemoryModel(SentenceTransformer):
    """What an :class:`evoemb.EvoEmbedding` is before it is asked anything; arguments as there."""

    model_card_data_class = EvoEmbeddingModelCardData

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
        self._packaged: PackagedModel | None = None
        self._retrieval_config = RetrievalConfig()
        self._score: tuple[TimeOrderedScore, ...] = ()  # in a tuple: no part of the stack
        if modules is not None and model_name_or_path is None:
            modules = evolving_stack(modules, self._memory_choices, None)
        else:
            self._packaged = packaged_model(model_name_or_path, kwargs.get("revision"))
        base = default_base() if self._packaged else installed_base(self._source, kwargs.get("revision"))
        try:
            super().__init__(base, modules=modules, **kwargs)  # type: ignore[arg-type]
        except OSError as error:
            name = str(model_name_or_path)  # the parent may have put its organisation before it meanwhile
            if meant := closest_name(name):
                raise InputError(
                    f"{name!r} is no folder here and was not found on the Hub. The model that ships with evoemb "
                    f"is {meant!r}, or no name at all."
                ) from error
            raise
        named_for_upstream = [name for name, value in (upstream_kwargs or {}).items() if value is not None]
        if named_for_upstream and self.key_report is None:
            raise InputError(
                f"upstream_kwargs names {', '.join(named_for_upstream)}, which released checkpoints take, and "
                f"{self._source or 'a stack of modules'} is none. Leave upstream_kwargs out."
            )
        check_stack(list(self))

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: A002 - the parent names it so
        """Run the modules over texts, or over a batch of whole streams as training gives them."""
        if not is_stream_batch(input):
            return super().forward(input, **kwargs)
        # Not through self(...): a loss may have wrapped this forward, and texts inside a stream are not its business.
        stack = replace(self._stack(), run=super().forward)
        return run_streams(stack, input, self.dtype or torch.float32)

    def new_state(self, batch_size: int = 1) -> MemoryState:
        """Return an empty memory for ``batch_size`` streams.

        Raises:
            InputError: ``batch_size`` is no whole number of 1 or more.
        """
        given: object = batch_size  # whatever its type says
        if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
            raise InputError(f"batch_size={batch_size!r} was given. A state holds at least one stream: use 1 or more.")
        latent_size = self._transformer.reader.latent_size
        empty = StreamMemory.empty(latent_size, dtype=self.dtype or torch.float32, device=self.device)
        return MemoryState(self.state_spec, [empty] * int(batch_size))

    @property
    def state_spec(self) -> StateSpec:
        """What a state of this model belongs to."""
        name = self.model_card_data.model_id or _name_of(self._source) or type(self).__name__
        return spec_of(self, name, self._revision or "")

    @property
    def memory_config(self) -> MemoryConfig:
        """The choices this model's memory was built with."""
        return self._transformer.memory_config

    @property
    def retrieval_config(self) -> RetrievalConfig:
        """How :meth:`evoemb.EvoEmbedding.retrieve` scores turns unless a call says otherwise; saved with the model.

        Embeddings and states do not depend on it.

        Raises:
            InputTypeError: Set to something other than a :class:`evoemb.ranking.RetrievalConfig`.
        """
        return self._retrieval_config

    @retrieval_config.setter
    def retrieval_config(self, value: RetrievalConfig) -> None:
        if not isinstance(value, RetrievalConfig):
            raise InputTypeError(
                f"retrieval_config is {type(value).__name__}, expected a RetrievalConfig. Make one with "
                'evoemb.ranking.RetrievalConfig(scoring="late").'
            )
        self._retrieval_config = value

    def describe(self) -> dict[str, str | int | bool]:
        """Return the facts ``evoemb info`` prints: backbone, reader, sizes, packing, parameters."""
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
            "scoring": self.retrieval_config.scoring,
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

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a peft adapter: a saved model would not hold it.

        Raises:
            UnsupportedBackboneError: Always.
        """
        raise UnsupportedBackboneError(
            "A peft adapter beside the memory's own would not be saved with the model. To train more than the memory, "
            "name parameters in EvoEmbeddingTrainingArguments(unfreeze=[...]); to use a trained adapter, merge it into "
            "the base model before the memory is added."
        )

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
        if state is not None:
            checked_state(state, self.state_spec)

    def _load_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        if saved := self._packaged:
            saved.check_base(Source.of_hub_kwargs(model_name_or_path, kwargs))
            modules, module_kwargs = super()._load_modules(model_name_or_path, *args, **kwargs)
            modules = saved.put_on(modules)
            self._source, self._model_card_text = DEFAULT_MODEL, saved.card  # type: ignore[assignment]
            self.model_card_data.base_model = saved.base.base_model
            self.retrieval_config = saved.retrieval
        else:
            revision = kwargs.get("revision")
            # Recent huggingface_hub resolves a branch once and passes its commit along.
            self._source, self._revision = _label_of(model_name_or_path), getattr(revision, "resolved", revision)
            source = Source.of_hub_kwargs(model_name_or_path, kwargs)
            check_sizes(source)
            modules, module_kwargs = super()._load_modules(model_name_or_path, *args, **kwargs)
            if self.key_report is None:  # a released checkpoint's loader has accounted for every tensor itself
                _check_loaded(modules, source)
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
        own = {"requirements": requirement, _RETRIEVAL: asdict(self.retrieval_config)}
        return {**super()._get_model_config(), **own}

    def _parse_model_config(self, model_config: dict[str, Any]) -> None:
        super()._parse_model_config(model_config)
        if (saved := model_config.get(_RETRIEVAL)) is not None:
            self.retrieval_config = RetrievalConfig.of_saved(saved, "config_sentence_transformers.json")


def _label_of(name: str) -> str:
    """Return what a model is called: its Hub id where it was loaded from the offline copy."""
    offline = offline_folder()
    return BASE_MODEL if offline is not None and Path(name) == offline else name


def _check_loaded(modules: Any, source: Source) -> None:
    """Refuse modules that were loaded from a damaged folder: no words, random or unusable weights."""
    named = list(modules.values()) if isinstance(modules, OrderedDict) else list(modules)
    first = named[0]
    if isinstance(first, Transformer):
        check_words(first.tokenizer, source.name)
        check_whole(first.model, source)
    for module in named:
        check_numbers(module.state_dict().items(), source.name)


def _name_of(source: str | None) -> str | None:
    """Return a Hub id as it is, and the last part of a folder's path."""
    return Path(source).resolve().name if source and Path(source).exists() else source
