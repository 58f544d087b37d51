"""The modules of the stack and the parts they are built of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evoemb._lazy import lazy_names

if TYPE_CHECKING:
    from evoemb.modules.config import MemoryConfig
    from evoemb.modules.latent_memory_queue import LatentMemoryQueue
    from evoemb.modules.stateful_transformer import StatefulTransformer
    from evoemb.modules.stream_score import StreamScore
    from evoemb.modules.time_ordered_score import TimeOrderedScore

__all__ = [
    "LatentMemoryQueue",
    "MemoryConfig",
    "StatefulTransformer",
    "StreamScore",
    "TimeOrderedScore",
]

# The choices of a memory need no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "config": ("MemoryConfig",),
        "latent_memory_queue": ("LatentMemoryQueue",),
        "stateful_transformer": ("StatefulTransformer",),
        "stream_score": ("StreamScore",),
        "time_ordered_score": ("TimeOrderedScore",),
    },
)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
