"""Pairs of a query and a candidate: checked, cut into candidate streams, and as padded token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import groupby
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evoemb._errors import InputTypeError
from evoemb.chat.ids import candidate_ids
from evoemb.cuts import CutTexts
from evoemb.data.tables import is_table, items_of
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.state import MemoryState

# Features of a batch of pairs.
CANDIDATES = "candidate_ids"
QUERIES = "query_ids"
GROUPS = "candidate_groups"
WRITTEN = "written_ids"
_NO_ID = -1


class PredictArguments(TypedDict, total=False):
    """Arguments of ``EvoReranker.predict`` that do not change the kind of its result."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int
    show_progress_bar: bool | None
    activation_fn: Callable[..., Any] | None
    device: str | torch.device | None
    state: MemoryState | None
    truncate: bool
    processing_kwargs: dict[str, Any] | None


def checked_documents(documents: Any) -> list[str]:
    """Return candidates as a list of strings, in the order given.

    Raises:
        InputTypeError: They are no list of strings, or have no order.
    """
    kind = type(documents).__name__
    has_order = hasattr(documents, "__iter__") and hasattr(documents, "__len__") and getattr(documents, "ndim", 1) == 1
    if isinstance(documents, str | bytes | Mapping | Set) or not (has_order or is_table(documents)):
        raise InputTypeError(
            f"documents is of type {kind}, expected a list of strings, in order. Pass list(documents)."
        )
    found = items_of(documents, texts=True)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InputTypeError(f"Document {index} is of type {kind}, expected a string. Pass each document's text.")
    return [str(text) for text in found]


def candidate_groups(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return each run of equal queries with its candidates."""
    return [(query, [text for _, text in run]) for query, run in groupby(pairs, key=lambda pair: pair[0])]


def _group_numbers(groups: Sequence[tuple[str, list[str]]]) -> Tensor:
    return torch.tensor([index for index, (_, texts) in enumerate(groups) for _ in texts])


def whole_groups(pairs: Sequence[Any], batch_size: int) -> Iterator[list[Any]]:
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


def checked_pair(pair: Any, index: int) -> tuple[str, str]:
    """Return one pair as two strings.

    Raises:
        InputTypeError: It is something else.
    """
    if isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
        return str(pair[0]), str(pair[1])
    raise InputTypeError(f"Pair {index} is {pair!r:.80}, expected (query, candidate), two strings.")


def pair_features(
    transformer: StatefulTransformer,
    pairs: Sequence[tuple[str, str]],
    before_query: str | None,
    before_document: str | None,
    cut: CutTexts,
    first: int = 0,
    **kwargs: Any,
) -> dict[str, Any]:
    """Tokenize pairs into candidate streams, one for each run of equal queries.

    Args:
        before_query: Prompt of the queries.
        before_document: Prompt of the candidates.
        cut: Takes note of texts longer than the window.
        first: Number of the first pair in its call.
        **kwargs: Passed on to the tokenization.
    """
    groups = candidate_groups(pairs)
    texts, asked = [text for _, text in pairs], [query for query, _ in groups]
    candidates = transformer.token_ids(texts, prompt=before_document, **kwargs)
    queries = transformer.token_ids(asked, prompt=before_query, **kwargs)
    cut.check(texts, candidates, lambda place: f"Candidate {first + place}", before_document)
    cut.check(asked, queries, lambda place: f"The query {asked[place]!r:.40}", before_query)
    return {CANDIDATES: padded(candidates), QUERIES: padded(queries), GROUPS: _group_numbers(groups)}


def chat_features(transformer: StatefulTransformer, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Tokenize candidate streams as released checkpoints were trained: chats with one user message a candidate."""
    groups = candidate_groups(pairs)
    found = [candidate_ids(transformer, query, texts) for query, texts in groups]
    return {
        CANDIDATES: padded([row for ids in found for row in ids.encoded]),
        WRITTEN: padded([row for ids in found for row in ids.written]),
        QUERIES: padded([ids.asked for ids in found]),
        GROUPS: _group_numbers(groups),
    }


def padded(ids: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of token ids as one tensor, see :func:`unpadded`."""
    return pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=_NO_ID)


def unpadded(rows: Tensor) -> list[list[int]]:
    """Return the rows of token ids that :func:`padded` took."""
    return [row[row != _NO_ID].tolist() for row in rows]
