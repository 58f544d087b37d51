"""EvoReranker: a CrossEncoder that reads the candidates in order and scores each against the query."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from tqdm.auto import tqdm

from evoemb._errors import InputError
from evoemb.cuts import CutTexts
from evoemb.default_model.base import DEFAULT_MODEL
from evoemb.default_model.packaged import packaged_model
from evoemb.encoding import converted, refuse_parallel, refuse_unknown, wants_progress_bar
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
    PredictArguments,
    chat_features,
    checked_documents,
    checked_pair,
    pair_features,
    unpadded,
    whole_groups,
)
from evoemb.prompts import prompt_for
from evoemb.ranking import Hit, RankedId, checked_top_k, top_hits
from evoemb.stack import evolving_stack, own_module, pools_last_token, spec_of
from evoemb.state.handle import MemoryState, one_stream
from evoemb.state.memory import StateSpec, StreamMemory
from evoemb.streaming.candidates import CandidateStream, embed_candidates
from evoemb.streaming.rows import Limits, Stack, TokenIds
from evoemb.time_ordered import Answered, answered, text_states

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EvoReranker(CrossEncoder):
    """Rerank candidates that form a stream: which of them answers the query, and is it still so?

    The scores are listwise: they depend on which candidates are given and in which order, so give them in the order in
    which they were said. Consecutive pairs with the same query are one candidate stream.

    The last module of the stack decides how candidates are read. `TimeOrderedScore`, which the model that ships with
    evoemb has, compares the words of query and candidates and knows which candidate is newer. `StreamScore`, which any
    other model gets, embeds each candidate in the light of those before it, and the query in the light of all.

    Args:
        model_name_or_path: A saved reranker or evoemb model (Hub id or folder), any model that
            :class:`evoemb.EvoEmbedding` takes, or a loaded ``EvoEmbedding``, whose modules are then shared. None, or
            ``"evoemb-minilm"``: the trained reranker that ships with evoemb.
        temperature: Of `StreamScore`: divides the cosine; None keeps the saved one, or 0.1.
        **kwargs: As for CrossEncoder, and the memory arguments of ``EvoEmbedding`` for a fresh memory.

    Source: EvoEmbedding (arXiv 2606.21649), reranking.
    """

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

    @property
    def num_labels(self) -> int:
        """One score a pair."""
        return 1

    @overload  # type: ignore[override]
    def predict(
        self,
        inputs: tuple[str, str],
        *,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[PredictArguments],
    ) -> np.float32: ...

    @overload
    def predict(
        self,
        inputs: Sequence[tuple[str, str] | list[str]],
        *,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **arguments: Unpack[PredictArguments],
    ) -> NDArray[np.float32]: ...

    @overload
    def predict(
        self,
        inputs: tuple[str, str] | Sequence[tuple[str, str] | list[str]],
        *,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **arguments: Unpack[PredictArguments],
    ) -> Tensor: ...

    @overload
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        activation_fn: Callable[..., Any] | None = ...,
        apply_softmax: bool | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **arguments: Any,
    ) -> np.float32 | NDArray[np.float32] | Tensor | list[Tensor]: ...

    @torch.no_grad()
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        state: MemoryState | None = None,
        truncate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Score pairs of a query and a candidate; consecutive pairs with the same query form one candidate stream.

        Args:
            inputs: One pair, or a list of pairs ``(query, candidate)``, in the candidates' order.
            prompt: Put before the query, as ``prompt_name`` names one of the model's; None takes the one of
                ``encode_query``.
            batch_size: Candidates of one forward at most.
            apply_softmax: Refused: a pair has a single score.
            pool: Refused, like several devices and ``chunk_size``: a stream is read in order.
            state: Memory that every candidate stream continues; only read.
            truncate: Cut texts longer than the model's window, with one warning; False refuses them.
            **kwargs: Passed on to the tokenization (``task``, ``processing_kwargs``).

        Returns:
            Scores ``(n,)``, cosine / temperature passed through ``activation_fn``; types as CrossEncoder's.

        Raises:
            InputError: An argument is unknown, or does not work with a memory; or a text is too long and ``truncate``
                is False.
            InputTypeError: A pair is not two strings.
            StateError: The state belongs to another model, or holds several streams.
        """
        refuse_unknown(kwargs, "predict")
        refuse_parallel(pool, device, chunk_size)
        if apply_softmax:
            raise InputError("apply_softmax=True was given, but a pair has one score. Leave it out.")
        single = self.is_singular_input(inputs)
        pairs = [checked_pair(pair, index) for index, pair in enumerate([inputs] if single else inputs)]
        if device is not None:
            self.to(device)
        self.eval()
        if prompt is not None or prompt_name is not None:
            prompt = self._resolve_prompt(prompt, prompt_name)
        if state is not None and isinstance(self[-1], TimeOrderedScore):
            raise InputError("state was given, but this reranker judges candidates by themselves. Leave state out.")
        memory, activation = self._starting_memory(state), activation_fn or self.activation_fn
        cut = CutTexts(self._transformer, truncate=truncate)
        found: list[Tensor] = []
        with tqdm(total=len(pairs), desc="Candidates", disable=not wants_progress_bar(show_progress_bar)) as bar:
            for batch in whole_groups(pairs, batch_size):
                features = self._features(batch, prompt, cut, bar.n, kwargs)
                scores = self._score(features, memory, Limits(batch_size))["scores"]
                found.append(activation(scores).squeeze(-1).float())  # type: ignore[misc]
                bar.update(len(batch))
        cut.report()
        scores = torch.cat(found) if found else torch.zeros(0, device=self.device)
        result = converted(scores, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return result[0] if single else result

    @overload  # type: ignore[override]
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = ...,
        return_documents: Literal[False] = ...,
        **arguments: Unpack[PredictArguments],
    ) -> list[RankedId]: ...

    @overload
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = ...,
        *,
        return_documents: Literal[True],
        **arguments: Unpack[PredictArguments],
    ) -> list[Hit]: ...

    @overload
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = ...,
        return_documents: bool = ...,
        **arguments: Unpack[PredictArguments],
    ) -> list[RankedId] | list[Hit]: ...

    def rank(
        self,
        query: str,
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        state: MemoryState | None = None,
        truncate: bool = True,
        processing_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Rank candidates, read in the order given, for one query.

        Args:
            documents: Candidates in order: a list of strings, or anything like one (a pandas Series, a column).
            top_k: Candidates returned at most; None returns all.
            return_documents: Add the candidates' texts.
            state: Memory that the candidates continue; only read.

        The other arguments are those of :meth:`predict`.

        Returns:
            ``[{"corpus_id", "score"[, "text"]}, ...]``, best first; ``corpus_id`` counts the candidates as given.

        Raises:
            InputError: As in :meth:`predict`, or ``top_k`` is no whole number of 1 or more.
            InputTypeError: The candidates are no list of strings.
            StateError: As in :meth:`predict`.
        """
        best, texts = checked_top_k(top_k), checked_documents(documents)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
            state=state,
            truncate=truncate,
            processing_kwargs=processing_kwargs,
        )
        ranked: Any = top_hits(scores, texts, best)  # type: ignore[arg-type]  # arrays by default
        if return_documents:
            return ranked
        return [RankedId(corpus_id=hit["corpus_id"], score=hit["score"]) for hit in ranked]

    @torch.no_grad()
    def answer_probability(self, query: str, documents: Any, *, batch_size: int = 32) -> float:
        """Return how likely it is that any of the candidates answers the query, 0 to 1.

        Args:
            documents: Candidates in the order in which they were said, as :meth:`rank` takes them; none give 0.
            batch_size: Texts of one forward at most.

        Raises:
            InputError: The reranker's last module is no `TimeOrderedScore`: only that one was trained to say so.
            InputTypeError: The candidates are no list of strings.
        """
        if not isinstance(self[-1], TimeOrderedScore):
            raise InputError(
                f"This reranker ends with {type(self[-1]).__name__}, which always prefers some candidate. Use "
                "EvoReranker(), whose TimeOrderedScore was trained on questions without an answer."
            )
        pairs = [(query, text) for text in checked_documents(documents)]
        if not pairs:
            return 0.0
        self.eval()
        features = self._features(pairs, None, CutTexts(self._transformer), 0, {})
        asked, said, groups = features[QUERIES], features[CANDIDATES], features[GROUPS].tolist()
        (found,) = self._in_time_order(unpadded(asked), unpadded(said), groups, Limits(batch_size))
        return 1 - float(found.probabilities[-1])

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
        asked = text_states(self._transformer, self._embed_tokens, queries, score.layers, limits)
        said = text_states(self._transformer, self._embed_tokens, candidates, score.layers, limits)
        streams = [
            [turn for turn, group in zip(said, groups, strict=True) if group == number] for number in range(len(asked))
        ]
        return answered(score, list(zip(asked, streams, strict=True)))

    def _embed_tokens(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run the modules between the transformer and the score."""
        for module in list(self)[1:-1]:
            features = module(features)
        return features

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
