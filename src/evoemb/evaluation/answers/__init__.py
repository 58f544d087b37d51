"""Answer quality: a chat model answers from the turns retrieved, another one judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evoemb._lazy import lazy_names

if TYPE_CHECKING:
    from evoemb.evaluation.answers.endpoint import ChatEndpoint
    from evoemb.evaluation.answers.quality import answer_quality

__all__ = [
    "ChatEndpoint",
    "answer_quality",
]

# Reports are read without an HTTP client.
__getattr__ = lazy_names(
    __name__,
    {
        "endpoint": ("ChatEndpoint",),
        "quality": ("answer_quality",),
    },
)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
