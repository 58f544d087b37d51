"""EvoEmbedding: a SentenceTransformer whose embeddings depend on what was read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils.generic import ModelOutput

from evoemb._errors import InputError
from evoemb.chat.answers import answer_rows, generate_ids
from evoemb.chat.ids import DialogueIds, Messages, chat_ids, last_message_ids, with_excerpts
from evoemb.chat.recurrence import embed_dialogue, write_turns
from evoemb.chat_model import ChatModel
from evoemb.data.turns import Stream, as_turns, read_turns
from evoemb.encoding import MemoryMode, taken_up, wants_progress_bar
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.prompts import prompt_for
from evoemb.ranking import Hit, checked_top_k, top_hits
from evoemb.ranking.config import Scoring, checked_scoring
from evoemb.retrieval import TurnScorer
from evoemb.state import MemoryState
from evoemb.state.memory import StreamMemory
from evoemb.streaming.candidates import CandidateEmbeddings
from evoemb.streaming.rows import Limits
from evoemb.time_ordered import TurnReranker


class EvoEmbedding(ChatModel):
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

    @overload
    def retrieve(
        self,
        stream: Stream,
        query: str,
        top_k: int | Literal["default"] | None = ...,
        state: MemoryState | None = ...,
        *,
        memory: MemoryMode = ...,
        scoring: Scoring | None = ...,
        rerank: bool = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
    ) -> list[Hit]: ...

    @overload
    def retrieve(
        self,
        stream: Stream,
        query: list[str] | tuple[str, ...],
        top_k: int | Literal["default"] | None = ...,
        state: MemoryState | None = ...,
        *,
        memory: MemoryMode = ...,
        scoring: Scoring | None = ...,
        rerank: bool = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
    ) -> list[list[Hit]]: ...

    @overload
    def retrieve(
        self,
        stream: Messages,
        query: None = ...,
        top_k: int | Literal["default"] | None = ...,
        state: MemoryState | None = ...,
        *,
        native: bool = ...,
        scoring: Literal["vector", "hybrid"] | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
    ) -> list[Hit]: ...

    @torch.no_grad()
    def retrieve(
        self,
        stream: Any,
        query: str | Sequence[str] | None = None,
        top_k: int | Literal["default"] | None = "default",
        state: MemoryState | None = None,
        *,
        memory: MemoryMode = "causal",
        native: bool = False,
        scoring: Scoring | None = None,
        rerank: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> Any:
        """Rank the turns of a stream for a query that is asked after it.

        ``retrieve(stream, query)`` takes strings or messages and one or several queries. ``retrieve(messages)`` takes a
        dialogue whose last message is the query, and reads it the way the model was trained for: released checkpoints
        write the chat itself to memory.

        Args:
            stream: Strings or ``{"role", "content"}`` messages.
            query: One question, or several; None takes the last message.
            top_k: Turns returned at most; None returns all. Left out: 10 with ``query``, all for a dialogue.
            state: Memory that the stream continues. It is not changed: a question leaves no trace. A stream that begins
                with the answer to the turn that waits in the state is joined with it: that turn is ranked as a whole.
            memory: As in :meth:`evoemb.EvoEmbedding.encode`; a dialogue without ``query`` is read causally.
            native: For a dialogue: rank by the plain embedding model inside a released checkpoint, without memory.
            scoring: ``"vector"`` compares one embedding a turn, made in the light of the memory. ``"late"`` adds to it
                what the question's tokens find in the turn's (:func:`evoemb.ranking.late_scores`, without the memory):
                better where a turn's own words answer. Of a stream of more than 1,000 turns it compares the tokens of
                the 100 that are best without them; the others follow below. ``"hybrid"`` adds BM25 without stop words
                to the model's own scoring (needs the ``eval`` extra). None takes the model's own, which
                ``model.retrieval_config`` says. A dialogue is ranked by ``"vector"`` (None), or ``"hybrid"``.
            rerank: Let the trained reranker of the model read the best turns in time order: which of them answers the
                question, and is it still so? It has a first stage of its own, so leave ``scoring`` out. Of a stream of
                more than 1,000 turns it looks at the 200 that are best by their vectors.

        Returns:
            ``[{"corpus_id": turn index, "score": number, "text": turn}, ...]``, best first, for one query; a list of
            such lists for several. By ``"vector"`` the score is the cosine. Otherwise it is a weighted sum of scores
            that are standardised over the stream's turns, so it compares these alone, and ``"cosine"`` stands beside.
            With ``rerank`` the score is the probability that this turn answers the query, 0 to 1; what is missing to a
            sum of 1 over all turns is the probability that none does.

        Raises:
            InputError: The stream or the list of queries is empty or malformed, ``top_k`` is no whole number of
                1 or more, or an argument does not work with the others.
            StateError: As in :meth:`evoemb.EvoEmbedding.encode`; also for a state of several streams.
            CheckpointError: ``native`` is asked of a model that holds no such model.
        """
        wanted = checked_scoring(scoring)
        if rerank and (query is None or wanted is not None):
            raise InputError(
                f"rerank=True was given with {'no query' if query is None else f'scoring={scoring!r}'}. Pass "
                "retrieve(stream, query, rerank=True): the reranker chooses its candidates by itself."
            )
        reading: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if query is None:
            if memory != "causal":
                raise InputError(f"memory={memory!r} needs a query. Pass retrieve(stream, query, memory={memory!r}).")
            if wanted == "late":
                raise InputError('scoring="late" needs a query. Pass retrieve(stream, query, scoring="late").')
            if native and state is not None:
                raise InputError("The native model sees no memory. Leave out native or state.")
            best = checked_top_k(None if top_k == "default" else top_k)
            return self._rank_dialogue(stream, best, state, native=native, scoring=wanted or "vector", **reading)
        if native:
            raise InputError("native=True takes a dialogue. Pass retrieve(messages, native=True), the query last.")
        best = checked_top_k(10 if top_k == "default" else top_k)
        wanted = wanted or self.retrieval_config.scoring
        asked = [query] if isinstance(query, str) else query
        ranked = self._rank_stream(stream, asked, best, state, memory, scoring=wanted, rerank=rerank, **reading)
        return ranked[0] if isinstance(query, str) else ranked

    def _rank_stream(
        self,
        stream: Any,
        queries: Sequence[str],
        top_k: int | None,
        state: MemoryState | None,
        memory: MemoryMode,
        *,
        scoring: Scoring,
        rerank: bool,
        **reading: Any,
    ) -> list[list[Hit]]:
        """Rank turns as ``encode_document`` reads them for queries as ``encode_query`` reads them."""
        asked, after = as_turns(queries), self._one_stream(state)
        turns = [turn.text for turn in taken_up(read_turns(stream), after.snapshot()[0])[0]]
        options = {**reading, "convert_to_tensor": True}
        corpus = self.encode_document(stream, stateful=True, state=after, memory=memory, **options)
        vectors = self.encode_query(asked, state=after, **options)
        if rerank:
            return self._reranked(turns, asked, self._cosines(vectors, corpus), top_k, reading["batch_size"])
        return self._ranked(vectors, corpus, turns, asked, top_k, scoring=scoring, **reading)

    def _reranked(
        self, turns: Sequence[str], asked: Sequence[str], cosines: Any, top_k: int | None, batch_size: int
    ) -> list[list[Hit]]:
        """Rank turns by the trained score that reads them in time order; ``cosines`` are ``(Q, n)``."""
        reranker = self.turn_reranker(batch_size)
        return [
            [{**hit, "cosine": float(row[hit["corpus_id"]])} for hit in top_hits(found, turns, top_k)]
            for found, row in zip(reranker.probabilities(turns, asked, cosines), cosines, strict=True)
        ]

    def turn_reranker(self, batch_size: int = 32) -> TurnReranker:
        """Return what ``retrieve(..., rerank=True)`` ranks turns with.

        Args:
            batch_size: Texts of one forward at most.

        Raises:
            InputError: No reranker was trained with this model.
        """
        return TurnReranker(self._time_ordered_score(), list(self), self._ids, Limits(batch_size))

    def _ids(self, texts: Sequence[str], is_query: bool) -> list[list[int]]:
        prompt = prompt_for(self, "query" if is_query else "document")
        return self._transformer.token_ids(list(texts), prompt=prompt)

    def _time_ordered_score(self) -> TimeOrderedScore:
        """Return the score that was trained with this model, loaded once.

        Raises:
            InputError: There is none.
        """
        if not self._score:
            if self._packaged is None or (score := self._packaged.score()) is None:
                raise InputError(
                    f"rerank=True was given, but {self.state_spec.model_id} has no reranker that was trained with it. "
                    "Leave rerank out, or rank the turns found with a CrossEncoder or EvoReranker of your own."
                )
            self._score = (score.eval(),)
        return self._score[0].to(self.device)

    def _rank_dialogue(
        self,
        messages: Messages,
        top_k: int | None,
        state: MemoryState | None,
        *,
        native: bool,
        scoring: Scoring,
        batch_size: int,
        show_progress_bar: bool | None,
    ) -> list[Hit]:
        """Rank the turns of a dialogue for its last message, in the way the model was trained for."""
        messages, memory = self._taken_up(messages, state)
        ids = self._dialogue_ids(messages)
        if native:
            found = self._native([*ids.encoded, ids.asked], batch_size)
            corpus, query = found[:-1], found[-1]
        else:
            query, corpus = self._embed(ids, memory, batch_size, wants_progress_bar(show_progress_bar))
        # What a model does by itself is about streams; a dialogue is ranked by vectors, and by words if that is asked.
        by_vector = replace(self.retrieval_config, scoring="vector")
        scorer = TurnScorer(self, scoring, by_vector)
        return scorer.hits(ids.turns, [ids.query], self._cosines(query[None], corpus), top_k)[0]

    def _ranked(
        self,
        queries: Tensor,
        corpus: Tensor,
        turns: Sequence[str],
        asked: Sequence[str],
        top_k: int | None,
        *,
        scoring: Scoring,
        batch_size: int,
        show_progress_bar: bool | None,
    ) -> list[list[Hit]]:
        """Rank turns ``(n, D)`` for queries ``(Q, D)``."""
        shown = wants_progress_bar(show_progress_bar)
        scorer = TurnScorer(self, scoring, self.retrieval_config, batch_size, shown)
        return scorer.hits(turns, asked, self._cosines(queries, corpus), top_k)

    def _cosines(self, queries: Tensor, corpus: Tensor) -> Any:
        """Return the model's own similarity of queries ``(Q, D)`` and turns ``(n, D)`` as an array ``(Q, n)``."""
        return self.similarity(queries.float(), corpus.float()).cpu().numpy()

    @overload
    def generate(
        self,
        messages: Messages,
        *,
        state: MemoryState | None = ...,
        max_new_tokens: int = ...,
        return_token_ids: Literal[False] = ...,
        retrieve: int | None = ...,
        return_dict_in_generate: Literal[False] = ...,
        **generation_kwargs: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        messages: Messages,
        *,
        state: MemoryState | None = ...,
        max_new_tokens: int = ...,
        return_token_ids: Literal[True],
        retrieve: int | None = ...,
        return_dict_in_generate: Literal[False] = ...,
        **generation_kwargs: Any,
    ) -> list[int]: ...

    @overload
    def generate(
        self,
        messages: Messages,
        *,
        state: MemoryState | None = ...,
        max_new_tokens: int = ...,
        return_token_ids: bool = ...,
        retrieve: int | None = ...,
        return_dict_in_generate: bool = ...,
        **generation_kwargs: Any,
    ) -> str | list[int] | ModelOutput: ...

    @torch.no_grad()
    def generate(
        self,
        messages: Messages,
        *,
        state: MemoryState | None = None,
        max_new_tokens: int = 256,
        return_token_ids: bool = False,
        retrieve: int | None = None,
        **generation_kwargs: Any,
    ) -> Any:
        """Answer the last message with the base model, adapters off, which sees the history as latent memory.

        Args:
            messages: ``{"role", "content"}`` messages; the last one is answered.
            state: Memory that the dialogue continues; only read. An answer that comes first is joined with the turn
                that waits for it in the state.
            max_new_tokens: Tokens of the answer at most.
            return_token_ids: Give the new token ids instead of text.
            retrieve: Answer from this many retrieved turns, put into the prompt as text, instead of the memory.
            **generation_kwargs: Passed on to transformers' ``generate``; decoding is greedy unless they say otherwise.

        Returns:
            The answer; or its token ids; or with ``return_dict_in_generate=True`` what transformers returns.

        Raises:
            InputError: A message is malformed, or the model reads its memory with ``"attention"``.
            UnsupportedBackboneError: The backbone is an encoder.
            CheckpointError: The language head was not stored with the model.

        Source: EvoEmbedding (arXiv 2606.21649), generation from latent memory; upstream model, ``generate``.
        """
        self.eval()
        stack = self._stack()
        if retrieve is not None:
            hits = self.retrieve(messages, top_k=retrieve, state=state)
            texts = [hit["text"] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])]
            prompt = chat_ids(self._transformer, with_excerpts(messages, texts))
            rows = self._transformer.model.get_input_embeddings()(torch.tensor(prompt, device=stack.device))
        else:
            messages, memory = self._taken_up(messages, state)
            memory = write_turns(stack, self._dialogue_ids(messages).written, memory, Limits())
            rows = answer_rows(stack, last_message_ids(self._transformer, messages), memory)
        found = generate_ids(stack, rows, max_new_tokens, **generation_kwargs)
        if return_token_ids or generation_kwargs.get("return_dict_in_generate"):
            return found
        return str(self._transformer.tokenizer.decode(found, skip_special_tokens=True))  # type: ignore[union-attr]

    def _embed(
        self, ids: DialogueIds, memory: StreamMemory, batch_size: int, show_progress_bar: bool
    ) -> CandidateEmbeddings:
        self.eval()
        limits = Limits(batch_size)
        with tqdm(total=len(ids.encoded), desc="Turns", unit="turn", disable=not show_progress_bar) as bar:
            return embed_dialogue(self._stack(), ids, memory, limits, on_turn=bar.update)
