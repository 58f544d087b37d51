"""The last module of a reranker: how well a query and a candidate match, each embedded on its memory."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor

from evoemb._errors import InputError

QUERY_EMBEDDING = "query_embedding"


class StreamScore(Module):
    """Score a candidate as the cosine of its embedding and the query's, divided by a temperature.

    Args:
        temperature: Divides the cosine; 0.1 gives scores from -10 to 10.

    Source: EvoEmbedding (arXiv 2606.21649): cosine at temperature 0.1.
    """

    config_keys: list[str] = ["temperature"]

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not temperature > 0:
            raise InputError(f"temperature={temperature!r} was given. Use a number above 0.")
        self.temperature = temperature

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """Write ``scores`` ``(N, 1)`` from ``query_embedding`` and ``sentence_embedding``, both ``(N, D)``."""
        cosine = F.cosine_similarity(features[QUERY_EMBEDDING], features["sentence_embedding"], dim=-1)
        features["scores"] = cosine.unsqueeze(-1) / self.temperature
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration; there are no weights."""
        self.save_config(output_path)
