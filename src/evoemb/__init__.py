"""Evolvable embeddings for everyone who knows sentence-transformers: order, time and change in retrieval."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoemb._errors import (
        CheckpointError,
        EvoembError,
        InputError,
        InputTypeError,
        StateError,
        UnsupportedBackboneError,
    )
    from evoemb.loading import load_upstream
    from evoemb.model import EvoEmbedding
    from evoemb.reranker import EvoReranker
    from evoemb.state import MemoryState

__all__ = [
    "CheckpointError",
    "EvoEmbedding",
    "EvoReranker",
    "EvoembError",
    "InputError",
    "InputTypeError",
    "MemoryState",
    "StateError",
    "UnsupportedBackboneError",
    "__version__",
    "load_upstream",
]

__version__ = _version("evoemb")

# Names are imported when first used: `evoemb --help` need not wait for torch.
_HOMES = {
    "EvoEmbedding": "evoemb.model",
    "EvoReranker": "evoemb.reranker",
    "MemoryState": "evoemb.state",
    "load_upstream": "evoemb.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name in __all__:
        return getattr(_import_module(_HOMES.get(name, "evoemb._errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
