"""The query against its evidence turns and the other turns of its stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evoemb._errors import InputError
from evoemb.losses.base import StreamLoss
from evoemb.losses.infonce import evidence_infonce
from evoemb.losses.processes import of_other_processes
from evoemb.streaming import whole


class EvidenceContrastiveLoss(StreamLoss):
    """Pull a query to every turn that answers it, and away from the other turns it could have meant.

    For every query: ``log(negatives + 1) / evidence turns`` times the sum over its evidence turns
    of InfoNCE (that turn against the negatives) on cosines divided by ``temperature``. Candidates are the turns read
    before the query was asked. Queries without evidence add nothing; a stream's queries are averaged, and so are the
    streams of a batch, so that a batch of B streams equals B accumulated batches of one.

    Args:
        model: An :class:`evoemb.EvoEmbedding`.
        temperature: Divides the cosines.
        length_weight: Whether the factor ``log(negatives + 1)`` is applied.
        in_batch_negatives: Whether all turns of the other streams in the batch are negatives too.
        gather_across_devices: Whether those of the other processes' batches are negatives as well, so that several
            processes give the loss and gradients of one with all their streams. Needs ``in_batch_negatives``.
        false_negative_threshold: Turns whose cosine with an evidence turn is at least this are left out of the
            negatives; None keeps all.
        matryoshka_dims: Embedding sizes the loss is taken at; None means the full one. The stock ``MatryoshkaLoss``
            works over this loss as well.
        matryoshka_weights: One a size; None weighs all 1.

    Raises:
        InputError: A value is out of range.

    Source: EvoEmbedding (arXiv 2606.21649), L_con.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        temperature: float = 0.1,
        length_weight: bool = True,
        in_batch_negatives: bool = False,
        gather_across_devices: bool = False,
        false_negative_threshold: float | None = None,
        matryoshka_dims: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model)
        if not temperature > 0:
            raise InputError(f"temperature={temperature} was given. Use a number above 0; the paper has 0.1.")
        if false_negative_threshold is not None and not -1 <= false_negative_threshold <= 1:
            raise InputError(
                f"false_negative_threshold={false_negative_threshold} was given. It is a cosine: use -1 to 1, or None."
            )
        if gather_across_devices and not in_batch_negatives:
            raise InputError(
                "gather_across_devices=True was given without in_batch_negatives, so nothing is to be gathered. Pass "
                "in_batch_negatives=True with it."
            )
        self.temperature = temperature
        self.length_weight = length_weight
        self.in_batch_negatives = in_batch_negatives
        self.gather_across_devices = gather_across_devices
        self.false_negative_threshold = false_negative_threshold
        self.matryoshka_dims = tuple(matryoshka_dims) if matryoshka_dims is not None else None
        weights = [1.0] * len(self.matryoshka_dims or ()) if matryoshka_weights is None else list(matryoshka_weights)
        if len(weights) != len(self.matryoshka_dims or ()):
            raise InputError(
                f"{len(weights)} matryoshka_weights were given for {len(self.matryoshka_dims or ())} matryoshka_dims. "
                "Give one weight a dimension."
            )
        size = model.get_embedding_dimension()
        if size is not None and any(not 1 <= dim <= size for dim in self.matryoshka_dims or ()):
            raise InputError(
                f"matryoshka_dims={list(self.matryoshka_dims or ())} were given. Use sizes from 1 to {size}."
            )
        self.matryoshka_weights = tuple(weights)

    def compute(self, output: dict[str, Any]) -> Tensor:
        """Return the mean loss of the streams in a batch, a scalar."""
        embeddings = output[whole.EMBEDDING].float()
        candidates = _Candidates.of(output, embeddings.device)
        num_turns = candidates.turn_stream.shape[0]
        foreign = embeddings[:0]
        if self.gather_across_devices:
            foreign = of_other_processes(embeddings[:num_turns])
            candidates = candidates.with_foreign(len(foreign))
        if self.matryoshka_dims is None:
            return self._at_size(embeddings, foreign, candidates)
        sizes = zip(self.matryoshka_dims, self.matryoshka_weights, strict=True)
        at_sizes = [weight * self._at_size(embeddings[:, :dim], foreign[:, :dim], candidates) for dim, weight in sizes]
        return torch.stack(at_sizes).sum()

    def _at_size(self, embeddings: Tensor, foreign: Tensor, candidates: _Candidates) -> Tensor:
        """Return the loss of embeddings ``(N + Q, D)`` and foreign turns ``(N', D)``, cut to one size already."""
        # Keeps every embedding in the graph where no query has evidence: DDP waits for gradients of all of them.
        anchored = 0.0 * (embeddings.sum() + foreign.sum())
        num_turns = candidates.turn_stream.shape[0] - len(foreign)
        if num_turns == 0 or candidates.query_stream.shape[0] == 0:
            return anchored
        unit = F.normalize(embeddings, dim=-1)
        turns, queries = torch.cat((unit[:num_turns], F.normalize(foreign, dim=-1))), unit[num_turns:]
        positive = candidates.positive
        negative = candidates.others(in_batch=self.in_batch_negatives)
        if self.false_negative_threshold is not None:
            negative = negative & ~_resembles(turns.detach(), positive, self.false_negative_threshold)
        scores = queries @ turns.T / self.temperature  # (Q, N)
        loss = evidence_infonce(scores, positive, negative, length_weight=self.length_weight)  # (Q,)
        return (loss * candidates.query_weight).sum() + anchored

    def get_config_dict(self) -> dict[str, Any]:
        """Return the choices for the model card."""
        return {
            "temperature": self.temperature,
            "length_weight": self.length_weight,
            "in_batch_negatives": self.in_batch_negatives,
            "gather_across_devices": self.gather_across_devices,
            "false_negative_threshold": self.false_negative_threshold,
            "matryoshka_dims": self.matryoshka_dims,
        }


