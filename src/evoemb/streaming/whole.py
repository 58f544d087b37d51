"""A batch of whole streams in one forward, with gradients through the memory: what training calls.

Features in (a dictionary of tensors, so that trainers move them between devices), embeddings out. One call reads every
turn of every stream, encodes each turn on the memory before it, and encodes the queries on the memory at the time they
are asked. Nothing is detached unless ``bptt_turns`` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evoemb.segments import SegmentPolicy
from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.continuation import Continuation, continue_texts
from evoemb.streaming.rows import Limits, Stack, TokenIds

# Features of a batch of B streams with N turns, W written turns, Q queries and A answers altogether, in stream order.
NUM_TURNS = "num_turns"  # (B,) turns that are encoded
NUM_WRITTEN = "num_written"  # (B,) turns that are written to memory; absent: the same turns
NUM_QUERIES = "num_queries"  # (B,)
INPUT_IDS = "input_ids"  # (W, T) what is written to memory
ATTENTION_MASK = "attention_mask"
TEXT_IDS = "text_ids"  # (N, T) what is encoded; absent: what is written
TEXT_MASK = "text_mask"
QUERY_IDS = "query_ids"  # (Q, T)
QUERY_MASK = "query_mask"
ASKED_AT = "asked_at"  # (Q,) written turns that were read when the query is asked
EVIDENCE = "evidence"  # (Q, P) turn indices, filled up with -1
ANSWER_QUERY = "answer_query"  # (A,) which query each answer belongs to
ANSWER_IDS = "answer_ids"  # (A, T) question and answer as the base model continues them
ANSWER_MASK = "answer_mask"
ANSWER_LABELS = "answer_labels"  # (A, T) token ids to predict, -100 elsewhere
ANSWER_INSERT = "answer_insert"  # (A,) tokens in front of the memory
BPTT_TURNS = "bptt_turns"  # int: gradients reach back through the queue about this many turns; absent: all
ROW_LIMIT = "row_limit"  # int: rows of one forward of the backbone
TOKEN_LIMIT = "token_limit"  # int: rows times the longest row of one such forward; absent: no limit

# What a batch leaves beside the layout above.
EMBEDDING = "sentence_embedding"  # (N + Q, D): turns stream by stream, then queries
ANSWER_STATES = "answer_states"  # (L, H) hidden states that predict the L labelled tokens
ANSWER_TARGETS = "answer_targets"  # (labels,)
ANSWER_ROW = "answer_row"  # (L,) which answer a labelled token belongs to

LAYOUT = (NUM_TURNS, NUM_QUERIES, ASKED_AT, EVIDENCE, ANSWER_QUERY)
_DEFAULT_ROWS = 64


def is_stream_batch(features: dict[str, Any]) -> bool:
    """Tell a batch of whole streams from a batch of texts."""
    return NUM_TURNS in features


def run_streams(stack: Stack, features: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Read and encode a batch of whole streams.

    Args:
        stack: The model; its ``run`` must not come back here.
        features: See the names above. Every stream has at least one query or turn.
        dtype: Of the latents.

    Returns:
        ``sentence_embedding`` ``(N + Q, D)`` and the layout; with answers also the states that predict them.
    """
    batch = _Batch.of(features)
    limits = Limits(int(features.get(ROW_LIMIT) or _DEFAULT_ROWS), features.get(TOKEN_LIMIT))
    empty = StreamMemory.empty(stack.transformer.reader.latent_size, dtype=dtype, device=stack.device)
    read = _read_turns(stack, batch, [empty] * len(batch.written), limits, features.get(BPTT_TURNS))
    queries = _read_queries(stack, read.asked, batch.queries, limits)
    rows = [embedding for stream in read.embeddings for embedding in stream] + queries
    output: dict[str, Any] = {name: features[name] for name in LAYOUT if name in features}
    output[EMBEDDING] = torch.stack(rows)
    if ANSWER_IDS in features:
        output.update(_answers(stack, features, read.asked))
    return output


@dataclass(frozen=True, slots=True)
class _Batch:
    """The features as lists: token ids of each stream's written and encoded turns, and of all queries."""

    written: list[list[TokenIds]]
    texts: list[list[TokenIds]] | None
    queries: list[TokenIds]
    asked_at: list[list[int]]

    @classmethod
    def of(cls, features: dict[str, Any]) -> _Batch:
        turns, queries = features[NUM_TURNS].tolist(), features[NUM_QUERIES].tolist()
        written = features[NUM_WRITTEN].tolist() if NUM_WRITTEN in features else turns
        texts = None
        if TEXT_IDS in features:
            texts = _share_out(unpad(features[TEXT_IDS], features[TEXT_MASK]), turns)
        return cls(
            written=_share_out(unpad(features[INPUT_IDS], features[ATTENTION_MASK]), written),
            texts=texts,
            queries=[*unpad(features[QUERY_IDS], features[QUERY_MASK])],
            asked_at=_share_out(features[ASKED_AT].tolist(), queries),
        )


class _Read(NamedTuple):
    """Turn embeddings of each stream, and for every query the memory it sees."""

    embeddings: list[list[Tensor]]
    asked: list[StreamMemory]


