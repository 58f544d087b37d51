"""What an EvoEmbedding does with dialogues: embed their messages, find the turns that matter, answer from memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from torch import Tensor
from tqdm.auto import tqdm

from evoemb._errors import InputError, StateError
from evoemb.dialogue.answers import answer_rows, generate_ids
from evoemb.dialogue.ids import (
    DialogueIds,
    Messages,
    chat_ids,
    dialogue_ids,
    last_message_ids,
    split_messages,
    with_excerpts,
)
from evoemb.dialogue.recurrence import embed_dialogue, write_turns
from evoemb.lexical import fuse_hits
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.state import MemoryState
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.rows import Limits, Stack
from evoemb.turns import as_turns

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class DialogueMethods(SentenceTransformer):
    """The dialogue methods of :class:`evoemb.EvoEmbedding`, which gives them its stack and its states."""

    def new_state(self, batch_size: int = 1) -> MemoryState:
        """Give an empty memory; see :meth:`evoemb.EvoEmbedding.new_state`."""
        raise NotImplementedError

    def check_state(self, state: MemoryState | None) -> None:
        """Refuse a state that another model made."""
        raise NotImplementedError

    def _stack(self, **extra: Any) -> Stack:
        raise NotImplementedError

    def encode_messages(
        self,
        messages: Messages,
        *,
        native: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Encode the turns of a dialogue and its last message, all against the memory of the whole history.

        A released checkpoint pairs messages by position and encodes the last one without its query prompt, as it was
        trained; any other model pairs by role and uses its prompts.

        Args:
            messages: ``{"role", "content"}`` messages; the last one is the query and stays out of the memory.
            native: Use the plain embedding model inside a released checkpoint, which knows no memory.

        Returns:
            ``(turns + 1, D)`` of unit length, the query last; an array, or a tensor as ``convert_to_tensor`` and
            ``convert_to_numpy`` say.

        Raises:
            InputError: There is no message, or one is malformed.
            CheckpointError: ``native`` is asked of a model that holds no such model.

        Source: upstream model client, ``encode_messages``.
        """
        config = self._stateful.dialogue.config
        turns, query = split_messages(messages, config)
        common: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if native:
            found = self._native([*turns, query], batch_size=batch_size)
        else:
            prompts = ("", "") if config.memory_format == "chat" else (self._prompt("document"), self._prompt("query"))
            encode: Any = partial(self.encode, state=self.new_state(), convert_to_tensor=True, **common)
            parts = []
            if turns:
                parts.append(encode(turns, prompt=prompts[0], stateful=True, memory="final"))
            found = torch.cat([*parts, encode([query], prompt=prompts[1])])
        return _given_back(found, convert_to_numpy=convert_to_numpy, convert_to_tensor=convert_to_tensor)

    def encode_native(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 32,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Encode texts with the plain embedding model inside a released checkpoint, which knows no memory.

        Its weights are read on the first call.

        Returns:
            ``(n, D)`` of unit length, ``(D,)`` for one string; an array, or a tensor as the last arguments say.

        Raises:
            CheckpointError: The model holds no such model.
        """
        found = self._native([texts] if isinstance(texts, str) else texts, batch_size=batch_size)
        kind = {"convert_to_numpy": convert_to_numpy, "convert_to_tensor": convert_to_tensor}
        return _given_back(found, **kind)[0] if isinstance(texts, str) else _given_back(found, **kind)

    @torch.no_grad()
    def retrieve(
        self,
        stream: Any,
        query: str | Sequence[str] | None = None,
        top_k: int | Literal["default"] | None = "default",
        state: MemoryState | None = None,
        *,
        memory: Literal["causal", "final"] = "causal",
        native: bool = False,
        hybrid: bool = False,
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
            state: Memory that the stream continues. It is not changed: a question leaves no trace.
            memory: As in :meth:`evoemb.EvoEmbedding.encode`; a dialogue without ``query`` is read causally.
            native: For a dialogue: rank by the plain embedding model inside a released checkpoint, without memory.
            hybrid: Fuse the ranking with that of BM25 by reciprocal ranks (needs the ``eval`` extra). ``"score"`` is
                then the fused score, and ``"cosine"`` stands beside it.

        Returns:
            ``[{"corpus_id": turn index, "score": cosine, "text": turn}, ...]``, best first, for one query; a list of
            such lists for several.

        Raises:
            InputError: The stream or the list of queries is empty or malformed, or ``top_k`` is less than 1.
            StateError: As in :meth:`evoemb.EvoEmbedding.encode`; also for a state of several streams.
            CheckpointError: ``native`` is asked of a model that holds no such model.
        """
        if isinstance(top_k, int) and top_k < 1:
            raise InputError(f"top_k={top_k} was given. Use 1 or more, or None for all turns.")
        if query is None:
            if memory != "causal":
                raise InputError(f"memory={memory!r} needs a query. Pass retrieve(stream, query, memory={memory!r}).")
            ids = self._dialogue_ids(stream)
            turns, asked = ids.turns, self._native_pair(ids, batch_size) if native else None
            corpus, question = asked or self._embed(ids, state, batch_size, bool(show_progress_bar))
            best = None if top_k == "default" else top_k
            if hybrid and turns:
                every = _ranked(question.unsqueeze(0), corpus, turns, None)[0]
                return fuse_hits(every, turns, str(stream[-1]["content"]), best)
            return _ranked(question.unsqueeze(0), corpus, turns, best)[0] if turns else []
        if native:
            raise InputError("native=True takes a dialogue. Pass retrieve(messages, native=True), the query last.")
        turns = as_turns(stream)
        queries = [query] if isinstance(query, str) else as_turns(query)
        after = self._one_stream(state)
        common: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        corpus = self.encode_document(
            turns, stateful=True, state=after, memory=memory, convert_to_tensor=True, **common
        )
        questions = self.encode_query(queries, state=after, convert_to_tensor=True, **common)
        best = 10 if top_k == "default" else top_k
        ranked = _ranked(questions, corpus, turns, None if hybrid else best)
        if hybrid:
            ranked = [fuse_hits(hits, turns, words, best) for hits, words in zip(ranked, queries, strict=True)]
        return ranked[0] if isinstance(query, str) else ranked

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
            state: Memory that the dialogue continues; only read.
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
            prompt = chat_ids(self._stateful, with_excerpts(messages, texts))
            rows = self._stateful.model.get_input_embeddings()(torch.tensor(prompt, device=stack.device))
        else:
            history = self._dialogue_ids(messages).written
            memory = write_turns(stack, history, self._memory(state), Limits())
            rows = answer_rows(stack, last_message_ids(self._stateful, messages), memory)
        found = generate_ids(stack, rows, max_new_tokens, **generation_kwargs)
        if return_token_ids or generation_kwargs.get("return_dict_in_generate"):
            return found
        return str(self._stateful.tokenizer.decode(found, skip_special_tokens=True))  # type: ignore[union-attr]

    def _embed(
        self, ids: DialogueIds, state: MemoryState | None, batch_size: int, show_progress_bar: bool
    ) -> tuple[Tensor, Tensor]:
        self.eval()
        memory, limits = self._memory(state), Limits(batch_size)
        with tqdm(total=len(ids.encoded), desc="Turns", unit="turn", disable=not show_progress_bar) as bar:
            turns, query, _ = embed_dialogue(self._stack(), ids, memory, limits, on_turn=bar.update)
        return turns, query

    def _native(self, texts: Sequence[str], *, batch_size: int) -> Tensor:
        """Embed texts with the native model: their ids and the end id, which a text that ends with it keeps single."""
        embedder = self._stateful.dialogue.native_embedder()
        return embedder.encode(self._stateful.token_ids(list(texts)), batch_size=batch_size)

    def _native_pair(self, ids: DialogueIds, batch_size: int) -> tuple[Tensor, Tensor]:
        embedder = self._stateful.dialogue.native_embedder()
        found = F.normalize(embedder.encode([*ids.encoded, ids.asked], batch_size=batch_size), dim=-1)
        return found[:-1], found[-1]

    def _dialogue_ids(self, messages: Messages) -> DialogueIds:
        return dialogue_ids(
            self._stateful,
            messages,
            before_turn=self._prompt("document"),
            before_query=self._prompt("query"),
        )

    def _prompt(self, kind: Literal["query", "document"]) -> str:
        names = ("query",) if kind == "query" else _DOCUMENT_PROMPTS
        return next((text for name in names if (text := self.prompts.get(name))), "")

    def _one_stream(self, state: MemoryState | None) -> MemoryState:
        """Give a state of one stream that may be advanced without the caller's changing."""
        if state is None:
            return self.new_state()
        self.check_state(state)
        if state.batch_size != 1:
            raise StateError(f"This call takes one stream, but the state holds {state.batch_size}. Pass state[i].")
        return state[0]

    def _memory(self, state: MemoryState | None) -> StreamMemory:
        return self._one_stream(state).snapshot()[0].to(self.device, self.dtype)

    @property
    def _stateful(self) -> StatefulTransformer:
        return self[0]  # type: ignore[return-value]


def _given_back(found: Tensor, *, convert_to_numpy: bool, convert_to_tensor: bool) -> Any:
    """Give embeddings ``(n, D)`` in the form asked for, as ``encode`` does."""
    if convert_to_tensor:
        return found
    return np.asarray(found.float().cpu()) if convert_to_numpy else list(found)


def _ranked(queries: Tensor, corpus: Tensor, turns: Sequence[str], top_k: int | None) -> list[list[dict[str, Any]]]:
    hits = semantic_search(queries.float(), corpus.float(), top_k=top_k or len(turns))
    return [[{**hit, "text": turns[int(hit["corpus_id"])]} for hit in one] for one in hits]
