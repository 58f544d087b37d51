"""Questions and the turns of a stream, as a :class:`TimeOrderedScore` reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from evoemb.modules.time_ordered_score import TimeOrdered, TimeOrderedScore
from evoemb.ranking import TokenStates, best_first, late_scores, standardised
from evoemb.ranking.late import LONG_STREAM_TURNS
from evoemb.streaming.rows import Limits, TokenIds, pad_ids

QUERY_TOKENS, TURN_TOKENS = 24, 40  # read of a text at most; what the module was trained with


@dataclass(frozen=True, slots=True)
class TextStates:
    """What the frozen backbone says of a text, without a memory.

    Args:
        features: Hidden states of the layers asked for, side by side ``(T, F)``, special tokens left out.
        tokens: Ids and unit-length last states of all its tokens, as late interaction compares them.
        vector: The text's embedding ``(D,)``, of unit length.
    """

    features: Tensor
    tokens: TokenStates
    vector: NDArray[np.floating[Any]]


@torch.no_grad()
def text_states(
    modules: Sequence[nn.Module],
    texts: Sequence[TokenIds],
    layers: Sequence[int],
    limits: Limits,
) -> list[TextStates]:
    """Run texts through the backbone once and keep what the two stages of reranking need.

    Args:
        modules: The stack of an embedding model.
        texts: Token ids, special ones included.
    """
    transformer: Any = modules[0]
    device = next(transformer.model.parameters()).device
    special = torch.tensor(transformer.tokenizer.all_special_ids, device=device)

    def run(chosen: Sequence[int]) -> list[TextStates]:
        ids, mask = pad_ids([texts[index] for index in chosen], device)
        hidden = transformer.hidden_states(ids, mask)
        features = {"input_ids": ids, "attention_mask": mask, "token_embeddings": hidden[-1]}
        for module in modules[1:]:
            features = module(features)
        unit = F.normalize(features["sentence_embedding"].float(), dim=-1).cpu().numpy()
        states = torch.cat([hidden[layer] for layer in layers], -1).float()
        last = F.normalize(hidden[-1].float(), dim=-1)
        words = mask.bool() & ~torch.isin(ids, special)
        found = []
        for row, own in enumerate(words):
            tokens = TokenStates(ids[row, own].cpu().numpy(), last[row, own].cpu().numpy())
            found.append(TextStates(states[row, own], tokens, unit[row]))
        return found

    return limits.run([len(ids) for ids in texts], run, device)


def first_stage(query: TextStates, turns: Sequence[TextStates]) -> NDArray[np.float32]:
    """Score turns for a query by late interaction and by cosine, each standardised over the turns; ``(n, 2)``."""
    late = late_scores(query.tokens, [turn.tokens for turn in turns])
    cosine = np.stack([turn.vector for turn in turns]) @ query.vector
    return np.stack([standardised(late), standardised(cosine)], -1).astype(np.float32)


def candidates(scores: NDArray[np.float32], most: int) -> list[int]:
    """Return the turns that either score of the first stage ranks best, in time order."""
    rankings = [best_first(scores[:, column], most).tolist() for column in range(scores.shape[1])]
    ranked = dict.fromkeys(chain.from_iterable(zip(*rankings, strict=True)))
    return sorted(list(ranked)[:most])


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """A question and the candidates that are to be read for it.

    Args:
        query: Token features of the question ``(T, F)``.
        turns: Token features of all turns said before it, oldest first.
        chosen: Which of ``turns`` are candidates, in time order.
        first_stage: Their standardised scores ``(N, 2)``.
    """

    query: Tensor
    turns: Sequence[Tensor]
    chosen: Sequence[int]
    first_stage: NDArray[np.float32]


def time_ordered(sets: Sequence[CandidateSet]) -> TimeOrdered:
    """Put questions and the turns that they look at into one batch; a turn that several look at stands once."""
    rows: list[Tensor] = []
    place: dict[int, int] = {}

    def number(turn: Tensor) -> int:
        if id(turn) not in place:
            place[id(turn)] = len(rows)
            rows.append(turn)
        return place[id(turn)]

    columns: dict[str, list[Tensor]] = {"chosen": [], "before": [], "first_stage": [], "age": [], "mask": []}
    for one in sets:
        columns["chosen"].append(torch.tensor([number(one.turns[index]) for index in one.chosen]))
        columns["before"].append(torch.tensor([number(one.turns[index - 1]) if index else -1 for index in one.chosen]))
        columns["first_stage"].append(torch.from_numpy(one.first_stage))
        columns["age"].append(torch.tensor([float(len(one.turns) - 1 - index) for index in one.chosen]))
        columns["mask"].append(torch.ones(len(one.chosen)))
    query, query_mask = _padded([one.query[:QUERY_TOKENS] for one in sets])
    texts, text_mask = _padded([turn[:TURN_TOKENS] for turn in rows])
    rest = {name: pad_sequence(column, batch_first=True).to(query.device) for name, column in columns.items()}
    return TimeOrdered(query, query_mask, texts, text_mask, **rest)


def _padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return features ``(n, T, F)`` and their mask ``(n, T)``, at least one token wide."""
    features = pad_sequence([*texts, texts[0].new_zeros(1, texts[0].shape[-1])], batch_first=True)[:-1]
    lengths = torch.tensor([len(text) for text in texts], device=features.device)
    return features, (torch.arange(features.shape[1], device=features.device) < lengths[:, None]).float()


