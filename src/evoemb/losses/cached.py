"""GradCache with a stream as the unit: large batches of streams in the memory of a few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor

from evoemb._errors import InputError
from evoemb.losses.base import StreamLoss, only_batch
from evoemb.losses.processes import reducing_gradients
from evoemb.streaming import whole

_FLOATS = (whole.EMBEDDING, whole.ANSWER_STATES)


class CachedStreamLoss(StreamLoss):
    """Return a loss's exact gradients while only a few streams' activations are alive at a time.

    It runs the streams without gradients, takes the loss and its gradient at the embeddings, and runs the streams
    again, a few at a time, to carry that gradient on. Worth its second forward where streams depend on each other, as
    with ``in_batch_negatives``; without, gradient accumulation gives the same numbers cheaper.

    Args:
        model: An :class:`evoemb.EvoEmbedding`.
        loss: The loss of the whole batch.
        streams_per_step: Streams alive at a time.

    Raises:
        InputError: ``streams_per_step`` is less than 1.

    Source: GradCache (arXiv 2101.06983).
    """

    def __init__(self, model: SentenceTransformer, loss: StreamLoss, streams_per_step: int = 1) -> None:
        super().__init__(model)
        if streams_per_step < 1:
            raise InputError(f"streams_per_step={streams_per_step} was given. Use 1 or more.")
        self.loss = loss
        self.uses_answers = loss.uses_answers
        self.streams_per_step = streams_per_step

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of the batch; its backward runs the second forward."""
        parts = list(split_streams(self.select(only_batch(sentence_features)), self.streams_per_step))
        contexts: list[RandContext] = []
        outputs: list[dict[str, Any]] = []
        with torch.no_grad():
            for part in parts:
                contexts.append(RandContext(*(value for value in part.values() if isinstance(value, Tensor))))
                outputs.append(self.model(part))
        joined = join_outputs(outputs)
        if not torch.is_grad_enabled():
            return _total(self.loss.compute(joined))
        for name in _FLOATS:
            if name in joined:
                joined[name] = joined[name].detach().requires_grad_()
        total = _total(self.loss.compute(joined))
        total.backward()
        gradients = [
            {name: joined[name].grad[places] for name, places in found.items()} for found in _places(joined, outputs)
        ]
        result = total.detach().requires_grad_()
        result.register_hook(partial(self._second_pass, parts, contexts, gradients))
        return result

    def _second_pass(
        self,
        parts: Sequence[dict[str, Any]],
        contexts: Sequence[RandContext],
        gradients: Sequence[dict[str, Tensor]],
        scale: Tensor,
    ) -> None:
        """Run the parts with gradients, under the same random numbers, and carry the cached gradients on."""
        with torch.enable_grad():
            for index, (part, context, gradient) in enumerate(zip(parts, contexts, gradients, strict=True)):
                with reducing_gradients(self.model, last=index + 1 == len(parts)):
                    with context:
                        output = self.model(part)
                    terms = [(output[name].float() * grad.float()).sum() for name, grad in gradient.items()]
                    (torch.stack(terms).sum() * scale).backward()

    def compute(self, output: dict[str, Any]) -> Any:
        """Return the wrapped loss of an output."""
        return self.loss.compute(output)


def split_streams(features: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Cut a batch of streams into batches of ``size`` streams, the last may be smaller."""
    turns, queries = features[whole.NUM_TURNS].tolist(), features[whole.NUM_QUERIES].tolist()
    written = features[whole.NUM_WRITTEN].tolist() if whole.NUM_WRITTEN in features else turns
    for start in range(0, len(turns), size):
        stop = min(start + size, len(turns))
        spans = {
            whole.NUM_TURNS: slice(start, stop),
            whole.NUM_WRITTEN: slice(start, stop),
            whole.NUM_QUERIES: slice(start, stop),
        }
        spans |= dict.fromkeys((whole.INPUT_IDS, whole.ATTENTION_MASK), _span(written, start, stop))
        spans |= dict.fromkeys((whole.TEXT_IDS, whole.TEXT_MASK), _span(turns, start, stop))
        asked = _span(queries, start, stop)
        names = (whole.QUERY_IDS, whole.QUERY_MASK, whole.ASKED_AT, whole.EVIDENCE)
        spans |= dict.fromkeys(names, asked)
        part = {name: value[spans[name]] if name in spans else value for name, value in features.items()}
        if whole.ANSWER_QUERY in features:
            answered = features[whole.ANSWER_QUERY]
            mine = (answered >= asked.start) & (answered < asked.stop)
            for name in (whole.ANSWER_IDS, whole.ANSWER_MASK, whole.ANSWER_LABELS, whole.ANSWER_INSERT):
                part[name] = features[name][mine]
            part[whole.ANSWER_QUERY] = answered[mine] - asked.start
            if not bool(mine.any()):
                for name in (whole.ANSWER_IDS, whole.ANSWER_QUERY):
                    part.pop(name)
        yield part


def join_outputs(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the outputs of parts together as one forward over all their streams would give them."""
    joined: dict[str, Any] = {
        name: torch.cat([output[name] for output in outputs])
        for name in (whole.NUM_TURNS, whole.NUM_QUERIES, whole.ASKED_AT, whole.EVIDENCE)
    }
    counts = [int(output[whole.NUM_TURNS].sum()) for output in outputs]
    both = [
        output[whole.EMBEDDING].split([count, len(output[whole.EMBEDDING]) - count])
        for output, count in zip(outputs, counts, strict=True)
    ]
    joined[whole.EMBEDDING] = torch.cat([turns for turns, _ in both] + [queries for _, queries in both])
    answered = [output for output in outputs if whole.ANSWER_STATES in output]
    if answered:
        rows, asked, num_rows, num_queries = [], [], 0, 0
        for output in outputs:
            if whole.ANSWER_STATES in output:
                rows.append(output[whole.ANSWER_ROW] + num_rows)
                asked.append(output[whole.ANSWER_QUERY] + num_queries)
                num_rows += len(output[whole.ANSWER_QUERY])
            num_queries += int(output[whole.NUM_QUERIES].sum())
        joined[whole.ANSWER_ROW], joined[whole.ANSWER_QUERY] = torch.cat(rows), torch.cat(asked)
        for name in (whole.ANSWER_STATES, whole.ANSWER_TARGETS):
            joined[name] = torch.cat([output[name] for output in answered])
    return joined


def _places(joined: dict[str, Any], outputs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Say where each part's rows lie in the joined tensors that carry gradients."""
    total_turns = int(joined[whole.NUM_TURNS].sum())
    turn = query = state = 0
    for output in outputs:
        turns = int(output[whole.NUM_TURNS].sum())
        queries = len(output[whole.EMBEDDING]) - turns
        rows = torch.cat((torch.arange(turn, turn + turns), total_turns + torch.arange(query, query + queries)))
        turn, query = turn + turns, query + queries
        found = {whole.EMBEDDING: rows.to(output[whole.EMBEDDING].device)}
        if whole.ANSWER_STATES in output:
            count = len(output[whole.ANSWER_STATES])
            found[whole.ANSWER_STATES] = torch.arange(state, state + count, device=rows.device)
            state += count
        yield found


def _span(counts: Sequence[int], start: int, stop: int) -> slice:
    """Return the rows that streams ``start`` to ``stop`` take where stream i has ``counts[i]`` rows."""
    first = sum(counts[:start])
    return slice(first, first + sum(counts[start:stop]))


def _total(loss: Any) -> Tensor:
    """Add named losses up."""
    return torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss
