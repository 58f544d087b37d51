"""What losses over streams share: one forward of the model for a batch, then a pure function of its output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from evoemb._errors import InputError
from evoemb.streaming import whole

_OF_ANSWERS = (
    whole.ANSWER_QUERY,
    whole.ANSWER_IDS,
    whole.ANSWER_MASK,
    whole.ANSWER_LABELS,
    whole.ANSWER_INSERT,
)


class StreamLoss(nn.Module, ABC):
    """A loss of a batch of whole streams.

    Args:
        model: An :class:`evoemb.EvoEmbedding`; trainers may replace it by a wrapped one.
    """

    uses_answers = False
    """Whether the forward has to run the answers too."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Any:
        """Run the model once and give the loss of the batch: a scalar, or named scalars that add up to it."""
        return self.compute(self.model(self.select(only_batch(sentence_features))))

    def select(self, features: dict[str, Any]) -> dict[str, Any]:
        """Leave out what this loss does not need, so that nothing is computed (or, in DDP, waited for) in vain."""
        if self.uses_answers:
            return features
        return {name: value for name, value in features.items() if name not in _OF_ANSWERS}

    @abstractmethod
    def compute(self, output: dict[str, Any]) -> Any:
        """Return the loss from the output of one forward, see :func:`evoemb.streaming.whole.run_streams`."""


def only_batch(sentence_features: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the one dictionary of stream features that a trainer hands to a loss.

    Raises:
        InputError: There is none, or several: the rows were not collated as streams.
    """
    batches = list(sentence_features)
    if len(batches) != 1 or not whole.is_stream_batch(batches[0]):
        raise InputError(
            f"This loss takes one batch of whole streams, but {len(batches)} text columns were given. Pass "
            "data_collator=StreamCollator(model) to the trainer, or use EvoEmbeddingTrainer."
        )
    return batches[0]
