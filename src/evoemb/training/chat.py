"""Streams for models with the chat format: memory from the rendered chat, embeddings from the turns' texts."""

from __future__ import annotations

from typing import Any, NamedTuple

from evoemb._errors import InputError
from evoemb.chat.ids import chat_ids
from evoemb.modules.dialogue_format import split_chat
from evoemb.modules.tokenizing import token_ids
from evoemb.training.answers import AnswerTokens, answer_of_segment
from evoemb.training.columns import StreamExample


class TokenizedStream(NamedTuple):
    """A stream in token ids.

    ``written`` goes to memory, ``encoded`` is embedded (None: the same), and each query has the number of written turns
    it is asked at and, if wanted, its answer.
    """

    written: list[list[int]]
    encoded: list[list[int]] | None
    queries: list[list[int]]
    asked_at: list[int]
    answers: list[AnswerTokens | None]


def chat_stream(transformer: Any, example: StreamExample) -> TokenizedStream:
    """Tokenize a stream as the released checkpoints were trained.

    Turns given as texts are user messages with an empty answer, as candidates are in reranking.

    Raises:
        InputError: A query is asked before the end of the stream, which rendered chats do not allow.

    Source: EvoEmbedding (arXiv 2606.21649), training; upstream model, ``forward``.
    """
    config, tokenizer = transformer.dialogue.config, transformer.tokenizer
    ids = config.token_ids
    turns, history = list(example.turns), list(example.history or ())
    if example.history is None:
        history = [
            {"role": role, "content": text} for turn in turns for role, text in (("user", turn), ("assistant", ""))
        ]
        turns = [f"User: {turn}" for turn in turns]
    late = [question.asked_at for question in example.questions if question.asked_at != len(turns)]
    if late:
        raise InputError(
            f"A query is asked at {late[0]} of {len(turns)} turns, but this model reads whole chats, whose query comes "
            "last. Give each query a row of its own with the turns before it."
        )
    written: list[list[int]] = []
    answers: list[AnswerTokens | None] = []
    for question in example.questions:
        said = question.answer or ""
        asked = question.text if example.asked is None else example.asked
        messages = [*history, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        rendered = chat_ids(transformer, messages, generation_prompt=False)
        *written, last = split_chat(rendered, im_end=ids.im_end, user=ids.user, whole=True)
        labelled = answer_of_segment(tokenizer, last, asked, said, config.memory_offset)
        answers.append(None if question.answer is None else labelled)
    texts = token_ids(tokenizer, [*turns, *(question.text for question in example.questions)])
    encoded = [[*row, ids.end_of_text] for row in texts]
    queries = [[*ids.query_prefix, *row] for row in encoded[len(turns) :]]
    return TokenizedStream(written, encoded[: len(turns)], queries, [len(written)] * len(queries), answers)
