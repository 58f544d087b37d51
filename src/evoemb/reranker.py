"""EvoReranker: a CrossEncoder that reads the candidates in order and scores each against the query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from evoemb._errors import InputError
from evoemb.cuts import CutTexts
from evoemb.encoding import converted, refuse_parallel, refuse_unknown, wants_progress_bar
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.pairs import (
    CANDIDATES,
    GROUPS,
    QUERIES,
    PredictArguments,
    checked_documents,
    checked_pair,
    unpadded,
    whole_groups,
)
from evoemb.ranking import Hit, RankedId, checked_top_k, top_hits
from evoemb.reranker_model import RerankerModel
from evoemb.state.handle import MemoryState
from evoemb.streaming.rows import Limits

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EvoReranker(RerankerModel):
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
