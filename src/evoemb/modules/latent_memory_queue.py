"""The second module of the stack: what is written to the queue, read from it, and how long it stays."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from evoemb._errors import InputError

Projection = Literal["none", "read", "paper"]
PROJECTIONS: tuple[Projection, ...] = ("none", "read", "paper")


class LatentMemoryQueue(Module):
    """Projections between hidden states, latents and embeddings, and the first-in-first-out queue of latents.

    The queue itself is a value that callers hold (:class:`evoemb.MemoryState`); this module keeps no state.

    Args:
        hidden_size: ``H``.
        embedding_dimension: Size of a token embedding after this module, ``D``; None means ``H``.
        num_latents: ``K``, latents a turn.
        capacity_latents: ``C``, latents kept; the oldest leave.
        projection: ``"none"``: latents and embeddings pass unchanged. ``"read"``: latents pass one linear layer when
            they are read. ``"paper"``: latents are written through Linear+ReLU, read through Linear, and embeddings
            pass the writing projection and then Linear+ReLU+Linear.

    Source: EvoEmbedding (arXiv 2606.21649), latent_to_mem, mem_to_latent, mem_to_emb and the memory queue.
    """

    config_keys: list[str] = [
        "hidden_size",
        "embedding_dimension",
        "num_latents",
        "capacity_latents",
        "projection",
    ]

    def __init__(
        self,
        hidden_size: int,
        embedding_dimension: int | None = None,
        num_latents: int = 16,
        capacity_latents: int = 512,
        projection: Projection = "none",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if projection not in PROJECTIONS:
            raise InputError(f"projection={projection!r} is not known. Use one of {', '.join(PROJECTIONS)}.")
        if num_latents < 1 or capacity_latents < num_latents:
            raise InputError(
                f"num_latents={num_latents} and capacity_latents={capacity_latents} were given, but a queue must keep "
                "at least the latents of one turn. Use num_latents >= 1 and capacity_latents >= num_latents."
            )
        self.hidden_size = hidden_size
        self.embedding_dimension = embedding_dimension or hidden_size
        self.num_latents = num_latents
        self.capacity_latents = capacity_latents
        self.projection: Projection = projection
        if projection != "none":
            self.mem_to_latent = _identity_linear(hidden_size, hidden_size)
        if projection == "paper":
            self.latent_to_mem = _identity_linear(hidden_size, hidden_size)
            self.mem_to_emb = nn.Sequential(
                _identity_linear(hidden_size, self.embedding_dimension),
                nn.ReLU(),
                _identity_linear(self.embedding_dimension, self.embedding_dimension),
            )

    def write(self, hidden_states: Tensor) -> Tensor:
        """Turn hidden states at the memory queries ``(..., H)`` into latents ``(..., S)`` as the queue stores them."""
        return F.relu(self.latent_to_mem(hidden_states)) if self.projection == "paper" else hidden_states

    def read(self, latents: Tensor) -> Tensor:
        """Turn stored latents ``(..., S)`` into what the backbone reads ``(..., S)``."""
        return latents if self.projection == "none" else self.mem_to_latent(latents)

    def keep(self, latents: Tensor) -> Tensor:
        """Return the newest ``C`` of ``(M, S)`` latents; the oldest leave."""
        return latents[max(0, latents.shape[0] - self.capacity_latents) :]

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """Project ``token_embeddings`` ``(N, T, H)`` to ``(N, T, D)``.

        The projection is position-wise, so under last-token pooling this equals projecting the pooled state.
        """
        if self.projection == "paper":
            hidden = F.relu(self.latent_to_mem(features["token_embeddings"]))
            features["token_embeddings"] = self.mem_to_emb(hidden)
        return features

    def get_embedding_dimension(self) -> int:
        """Return ``D``."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration, and the projections if there are any."""
        self.save_config(output_path)
        if self.projection != "none":
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> LatentMemoryQueue:
        """Load the module from a folder or the Hub; arguments as in :meth:`Module.load`."""
        hub = {key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs}
        queue = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        if queue.projection != "none":
            cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=queue, **hub)
        return queue


def _identity_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that starts as the identity (cut or zero-filled where the sizes differ), bias zero."""
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(outputs, inputs))
        nn.init.zeros_(linear.bias)
    return linear
