"""The weighted sum of losses over one forward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from evoemb._errors import InputError
from evoemb.losses.base import StreamLoss
from evoemb.losses.evidence_contrastive import EvidenceContrastiveLoss
from evoemb.losses.memory_language_modeling import MemoryLanguageModelingLoss


class CombinedLoss(StreamLoss):
    """Add losses up; the model runs once for all of them.

    Args:
        model: An :class:`evoemb.EvoEmbedding`.
        losses: Losses to add; None takes the paper's two, memory loss and contrastive loss.
        weights: One a loss; None weighs all 1, as the paper does.

    Raises:
        InputError: No loss, or not one weight a loss.

    Source: EvoEmbedding (arXiv 2606.21649), L = L_mem + L_con.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        losses: Sequence[StreamLoss] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model)
        if losses is None:
            losses = [MemoryLanguageModelingLoss(model), EvidenceContrastiveLoss(model)]
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise InputError(f"{len(losses)} losses and {len(weights)} weights were given. Give one weight a loss.")
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)
        self.uses_answers = any(loss.uses_answers for loss in losses)

    def compute(self, output: dict[str, Any]) -> dict[str, Tensor]:
        """Return each weighted loss by name; trainers log them apart and train on their sum."""
        named: dict[str, Tensor] = {}
        for loss, weight in zip(self.losses, self.weights, strict=True):
            name = _snake_case(type(loss).__name__)
            while name in named:
                name += "_"
            named[name] = weight * loss.compute(output)  # type: ignore[operator]
        return named

    def get_config_dict(self) -> dict[str, Any]:
        """Return the choices for the model card."""
        return {type(loss).__name__: weight for loss, weight in zip(self.losses, self.weights, strict=True)}


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Loss")).lower()
