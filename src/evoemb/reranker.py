"""EvoReranker: a CrossEncoder that reads the candidates in order and scores each against the query."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from evoemb._errors import InputError, StateError
from evoemb.chat.ids import candidate_ids
from evoemb.encoding import refuse_parallel, wants_progress_bar
from evoemb.model import EvoEmbedding
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.stateful_transformer import LAST_ONLY, StatefulTransformer
from evoemb.modules.stream_score import QUERY_EMBEDDING, StreamScore
from evoemb.stack import own_module, pools_last_token
from evoemb.state import MemoryState
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.candidates import CandidateStream, embed_candidates
from evoemb.streaming.rows import Limits, Stack

_CANDIDATES, _QUERIES, _GROUPS, _WRITTEN = "candidate_ids", "query_ids", "candidate_groups", "written_ids"
_NO_ID = -1
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class EvoReranker(CrossEncoder):
    """Rerank candidates that form a stream: a candidate sees those before it, the query sees them all.

    The scores are listwise: they depend on which candidates are given and in which order, so give them in an order that
    means something (time, or the first-stage rank). Consecutive pairs with the same query are one candidate stream.

    Args:
        model_name_or_path: A saved reranker or evoemb model (Hub id or folder), any model that
            :class:`evoemb.EvoEmbedding` takes, or a loaded ``EvoEmbedding``, whose modules are then shared.
        temperature: Divides the cosine; None keeps the saved one, or 0.1.
        **kwargs: As for CrossEncoder, and the memory arguments of ``EvoEmbedding`` for a fresh memory.

    Source: EvoEmbedding (arXiv 2606.21649), reranking.
    """

    def __init__(
        self,
        model_name_or_path: str | EvoEmbedding | None = None,
        *,
        temperature: float | None = None,
        memory_reader: str | None = None,
        memory_kwargs: dict[str, Any] | None = None,
        modules: list[nn.Module] | OrderedDict[str, nn.Module] | None = None,
        activation_fn: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._memory_kwargs: dict[str, Any] = {"memory_reader": memory_reader, "memory_kwargs": memory_kwargs}
        name: str | None = None
        if isinstance(model_name_or_path, EvoEmbedding):
            modules = [*model_name_or_path, StreamScore()]
            kwargs.setdefault("device", str(model_name_or_path.device))
            kwargs["prompts"] = {**model_name_or_path.prompts, **(kwargs.get("prompts") or {})}
        else:
            name = model_name_or_path
        super().__init__(name, modules=modules, activation_fn=activation_fn or nn.Identity(), **kwargs)
        if not isinstance(self[-1], StreamScore):
            raise InputError("The last module must be StreamScore. Build the reranker from an EvoEmbedding.")
        if temperature is not None:
            self[-1].temperature = StreamScore(temperature).temperature

    @property
    def num_labels(self) -> int:
        """One score a pair."""
        return 1

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
        **kwargs: Any,
    ) -> Any:
        """Score pairs of a query and a candidate; consecutive pairs with the same query form one candidate stream.

        Args:
            inputs: One pair, or a list of pairs ``(query, candidate)``, in the candidates' order.
            prompt: Put before the query; None takes the model's ``"query"`` prompt. ``prompt_name`` likewise.
            batch_size: Candidates of one forward at most.
            apply_softmax: Without effect on a single score; kept for the signature.
            pool: Refused, like several devices: a stream is read in order.
            state: Memory that every candidate stream continues; only read.

        Returns:
            Scores ``(n,)``, cosine / temperature passed through ``activation_fn``; types as CrossEncoder's.

        Raises:
            InputError: A pair is malformed, or an argument does not work with a memory.
            StateError: The state belongs to another model, or holds several streams.
        """
        refuse_parallel(pool, device, "sentence_embedding")
        single = self.is_singular_input(inputs)
        pairs = [inputs] if single else [tuple(pair) for pair in inputs]
        if device is not None:
            self.to(device)
        self.eval()
        activation: Any = activation_fn or self.activation_fn
        found: list[Tensor] = []
        with tqdm(total=len(pairs), desc="Candidates", disable=not wants_progress_bar(show_progress_bar)) as bar:
            for batch in _whole_groups(pairs, batch_size):
                features = self.preprocess(batch, prompt=self._resolve_prompt(prompt, prompt_name), **kwargs)
                scores = self._score(features, self._starting_memory(state), Limits(batch_size))["scores"]
                found.append(activation(scores).squeeze(-1).float())
                bar.update(len(batch))
        scores = torch.cat(found) if found else torch.zeros(0, device=self.device)
        result: Any = scores
        if not convert_to_tensor:
            result = np.asarray(scores.cpu()) if convert_to_numpy else list(scores)
        return result[0] if single else result

    def rank(  # type: ignore[override]
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        state: MemoryState | None = None,
        **kwargs: Any,
    ) -> list[dict[str, int | float | str]]:
        """Rank candidates, read in the order given, for one query.

        Args:
            top_k: Candidates returned at most; None returns all.
            return_documents: Add the candidates' texts.
            state: Memory that the candidates continue; only read.
            **kwargs: As for :meth:`predict`.

        Returns:
            ``[{"corpus_id", "score"[, "text"]}, ...]``, best first.
        """
        pairs = [(query, document) for document in documents]
        scores = self.predict(pairs, state=state, **{**kwargs, "convert_to_tensor": True}).tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        if return_documents:
            return [{"corpus_id": index, "score": scores[index], "text": documents[index]} for index in order]
        return [{"corpus_id": index, "score": scores[index]} for index in order]

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize pairs ``(query, candidate)`` into candidate streams, one for each run of equal queries."""
        pairs = [_checked_pair(pair, index) for index, pair in enumerate(inputs)]
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        groups = [(query, [text for _, text in run]) for query, run in groupby(pairs, key=lambda pair: pair[0])]
        before_query = self.prompts.get("query") if prompt is None else prompt
        before_document = next((self.prompts[name] for name in _DOCUMENT_PROMPTS if self.prompts.get(name)), None)
        transformer = self._transformer
        if transformer.dialogue.config.memory_format == "chat":
            return _chat_features(transformer, groups)
        candidates = transformer.token_ids([text for _, text in pairs], prompt=before_document, **kwargs)
        queries = transformer.token_ids([query for query, _ in groups], prompt=before_query, **kwargs)
        numbers = [index for index, (_, texts) in enumerate(groups) for _ in texts]
        return {_CANDIDATES: _rows(candidates), _QUERIES: _rows(queries), _GROUPS: torch.tensor(numbers)}

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: A002 - the parent names it so
        """Score preprocessed pairs: adds ``scores`` ``(N, 1)`` in the pairs' order. Differentiable."""
        if _CANDIDATES not in input:
            return super().forward(input, **kwargs)
        return self._score(input, self._starting_memory(None), Limits())

    def _score(self, features: dict[str, Any], memory: StreamMemory, limits: Limits) -> dict[str, Any]:
        groups = features[_GROUPS].tolist()
        candidates, queries = _lists(features[_CANDIDATES]), _lists(features[_QUERIES])
        written = _lists(features[_WRITTEN]) if _WRITTEN in features else None
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
        embedding = EvoEmbedding(modules=list(self)[:-1], device=str(self.device))
        embedding.check_state(state)
        if state.batch_size != 1:
            raise StateError(
                f"A reranker continues one stream, but this state holds {state.batch_size}. Pass state[i]."
            )
        return state.snapshot()[0].to(self.device, self.dtype)

    def _load_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a saved reranker as it is, and anything else as an embedding model with a score behind it."""
        if self._is_saved_reranker(model_name_or_path, kwargs):
            return super()._load_modules(model_name_or_path, *args, **kwargs)
        embedding = EvoEmbedding(model_name_or_path, device="cpu", **self._memory_kwargs, **kwargs)
        self.prompts = {**embedding.prompts, **{name: text for name, text in self.prompts.items() if text}}
        stack = [*embedding, StreamScore()]
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


def _whole_groups(pairs: Sequence[Any], batch_size: int) -> Iterator[list[Any]]:
    """Cut pairs into batches of about ``batch_size`` without cutting a candidate stream."""
    batch: list[Any] = []
    for _, run in groupby(pairs, key=lambda pair: pair[0]):
        group = list(run)
        if batch and len(batch) + len(group) > batch_size:
            yield batch
            batch = []
        batch += group
    if batch:
        yield batch


def _checked_pair(pair: Any, index: int) -> tuple[str, str]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
        return pair[0], pair[1]
    raise InputError(f"Pair {index} is {pair!r:.80}, expected (query, candidate), two strings.")


def _chat_features(transformer: StatefulTransformer, groups: Sequence[tuple[str, list[str]]]) -> dict[str, Any]:
    """Tokenize candidate streams as released checkpoints were trained: chats with one user message a candidate."""
    found = [candidate_ids(transformer, query, texts) for query, texts in groups]
    numbers = [index for index, (_, texts) in enumerate(groups) for _ in texts]
    return {
        _CANDIDATES: _rows([row for ids in found for row in ids.encoded]),
        _WRITTEN: _rows([row for ids in found for row in ids.written]),
        _QUERIES: _rows([ids.asked for ids in found]),
        _GROUPS: torch.tensor(numbers),
    }


def _rows(ids: Sequence[Sequence[int]]) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=_NO_ID)


def _lists(rows: Tensor) -> list[list[int]]:
    return [row[row != _NO_ID].tolist() for row in rows]