class _Candidates(NamedTuple):
    """Which turns a query could have meant, as masks ``(Q, N)``.

    ``query_weight`` ``(Q,)`` is a query's part of the batch's mean: streams count alike, and so do a stream's queries.
    """

    turn_stream: Tensor
    query_stream: Tensor
    own: Tensor
    positive: Tensor
    query_weight: Tensor

    @classmethod
    def of(cls, output: dict[str, Any], device: torch.device) -> _Candidates:
        num_turns, num_queries, asked_at, evidence = (
            output[name].to(device) for name in (whole.NUM_TURNS, whole.NUM_QUERIES, whole.ASKED_AT, whole.EVIDENCE)
        )
        streams = torch.arange(len(num_turns), device=device)
        turn_stream = streams.repeat_interleave(num_turns)
        query_stream = streams.repeat_interleave(num_queries)
        first = num_turns.cumsum(0) - num_turns
        turn_index = torch.arange(len(turn_stream), device=device) - first[turn_stream]
        own = (query_stream[:, None] == turn_stream) & (turn_index < asked_at[:, None])
        positive = own & (evidence[:, None, :] == turn_index[None, :, None]).any(-1)
        weight = 1.0 / (num_queries[query_stream].float() * max(1, len(num_turns)))
        # With one candidate or none there is nothing to choose from.
        return cls(turn_stream, query_stream, own, positive, weight)

    def with_foreign(self, count: int) -> _Candidates:
        """Add ``count`` turns of streams that no query here belongs to."""
        streams = F.pad(self.turn_stream, (0, count), value=-1)
        own, positive = (F.pad(mask, (0, count), value=False) for mask in (self.own, self.positive))
        return self._replace(turn_stream=streams, own=own, positive=positive)

    def others(self, *, in_batch: bool) -> Tensor:
        """Return the negatives, ``(Q, N)``."""
        others = self.own & ~self.positive
        return others | (self.query_stream[:, None] != self.turn_stream) if in_batch else others


def _resembles(turns: Tensor, positive: Tensor, threshold: float) -> Tensor:
    """Say which turns ``(Q, N)`` are as close to one of a query's evidence turns as ``threshold``."""
    found = torch.zeros_like(positive)
    for query in range(positive.shape[0]):
        if bool(positive[query].any()):
            found[query] = (turns @ turns[positive[query]].T).amax(-1) >= threshold
    return found