@dataclass(frozen=True, slots=True)
class Answered:
    """What reranking says of one question.

    Args:
        scores: Logits of all turns ``(n,)``; those that were no candidates stand below the candidates, in the order of
            the first stage.
        nothing: The logit of "no turn answers this", on the same scale.
    """

    scores: Tensor
    nothing: Tensor

    @property
    def probabilities(self) -> Tensor:
        """The probability of each turn to hold the answer, and of none to hold it, ``(n + 1,)``."""
        return torch.cat([self.scores, self.nothing[None]]).softmax(0)


def answered(module: TimeOrderedScore, asked: Sequence[tuple[TextStates, Sequence[TextStates]]]) -> list[Answered]:
    """Score all turns of each question's stream; differentiable in the module's weights.

    Args:
        asked: Every question with the turns said before it, in order; at least one turn each.
    """
    stages = [first_stage(query, turns) for query, turns in asked]
    sets = []
    for (query, turns), scores in zip(asked, stages, strict=True):
        chosen = candidates(scores, module.num_candidates)
        sets.append(CandidateSet(query.features, [turn.features for turn in turns], chosen, scores[chosen]))
    found = module.score(time_ordered(sets))
    results = []
    for row, (one, scores) in enumerate(zip(sets, stages, strict=True)):
        own = found.current[row, : len(one.chosen)]
        others = torch.from_numpy(scores[:, 0] - scores[:, 0].max()).to(own)
        below = torch.minimum(own.min(), found.nothing[row]).detach() - _BELOW + others
        index = torch.tensor(one.chosen, device=own.device)
        results.append(Answered(below.index_copy(0, index, own), found.nothing[row]))
    return results


_BELOW = 10.0  # logits between the last candidate and the best of the others


FIRST_TURNS = 200
"""Turns of a longer stream that the first stage looks at for a query: the best by their vectors."""


@dataclass(frozen=True, slots=True)
class TurnReranker:
    """Ranks the turns of a stream by what answers a question as of when it is asked.

    Args:
        module: The trained score.
        modules: The stack of the model that the score was trained with.
        token_ids: Cuts texts into token ids, prompts before them: of queries with True.
        limits: Of one forward.
    """

    module: TimeOrderedScore
    modules: Sequence[nn.Module]
    token_ids: Callable[[Sequence[str], bool], list[list[int]]]
    limits: Limits

    @torch.no_grad()
    def probabilities(
        self, turns: Sequence[str], queries: Sequence[str], cosines: Sequence[NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        """Return how likely each turn is to answer each query.

        Args:
            turns: The stream's, in order.
            queries: What is asked after them.
            cosines: Each query's similarity with every turn ``(n,)``: which turns of a long stream are looked at.

        Returns:
            ``(n,)`` each. What is missing to a sum of 1 is the probability that no turn answers.
        """
        looked_at = [_looked_at(scores) for scores in cosines]
        needed = sorted(set(chain.from_iterable(looked_at)))
        said = dict(zip(needed, self._states([turns[index] for index in needed], is_query=False), strict=True))
        found = []
        for query, mine, scores in zip(self._states(queries, is_query=True), looked_at, cosines, strict=True):
            (one,) = answered(self.module, [(query, [said[index] for index in mine])])
            own = np.asarray(one.probabilities[:-1].cpu(), dtype=np.float32)
            # Turns that were not looked at come last, in the order of their cosines.
            every = (np.asarray(scores, dtype=np.float32) - np.max(scores) - 1) * 1e-9
            every[mine] = own
            found.append(every)
        return found

    def _states(self, texts: Sequence[str], *, is_query: bool) -> list[TextStates]:
        ids = self.token_ids(texts, is_query)
        return text_states(self.modules, ids, self.module.layers, self.limits)


def _looked_at(cosines: NDArray[Any]) -> list[int]:
    """Return the turns that are looked at, in order: all of a short stream, the best of a long one and those before."""
    if len(cosines) <= LONG_STREAM_TURNS:
        return list(range(len(cosines)))
    best = best_first(cosines, FIRST_TURNS).tolist()
    return sorted({index for turn in best for index in (turn - 1, turn) if index >= 0})
