"""Rows of training data to the features of one batch of whole streams."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evoemb._errors import InputError
from evoemb.cuts import CutTexts
from evoemb.model import EvoEmbedding
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.prompts import prompt_for
from evoemb.streaming import whole
from evoemb.training.answers import AnswerTokens, answer_tokens
from evoemb.training.chat import TokenizedStream, chat_stream
from evoemb.training.columns import StreamExample, parse_row

logger = logging.getLogger(__name__)

PREFIX = "stream_"
"""Put before every feature, so that the stock trainer hands them to the loss as one dictionary."""


@dataclass
class StreamCollator:
    """Tokenize rows of streams for :class:`sentence_transformers.SentenceTransformerTrainer`.

    Args:
        model: Gives tokenizer and prompts: those that ``encode_document`` puts before turns and ``encode_query`` before
            queries. A text longer than its window is cut; the first one is warned of.
        answers: Whether answers are tokenized for the memory loss; None takes them where rows have them and the model
            is a decoder that reads its memory as a prefix.
        timestamps: How a turn with a timestamp is written, such as ``"[{timestamp}] {turn}"``; None leaves timestamps
            out.
        bptt_turns: Gradients reach back through the queue about this many turns, to the end of a segment; None: all.
        row_limit: Rows that one forward of the backbone holds at most. Changes speed and peak memory only.
        token_limit: Rows times the longest row of such a forward at most; None for no limit.

    Raises:
        InputError: A template without ``{turn}``, or a limit below 1.
    """

    model: EvoEmbedding
    answers: bool | None = None
    timestamps: str | None = None
    bptt_turns: int | None = None
    row_limit: int = 64
    token_limit: int | None = None
    # The trainer reads it; streams have no label column.
    valid_label_columns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the options once."""
        for name in ("bptt_turns", "row_limit", "token_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} was given. Use 1 or more, or None for no limit.")
        if self.timestamps is not None:
            _check_template(self.timestamps)
        self._transformer: StatefulTransformer = self.model[0]  # type: ignore[assignment]
        can_answer = self._transformer.reader.can_answer
        if self.answers and not can_answer:
            raise InputError(
                "answers=True was given, but only a decoder with memory_reader='prefix' continues a text from its "
                "memory. Leave answers out, or train on a decoder."
            )
        if self.answers is None:
            self.answers = can_answer
        self._query_prompt = prompt_for(self.model, "query")
        self._turn_prompt = prompt_for(self.model, "document")
        self._cut = CutTexts(self._transformer, every=False)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the features of a batch, names preceded by ``stream_``.

        Raises:
            RowError: A row is broken; the text names it by its place in the batch.
        """
        examples = [parse_row(row, f"{index} of this batch") for index, row in enumerate(rows)]
        features = self.features(examples)
        batch: dict[str, Any] = {f"{PREFIX}{name}": value for name, value in features.items()}
        if rows and "dataset_name" in rows[0]:
            batch["dataset_name"] = rows[0]["dataset_name"]
        return batch

    def features(self, examples: Sequence[StreamExample]) -> dict[str, Any]:
        """Return the features of checked examples under the names of :mod:`evoemb.streaming.whole`."""
        chat = self._transformer.dialogue.config.memory_format == "chat"
        streams = [chat_stream(self._transformer, example) if chat else self._plain(example) for example in examples]
        input_ids, attention_mask = pad([ids for stream in streams for ids in stream.written])
        query_ids, query_mask = pad([ids for stream in streams for ids in stream.queries])
        evidence = [question.evidence for example in examples for question in example.questions]
        features: dict[str, Any] = {
            # First, as some callers take the size of the batch from the first tensor.
            whole.NUM_TURNS: torch.tensor([len(stream.encoded or stream.written) for stream in streams]),
            whole.NUM_QUERIES: torch.tensor([len(stream.queries) for stream in streams]),
            whole.INPUT_IDS: input_ids,
            whole.ATTENTION_MASK: attention_mask,
            whole.QUERY_IDS: query_ids,
            whole.QUERY_MASK: query_mask,
            whole.ASKED_AT: torch.tensor([at for stream in streams for at in stream.asked_at]),
            whole.EVIDENCE: pad(evidence, filler=-1)[0],
            whole.ROW_LIMIT: self.row_limit,
        }
        if chat:
            features[whole.NUM_WRITTEN] = torch.tensor([len(stream.written) for stream in streams])
            encoded = [ids for stream in streams for ids in stream.encoded or ()]
            features[whole.TEXT_IDS], features[whole.TEXT_MASK] = pad(encoded)
        if self.token_limit is not None:
            features[whole.TOKEN_LIMIT] = self.token_limit
        if self.bptt_turns is not None:
            features[whole.BPTT_TURNS] = self.bptt_turns
        if self.answers:
            answers = [answer for stream in streams for answer in stream.answers]
            features.update(_answer_features([(at, answer) for at, answer in enumerate(answers) if answer is not None]))
        return features

    def _plain(self, example: StreamExample) -> TokenizedStream:
        """Tokenize a stream whose turns are written as they are encoded."""
        offset = self._transformer.dialogue.config.memory_offset
        tokenizer = self._transformer.tokenizer
        answers = [
            answer_tokens(tokenizer, question.text, question.answer, offset)
            if self.answers and question.answer is not None
            else None
            for question in example.questions
        ]
        return TokenizedStream(
            written=self._token_ids(self._turn_texts(example), self._turn_prompt),
            encoded=None,
            queries=self._token_ids([question.text for question in example.questions], self._query_prompt),
            asked_at=[question.asked_at for question in example.questions],
            answers=answers,
        )

    def count_tokens(self, example: StreamExample) -> int:
        """Count the tokens of a stream's turns and queries as they are trained on."""
        ids = self._token_ids(self._turn_texts(example), self._turn_prompt)
        ids += self._token_ids([question.text for question in example.questions], self._query_prompt)
        return sum(len(row) for row in ids)

    def _turn_texts(self, example: StreamExample) -> list[str]:
        if self.timestamps is None or example.timestamps is None:
            return list(example.turns)
        pairs = zip(example.turns, example.timestamps, strict=True)
        return [self.timestamps.format(turn=turn, timestamp=stamp) for turn, stamp in pairs]

    def _token_ids(self, texts: list[str], prompt: str | None) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._transformer.token_ids(texts, prompt=prompt)
        self._cut.check(texts, ids, lambda place: f"A text of the training data ({texts[place]!r:.40})", prompt)
        return ids


