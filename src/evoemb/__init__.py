"""Evolvable embeddings for everyone who knows sentence-transformers: order, time and change in retrieval."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from evoemb._errors import (
    CheckpointError,
    EvoembError,
    InputError,
    InputTypeError,
    StateError,
    StorageError,
    UnsupportedBackboneError,
)
from evoemb._lazy import lazy_names as _lazy_names

if TYPE_CHECKING:
    from evoemb.model import EvoEmbedding
    from evoemb.released import load_upstream
    from evoemb.reranker import EvoReranker
    from evoemb.state import MemoryState
    from evoemb.store import MemoryStore

__all__ = [
    "CheckpointError",
    "EvoEmbedding",
    "EvoReranker",
    "EvoembError",
    "InputError",
    "InputTypeError",
    "MemoryState",
    "MemoryStore",
    "StateError",
    "StorageError",
    "UnsupportedBackboneError",
    "__version__",
    "load_upstream",
]

__version__ = _version("evoemb")

# `evoemb --help` need not wait for torch.
__getattr__ = _lazy_names(
    __name__,
    {
        "model": ("EvoEmbedding",),
        "released": ("load_upstream",),
        "reranker": ("EvoReranker",),
        "state": ("MemoryState",),
        "store": ("MemoryStore",),
    },
)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