def _read_turns(
    stack: Stack, batch: _Batch, memories: list[StreamMemory], limits: Limits, bptt_turns: int | None
) -> _Read:
    """Read all streams side by side, stopping where a query is asked or where gradients are cut."""
    texts = batch.texts or batch.written
    # Where the two disagree in number there is no "memory before this turn": every turn sees the final memory.
    paired = [len(own) == len(turns) for own, turns in zip(texts, batch.written, strict=True)]
    found: list[list[Tensor | None]] = [[None] * len(own) for own in texts]
    snapshots: list[dict[int, StreamMemory]] = [{0: memory} for memory in memories]
    stops = [
        _stops(stack, turns, asked, bptt_turns) for turns, asked in zip(batch.written, batch.asked_at, strict=True)
    ]
    for embed in (True, False):
        chosen = [index for index, pair in enumerate(paired) if pair is embed]
        for pieces in _rounds([stops[index] for index in chosen]):
            group = [chosen[position] for position, _ in pieces]
            current = [memories[index] for index in group]
            spans = [slice(piece.start, piece.stop) for _, piece in pieces]
            turns = [batch.written[index][span] for index, span in zip(group, spans, strict=True)]
            encoded = [texts[index][span] for index, span in zip(group, spans, strict=True)]
            differ = encoded if batch.texts is not None and embed else None
            for stream, turn, embedding in engine.advance(stack, current, turns, limits, embed=embed, texts=differ):
                if embed:
                    found[group[stream]][spans[stream].start + turn] = embedding
            for index, memory, (_, piece) in zip(group, current, pieces, strict=True):
                snapshots[index][piece.stop] = memory
                memories[index] = replace(memory, latents=memory.latents.detach()) if piece.detach else memory
    unpaired = [index for index, pair in enumerate(paired) if not pair and texts[index]]
    if unpaired:
        final = [memories[index] for index in unpaired]
        for index, row in zip(unpaired, engine.read(stack, final, [texts[i] for i in unpaired], limits), strict=True):
            found[index] = list(row)
    embeddings = [[one for one in stream if one is not None] for stream in found]
    asked = [snapshots[index][at] for index, stream in enumerate(batch.asked_at) for at in stream]
    return _Read(embeddings, asked)


def _read_queries(
    stack: Stack, asked: Sequence[StreamMemory], queries: Sequence[TokenIds], limits: Limits
) -> list[Tensor]:
    """Encode each query on the memory it is asked of, those of one memory together, so that it is projected once."""
    groups: dict[int, list[int]] = {}
    for index, memory in enumerate(asked):
        groups.setdefault(id(memory), []).append(index)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        rows = engine.read(stack, [asked[members[0]]], [[queries[index] for index in members]], limits)
        found.update(zip(members, rows[0], strict=True))
    return [found[index] for index in range(len(queries))]


class _Piece(NamedTuple):
    """Turns ``start`` to ``stop`` of a stream; ``detach`` says that gradients do not pass its end."""

    start: int
    stop: int
    detach: bool


def _stops(stack: Stack, turns: Sequence[TokenIds], asked_at: Sequence[int], bptt_turns: int | None) -> list[_Piece]:
    """Cut a stream where queries are asked and, at the end of a segment, every ``bptt_turns`` turns."""
    cuts = set(asked_at) | {len(turns)}
    detached: set[int] = set()
    if bptt_turns is not None:
        config = stack.transformer.memory_config
        since = 0
        for segment in SegmentPolicy(config.segment_turns, config.segment_tokens).group([len(ids) for ids in turns]):
            if segment.stop - since >= bptt_turns:
                detached.add(segment.stop)
                since = segment.stop
    ordered = sorted((cuts | detached) - {0})
    return [_Piece(start, stop, stop in detached) for start, stop in zip([0, *ordered], ordered, strict=False)]


def _rounds(plans: Sequence[Sequence[_Piece]]) -> Iterator[list[tuple[int, _Piece]]]:
    """Yield the n-th pieces of all streams that have one, with the streams' positions."""
    for number in range(max((len(plan) for plan in plans), default=0)):
        yield [(position, plan[number]) for position, plan in enumerate(plans) if number < len(plan)]


def _answers(stack: Stack, features: dict[str, Any], asked: Sequence[StreamMemory]) -> dict[str, Tensor]:
    """Run the bare base model over question and answer, each with the memory its query sees."""
    texts = unpad(features[ANSWER_IDS], features[ANSWER_MASK])
    labels = unpad(features[ANSWER_LABELS], features[ANSWER_MASK])
    capacity = stack.queue.capacity_latents
    rows = [
        Continuation(ids, stack.queue.read(asked[query].queue(capacity)), insert)
        for ids, query, insert in zip(
            texts, features[ANSWER_QUERY].tolist(), features[ANSWER_INSERT].tolist(), strict=True
        )
    ]
    states: list[Tensor] = []
    targets: list[int] = []
    answer_row: list[int] = []
    for index, (row, hidden, wanted) in enumerate(zip(rows, continue_texts(stack, rows), labels, strict=True)):
        # The state of a row predicts the token of the next row; the first row has none before it.
        places = [token if token < row.insert else token + row.memory.shape[0] for token in range(len(wanted))]
        labelled = [token for token, label in enumerate(wanted) if label != -100 and places[token] > 0]
        states.append(hidden[[places[token] - 1 for token in labelled]])
        targets += [wanted[token] for token in labelled]
        answer_row += [index] * len(labelled)
    return {
        ANSWER_STATES: torch.cat(states),
        ANSWER_TARGETS: torch.tensor(targets, device=stack.device),
        ANSWER_ROW: torch.tensor(answer_row, device=stack.device),
    }


def unpad(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Return the rows of ``(N, T)`` ids without padding."""
    return [row[held].tolist() for row, held in zip(ids.cpu(), mask.bool().cpu(), strict=True)]


def _share_out(rows: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Cut ``rows`` into consecutive lists of ``counts``."""
    rest = iter(rows)
    return [[next(rest) for _ in range(count)] for count in counts]
