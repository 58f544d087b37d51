"""A CrossEncoder whose stack reads candidates in order: how it is built and loaded, and how it scores."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import CrossEncoder
from torch import nn

from evoemb._errors import InputError
from evoemb.cuts import CutTexts
from evoemb.default_model.base import DEFAULT_MODEL
from evoemb.default_model.packaged import packaged_model
from evoemb.model import EvoEmbedding
from evoemb.modules.config import ReaderName
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.readers.features import LAST_ONLY
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.stream_score import QUERY_EMBEDDING, StreamScore
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.pairs import (
    CANDIDATES,
    GROUPS,
    QUERIES,
    WRITTEN,
    chat_features,
    checked_pair,
    pair_features,
    unpadded,
)
from evoemb.prompts import prompt_for
from evoemb.stack import evolving_stack, own_module, pools_last_token, spec_of
from evoemb.state.handle import MemoryState, one_stream
from evoemb.state.memory import StateSpec, StreamMemory
from evoemb.streaming.candidates import CandidateStream, embed_candidates
from evoemb.streaming.rows import Limits, Stack, TokenIds
from evoemb.time_ordered import Answered, answered, text_states

if TYPE_CHECKING:
    pass


class RerankerModel(CrossEncoder):
    """What an :class:`evoemb.EvoReranker` is before it is asked anything; arguments as there."""

    _default_prompts = EvoEmbedding._default_prompts
    default_huggingface_organization = EvoEmbedding.default_huggingface_organization  # of names without one

    def __init__(
        self,
        model_name_or_path: str | EvoEmbedding | None = None,
        *,
        temperature: float | None = None,
        memory_reader: ReaderName | None = None,
        num_latents: int | None = None,
        capacity_latents: int | None = None,
        memory_kwargs: dict[str, Any] | None = None,
        upstream_kwargs: dict[str, Any] | None = None,
        modules: list[nn.Module] | OrderedDict[str, nn.Module] | None = None,
        activation_fn: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        named = {"reader": memory_reader, "num_latents": num_latents, "capacity_latents": capacity_latents}
        self._memory_choices = {**(memory_kwargs or {}), **{k: v for k, v in named.items() if v is not None}}
        self._upstream_kwargs = upstream_kwargs
        self._embedding_stack = (nn.Sequential(),)
        name = None if isinstance(model_name_or_path, EvoEmbedding) else model_name_or_path
        if isinstance(model_name_or_path, EvoEmbedding):
            modules = [*model_name_or_path, StreamScore()]
            kwargs.setdefault("device", str(model_name_or_path.device))
            kwargs.setdefault("default_prompt_name", model_name_or_path.default_prompt_name)
            kwargs["prompts"] = {**model_name_or_path.prompts, **(kwargs.get("prompts") or {})}
        elif name is None and modules is None:
            name = DEFAULT_MODEL
        self._packaged = None if modules is not None else packaged_model(name, kwargs.get("revision"))
        super().__init__(name, modules=modules, activation_fn=activation_fn or nn.Identity(), **kwargs)
        if not isinstance(self[-1], StreamScore | TimeOrderedScore):
            raise InputError(
                "The last module must be StreamScore or TimeOrderedScore. Build the reranker from an EvoEmbedding."
            )
        evolving_stack(list(self), self._memory_choices, name)  # refuses choices that contradict the memory it has
        if temperature is not None:
            if isinstance(self[-1], TimeOrderedScore):
                raise InputError(f"temperature={temperature!r} was given, but TimeOrderedScore has none. Leave it out.")
            self[-1].temperature = StreamScore(temperature).temperature

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize pairs ``(query, candidate)`` into candidate streams, one for each run of equal queries.

        Raises:
            InputTypeError: A pair is not two strings.
        """
        pairs = [checked_pair(pair, index) for index, pair in enumerate(inputs)]
        return self._features(pairs, prompt, CutTexts(self._transformer), 0, kwargs)

    def _features(
        self, pairs: Sequence[tuple[str, str]], prompt: str | None, cut: CutTexts, first: int, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Tokenize pairs, the first of which is number ``first`` of its call."""
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if self._transformer.dialogue.config.memory_format == "chat":
            if given := [*kwargs, *(["prompt"] if prompt is not None else [])]:
                raise InputError(
                    f"{', '.join(given)} was given, but this model renders its candidates as the chat it was trained "
                    "with, with a prompt of its own. Leave it out."
                )
            return chat_features(self._transformer, pairs)
        before_query = prompt_for(self, "query") if prompt is None else prompt
        return pair_features(self._transformer, pairs, before_query, prompt_for(self, "document"), cut, first, **kwargs)

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: A002 - the parent names it so
        """Score preprocessed pairs: adds ``scores`` ``(N, 1)`` in the pairs' order. Differentiable."""
        if CANDIDATES not in input:
            return super().forward(input, **kwargs)
        return self._score(input, self._starting_memory(None), Limits())

    def _score(self, features: dict[str, Any], memory: StreamMemory, limits: Limits) -> dict[str, Any]:
        groups = features[GROUPS].tolist()
        candidates, queries = unpadded(features[CANDIDATES]), unpadded(features[QUERIES])
        if isinstance(self[-1], TimeOrderedScore):
            scores = [one.scores for one in self._in_time_order(queries, candidates, groups, limits)]
            return {**features, "scores": torch.cat(scores).unsqueeze(-1)}
        written = unpadded(features[WRITTEN]) if WRITTEN in features else None
        members = [[row for row, group in enumerate(groups) if group == number] for number in range(len(queries))]
        streams = [
            CandidateStream(query, [candidates[row] for row in rows], written and [written[row] for row in rows])
            for query, rows in zip(queries, members, strict=True)
        ]
        embedded = embed_candidates(self._stack(), streams, [memory] * len(streams), limits)
        asked = torch.stack([embedded[group].query for group in groups])
        return {
            **features,
            **self[-1]({QUERY_EMBEDDING: asked, "sentence_embedding": torch.cat([one.candidates for one in embedded])}),
        }

    def _in_time_order(
        self, queries: Sequence[TokenIds], candidates: Sequence[TokenIds], groups: Sequence[int], limits: Limits
    ) -> list[Answered]:
        """Score each query's candidates with a `TimeOrderedScore`, which reads texts without a memory."""
        score: Any = self[-1]
        asked = text_states(list(self)[:-1], queries, score.layers, limits)
        said = text_states(list(self)[:-1], candidates, score.layers, limits)
        streams = [
            [turn for turn, group in zip(said, groups, strict=True) if group == number] for number in range(len(asked))
        ]
        return answered(score, list(zip(asked, streams, strict=True)))

    def _stack(self) -> Stack:
        queue: LatentMemoryQueue = self[1]  # type: ignore[assignment]
        extra = {LAST_ONLY: pools_last_token(list(self))}
        return Stack(self._transformer, queue, self._embed, self.device, extra)

    def _embed(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run the embedding modules, all but the score."""
        for module in list(self)[:-1]:
            features = module(features)
        return features

    @property
    def _transformer(self) -> StatefulTransformer:
        return self[0]  # type: ignore[return-value]

    def _starting_memory(self, state: MemoryState | None) -> StreamMemory:
        if state is None:
            size = self._transformer.reader.latent_size
            return StreamMemory.empty(size, dtype=self.dtype or torch.float32, device=self.device)
        return one_stream(state, self._state_spec()).snapshot()[0].to(self.device, self.dtype)

    def _state_spec(self) -> StateSpec:
        """Return the spec of the states of the embedding model in this stack."""
        modules = tuple(self)[:-1]
        if tuple(self._embedding_stack[0]) != modules:  # kept in a tuple: its parameters would else stand twice
            self._embedding_stack = (nn.Sequential(*modules),)
        return spec_of(self._embedding_stack[0], type(self).__name__)

    def _load_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a saved reranker as it is, and anything else as an embedding model with a score behind it."""
        packaged = self._packaged
        if packaged:
            model_name_or_path = DEFAULT_MODEL  # the parent may have put an organisation before it
        elif self._is_saved_reranker(model_name_or_path, kwargs):
            return super()._load_modules(model_name_or_path, *args, **kwargs)
        own: dict[str, Any] = {"memory_kwargs": self._memory_choices, "upstream_kwargs": self._upstream_kwargs}
        embedding = EvoEmbedding(model_name_or_path, device="cpu", **own, **kwargs)
        given = {name: text for name, text in self.prompts.items() if text is not None}
        self.prompts = {**embedding.prompts, **given}
        self.default_prompt_name = self.default_prompt_name or embedding.default_prompt_name
        stack = [*embedding, (packaged and packaged.score()) or StreamScore()]
        return OrderedDict((str(index), module) for index, module in enumerate(stack)), {}

    def _is_saved_reranker(self, model_name_or_path: str, kwargs: dict[str, Any]) -> bool:
        hub: dict[str, Any] = {name: kwargs.get(name) for name in ("token", "cache_folder", "revision")}
        local = bool(kwargs.get("local_files_only"))
        path = StatefulTransformer.load_file_path(model_name_or_path, "modules.json", **hub, local_files_only=local)
        if path is None:
            return False
        return self._get_model_type(model_name_or_path, **hub, local_files_only=local) == self.model_type

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        return own_module(class_ref) or super()._load_module_class_from_ref(class_ref, *args, **kwargs)
