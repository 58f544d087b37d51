"""EvoEmbedding: a SentenceTransformer whose embeddings depend on what was read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from evoemb._errors import InputError, StateError
from evoemb.chat.answers import answer_rows, generate_ids
from evoemb.chat.ids import (
    DialogueIds,
    Messages,
    chat_ids,
    dialogue_ids,
    last_message_ids,
    split_messages,
    with_excerpts,
)
from evoemb.chat.recurrence import embed_dialogue, write_turns
from evoemb.encoding import (
    EncodeOptions,
    Encoder,
    MemoryMode,
    Precision,
    assign,
    check_finite,
    converted,
    refuse_without_memory,
    wants_progress_bar,
)
from evoemb.memory_model import MemoryModel
from evoemb.prompts import prompt_for
from evoemb.ranking import Hit, checked_top_k, fused_hits, top_hits
from evoemb.state import MemoryState
from evoemb.stream_memory import StreamMemory
from evoemb.streaming.candidates import CandidateEmbeddings
from evoemb.streaming.rows import Limits, TokenIds
from evoemb.turns import as_streams, as_turns

_KINDS: tuple[Literal["document", "query"], ...] = ("document", "query")


class EvoEmbedding(MemoryModel):
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
            device: Move the model there first. Several devices are refused with a memory.
            pool: Refused with a memory: a stream is read in order.
            stateful: Read ``inputs`` as streams in order, every turn conditioned on the memory of its stream.
            state: Memory to start from. With ``stateful`` it is advanced when the call has succeeded, and left as it
                was when it fails; without, it is only read, and every text sees all of it. A state of B streams takes
                B streams, or one list of B texts of which text i belongs to stream i.
            memory: With ``stateful``: ``"causal"``, turn t sees the memory of the turns before it; ``"final"``, every
                turn sees the memory after the whole stream.
            max_batch_tokens: Rows times the longest row of one forward at most, memory included; None for no limit.
            truncate: Cut turns longer than the model's window, with one warning; False refuses them.
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
        own = {"memory": memory, "max_batch_tokens": max_batch_tokens, "truncate": truncate}
        options = EncodeOptions.of({**asked, **own}, kwargs, prompt=self._resolve_prompt(prompt, prompt_name))
        if truncate_dim is None:
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
        config = self._transformer.dialogue.config
        turns, query = split_messages(messages, config)
        common: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if native:
            found = self._native(self._transformer.token_ids([*turns, query]), batch_size)
        else:
            plain = config.memory_format == "plain"
            before_turn, before_query = ((prompt_for(self, kind) or "") if plain else "" for kind in _KINDS)
            encode: Any = partial(self.encode, state=self.new_state(), convert_to_tensor=True, **common)
            parts = [encode(turns, prompt=before_turn, stateful=True, memory="final")] if turns else []
            found = torch.cat([*parts, encode([query], prompt=before_query)])
        return converted(found, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)

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
        ids = self._transformer.token_ids([texts] if isinstance(texts, str) else list(texts))
        found = converted(self._native(ids, batch_size), to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return found[0] if isinstance(texts, str) else found

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
        reading: dict[str, Any] = {"hybrid": hybrid, "batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if query is None:
            if memory != "causal":
                raise InputError(f"memory={memory!r} needs a query. Pass retrieve(stream, query, memory={memory!r}).")
            best = checked_top_k(None if top_k == "default" else top_k)
            return self._rank_dialogue(stream, best, state, native=native, **reading)
        if native:
            raise InputError("native=True takes a dialogue. Pass retrieve(messages, native=True), the query last.")
        best = checked_top_k(10 if top_k == "default" else top_k)
        ranked = self._rank_stream(stream, [query] if isinstance(query, str) else query, best, state, memory, **reading)
        return ranked[0] if isinstance(query, str) else ranked

    def _rank_stream(
        self,
        stream: Any,
        queries: Sequence[str],
        top_k: int | None,
        state: MemoryState | None,
        memory: MemoryMode,
        *,
        hybrid: bool,
        **reading: Any,
    ) -> list[list[Hit]]:
        """Rank turns as ``encode_document`` reads them for queries as ``encode_query`` reads them."""
        turns, asked, after = as_turns(stream), as_turns(queries), self._one_stream(state)
        reading["convert_to_tensor"] = True
        corpus = self.encode_document(turns, stateful=True, state=after, memory=memory, **reading)
        return self._ranked(
            self.encode_query(asked, state=after, **reading), corpus, turns, asked, top_k, hybrid=hybrid
        )

    def _rank_dialogue(
        self,
        messages: Messages,
        top_k: int | None,
        state: MemoryState | None,
        *,
        native: bool,
        hybrid: bool,
        batch_size: int,
        show_progress_bar: bool | None,
    ) -> list[Hit]:
        """Rank the turns of a dialogue for its last message, in the way the model was trained for."""
        ids = self._dialogue_ids(messages)
        if native:
            found = self._native([*ids.encoded, ids.asked], batch_size)
            corpus, query = found[:-1], found[-1]
        else:
            query, corpus = self._embed(ids, state, batch_size, wants_progress_bar(show_progress_bar))
        return self._ranked(query[None], corpus, ids.turns, [ids.query], top_k, hybrid=hybrid)[0]

    def _ranked(
        self,
        queries: Tensor,
        corpus: Tensor,
        turns: Sequence[str],
        asked: Sequence[str],
        top_k: int | None,
        *,
        hybrid: bool,
    ) -> list[list[Hit]]:
        """Rank turns ``(n, D)`` for queries ``(Q, D)`` by the model's own similarity, fused with BM25 if ``hybrid``."""
        scores = self.similarity(queries.float(), corpus.float()).cpu().numpy()  # (Q, n)
        if not hybrid:
            return [top_hits(row, turns, top_k) for row in scores]
        return [fused_hits(row, turns, words, top_k) for row, words in zip(scores, asked, strict=True)]

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
            prompt = chat_ids(self._transformer, with_excerpts(messages, texts))
            rows = self._transformer.model.get_input_embeddings()(torch.tensor(prompt, device=stack.device))
        else:
            history = self._dialogue_ids(messages).written
            memory = write_turns(stack, history, self._memory(state), Limits())
            rows = answer_rows(stack, last_message_ids(self._transformer, messages), memory)
        found = generate_ids(stack, rows, max_new_tokens, **generation_kwargs)
        if return_token_ids or generation_kwargs.get("return_dict_in_generate"):
            return found
        return str(self._transformer.tokenizer.decode(found, skip_special_tokens=True))  # type: ignore[union-attr]

    def _embed(
        self, ids: DialogueIds, state: MemoryState | None, batch_size: int, show_progress_bar: bool
    ) -> CandidateEmbeddings:
        self.eval()
        memory, limits = self._memory(state), Limits(batch_size)
        with tqdm(total=len(ids.encoded), desc="Turns", unit="turn", disable=not show_progress_bar) as bar:
            return embed_dialogue(self._stack(), ids, memory, limits, on_turn=bar.update)

    def _native(self, ids: Sequence[TokenIds], batch_size: int) -> Tensor:
        """Embed texts ``(n, D)`` with the native model: their ids and the end id, which is not doubled."""
        return self._transformer.dialogue.native_embedder().encode(ids, batch_size=batch_size)

    def _dialogue_ids(self, messages: Messages) -> DialogueIds:
        before = {"before_turn": prompt_for(self, "document"), "before_query": prompt_for(self, "query")}
        return dialogue_ids(self._transformer, messages, **before)

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
