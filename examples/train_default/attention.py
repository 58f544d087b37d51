"""Where texts should look in memory, as targets of a batch and a loss.

From the right turn alone a memory learns slowly what to read: every turn's latents look alike until some are read with
profit. So the attention itself is told, while training: a question looks at the turn that answers it, and a turn that
gives a slot a new value looks at the turn that gave it the one before. Half of the heads are asked for each; what is
made of it is left to the contrastive loss. Targets come from the rows' own evidence and from the generator's facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evoemb.modules.readers.watching import MemoryAttention
from evoemb.streaming import whole
from evoemb.training.collator import PREFIX, StreamCollator

ANCHORS = "anchors"  # (Q,) the turn to look at before the evidence, -1: none is known
LINKS = "links"  # (L, 3) stream, turn, and the earlier turn it follows on
TERMS = ("links", "first", "then")
_LEAST = 1e-5
"""Added to weights before their logarithm, so that a turn that is not seen at all has a finite loss."""


class TargetCollator(StreamCollator):
    """Adds the rows' ``anchors`` and ``links`` to the features of a batch."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Give the features of a batch."""
        batch = super().__call__(rows)
        links = [(stream, *link) for stream, row in enumerate(rows) for link in row["links"]]
        batch[f"{PREFIX}{ANCHORS}"] = torch.tensor([at for row in rows for at in row["anchors"]], dtype=torch.long)
        batch[f"{PREFIX}{LINKS}"] = torch.tensor(links, dtype=torch.long).reshape(-1, 3)
        return batch


@dataclass(frozen=True)
class AttentionTargets:
    """Ages in turns that texts should look at; what two rows of a batch contradict each other about is left out.

    ``links`` is by a turn's tokens; ``first`` and ``then`` by a question's tokens and the turns it sees: where to look
    in the layers before the last, and in the last.
    """

    links: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    first: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    then: dict[Any, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, features: dict[str, Any], window_turns: int) -> AttentionTargets:
        """Read the targets of a batch; a memory holds ``window_turns`` at most."""
        targets = cls()
        turns = whole.unpad(features[whole.INPUT_IDS], features[whole.ATTENTION_MASK])
        starts = [0, *features[whole.NUM_TURNS].cumsum(0).tolist()]
        for stream, turn, earlier in features[LINKS].tolist():
            _put(targets.links, tuple(turns[starts[stream] + turn]), (turn - earlier,))
        questions = zip(
            whole.unpad(features[whole.QUERY_IDS], features[whole.QUERY_MASK]),
            features[whole.ASKED_AT].tolist(),
            features[ANCHORS].tolist(),
            features[whole.EVIDENCE].tolist(),
            strict=True,
        )
        for ids, asked_at, anchor, evidence in questions:
            name = (tuple(ids), min(asked_at, window_turns))
            if anchor >= 0:
                _put(targets.first, name, (asked_at - anchor,))
            if evidence[:1] != [-1]:
                _put(targets.then, name, tuple(asked_at - at for at in evidence if at >= 0))
        return targets

    def texts(self) -> set[tuple[int, ...]]:
        """Give the texts that have a target."""
        return {*self.links, *(ids for ids, _ in (*self.first, *self.then))}

    def loss(self, watched: Sequence[MemoryAttention]) -> dict[str, Tensor]:
        """Give minus the logarithm of the weight on the targets, mean over rows and layers, a term a kind of target."""
        last = max((one.layer for one in watched), default=0)
        terms: dict[str, list[Tensor]] = {name: [] for name in TERMS}
        for one in watched:
            half = one.weights.shape[1] // 2
            to_evidence, to_links = one.weights[:, :half].mean(1), one.weights[:, half:].mean(1)  # (n, A)
            for row, (ids, turns) in enumerate(zip(one.token_ids, one.turns, strict=True)):
                if one.layer < last and ids in self.links:
                    _look(terms["links"], to_links[row], self.links[ids], turns)
                # The first memory layer only gathers what the words of the question mean.
                if not one.of_latents and one.layer > 0:
                    kind = "then" if one.layer == last else "first"
                    _look(terms[kind], to_evidence[row], getattr(self, kind).get((ids, turns), ()), turns)
        return {name: torch.stack(found).mean() for name, found in terms.items() if found}


def _put(targets: dict[Any, tuple[int, ...]], name: Any, ages: tuple[int, ...]) -> None:
    targets[name] = ages if targets.get(name, ages) == ages else ()


def _look(found: list[Tensor], weights: Tensor, ages: Sequence[int], turns: int) -> None:
    """Add the loss of one row's weights ``(A,)``, newest last, for those of ``ages`` that it sees."""
    places = [len(weights) - age for age in ages if age <= turns]
    if places:
        found.append(-(weights[places].sum() + _LEAST).log())
