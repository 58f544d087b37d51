"""The loss: find the right turn, look where it is told, leave alone what is foreign, stay close to the base model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from attention import TERMS, AttentionTargets
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evoemb.losses import EvidenceContrastiveLoss
from evoemb.losses.base import StreamLoss, only_batch
from evoemb.streaming import whole


class DefaultModelLoss(StreamLoss):
    """The contrastive loss over a stream's turns, and two terms that hold embeddings to those of the frozen base.

    ``foreign``: a question that nothing in memory concerns (it has no evidence) keeps its embedding without memory.
    ``drift``: turns stay near those of the base, mixed with those of the two turns before as far as ``mix`` asks: what
    a conversation is about belongs to its turns.
    ``links``, ``first``, ``then``: where texts look in memory, see :mod:`attention`.

    Args:
        model: Its base must be frozen.
        temperature: Of the contrastive loss.
        foreign_weight: Times the mean of one minus the cosine; 0 leaves the term out.
        drift_weight: Times the mean of one minus the cosine; 0 leaves the term out.
        mix: Weight of the turn before in what a turn stays near, its square that of the one before that.
        attention_weight: Of the three terms about attention; 0 leaves them out, and no targets are needed.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        temperature: float = 0.05,
        foreign_weight: float = 1.0,
        drift_weight: float = 0.5,
        mix: float = 0.0,
        attention_weight: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.contrastive = EvidenceContrastiveLoss(model, temperature=temperature, length_weight=False)
        self.foreign_weight = foreign_weight
        self.drift_weight = drift_weight
        self.mix = mix
        self.attention_weight = attention_weight

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Run the batch with memory and, without gradients, what is compared without."""
        features = self.select(only_batch(sentence_features))
        output, found = self._run(features)
        embeddings = F.normalize(output[whole.EMBEDDING].float(), dim=-1)
        num_turns = int(features[whole.NUM_TURNS].sum())
        foreign = (features[whole.EVIDENCE] < 0).all(-1)
        if self.foreign_weight:
            # Every process has to give the same terms, whatever its rows hold.
            found["foreign"] = embeddings.new_zeros(())
        if self.foreign_weight and bool(foreign.any()):
            base = self._base(features[whole.QUERY_IDS][foreign], features[whole.QUERY_MASK][foreign])
            found["foreign"] = self.foreign_weight * (1 - (embeddings[num_turns:][foreign] * base).sum(-1)).mean()
        if self.drift_weight:
            found["drift"] = self.drift_weight * self._drift(embeddings[:num_turns], features)
        return found

    def _run(self, features: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Run the batch with memory; give the output, the contrastive term and those about attention."""
        if not self.attention_weight:
            output = self.model(dict(features))
            return output, {"contrastive": self.compute(output)}
        transformer: Any = getattr(self.model, "module", self.model)[0]
        config = transformer.memory_config
        targets = AttentionTargets.of(features, config.capacity_latents // config.num_latents)
        with transformer.reader.watching(targets.texts()) as watched:
            output = self.model(dict(features))
        looked = targets.loss(watched)
        zero = output[whole.EMBEDDING].new_zeros(())
        terms = {name: self.attention_weight * looked.get(name, zero) for name in TERMS}
        return output, {"contrastive": self.compute(output), **terms}

    def compute(self, output: dict[str, Any]) -> Tensor:
        """Give the contrastive part alone, from the output of a forward."""
        return self.contrastive.compute(output)

    def _drift(self, turns: Tensor, features: dict[str, Any]) -> Tensor:
        """Give how far some of the turns ``(N, D)`` are from what they should stay near: one minus the cosine, mean."""
        # A run of a quarter of the turns, anywhere, says enough and costs little.
        count = max(1, len(turns) // 4)
        start = int(torch.randint(len(turns) - count + 1, ()))
        span = slice(max(0, start - 2), start + count)
        base = self._base(features[whole.INPUT_IDS][span], features[whole.ATTENTION_MASK][span])
        lengths = features[whole.NUM_TURNS]
        stream = torch.arange(len(lengths), device=base.device).repeat_interleave(lengths)[span]
        wanted = base.clone()
        for back in (1, 2):
            together = (stream[back:] == stream[:-back]).to(base.dtype)[:, None]
            wanted[back:] += self.mix**back * together * base[:-back]
        return (1 - (turns[start : start + count] * F.normalize(wanted[-count:], dim=-1)).sum(-1)).mean()

    @torch.no_grad()
    def _base(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed texts without memory, ``(N, D)``."""
        longest = int(mask.sum(-1).max())
        output = self.model({"input_ids": ids[:, :longest], "attention_mask": mask[:, :longest]})
        return F.normalize(output["sentence_embedding"].float(), dim=-1)

    def get_config_dict(self) -> dict[str, Any]:
        """Give the choices for the model card."""
        return {
            "temperature": self.contrastive.temperature,
            "foreign_weight": self.foreign_weight,
            "drift_weight": self.drift_weight,
            "mix": self.mix,
            "attention_weight": self.attention_weight,
        }
