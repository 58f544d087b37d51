"""Evolvable embeddings for everyone who knows sentence-transformers: order, time and change in retrieval."""

from importlib.metadata import version as _version

from evoemb._errors import (
    EvoembError,
    InputError,
    InputTypeError,
    ShapeError,
    StateError,
    UnsupportedBackboneError,
)
from evoemb.model import EvoEmbedding
from evoemb.reranker import EvoReranker
from evoemb.state import MemoryState

__all__ = [
    "EvoEmbedding",
    "EvoReranker",
    "EvoembError",
    "InputError",
    "InputTypeError",
    "MemoryState",
    "ShapeError",
    "StateError",
    "UnsupportedBackboneError",
    "__version__",
]

__version__ = _version("evoemb")