def pad(rows: Sequence[Sequence[int]], *, filler: int = 0) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids to ``(N, T)`` with their mask, padded on the right; ``(0, 1)`` for no rows."""
    longest = max((len(row) for row in rows), default=1) or 1
    ids = torch.full((len(rows), longest), filler, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask


def _check_template(template: str) -> None:
    """Refuse a template of timestamps that no turn can be written with."""
    try:
        has_turn = "<turn>" in template.format(turn="<turn>", timestamp="<timestamp>")
    except (LookupError, ValueError, AttributeError) as error:
        raise InputError(
            f'timestamps={template!r} cannot be filled in ({type(error).__name__}: {error}). Use "{{turn}}" and, for '
            'the time, "{timestamp}", e.g. "[{timestamp}] {turn}".'
        ) from error
    if not has_turn:
        raise InputError(f'timestamps={template!r} has no "{{turn}}". Use e.g. "[{{timestamp}}] {{turn}}".')


def _answer_features(found: Sequence[tuple[int, AnswerTokens]]) -> dict[str, Tensor]:
    """Return the features of the answers in a batch; none if there are none."""
    if not found:
        return {}
    ids, mask = pad([tokens.ids for _, tokens in found])
    return {
        whole.ANSWER_QUERY: torch.tensor([query for query, _ in found]),
        whole.ANSWER_IDS: ids,
        whole.ANSWER_MASK: mask,
        whole.ANSWER_LABELS: pad([tokens.labels for _, tokens in found], filler=-100)[0],
        whole.ANSWER_INSERT: torch.tensor([tokens.insert for _, tokens in found]),
    }
