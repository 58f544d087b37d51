"""Evaluation on streams: evaluators, figures, anchors and controls, with packages for benchmarks, answers and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evoemb._lazy import lazy_names

if TYPE_CHECKING:
    from evoemb.evaluation.controls import Control
    from evoemb.evaluation.evaluators import (
        KnowledgeUpdateEvaluator,
        StreamRerankingEvaluator,
        StreamRetrievalEvaluator,
        TemporalProbeEvaluator,
        sts_evaluator,
    )
    from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn, parse_stream
    from evoemb.evaluation.streams import read_streams, write_streams

__all__ = [
    "Control",
    "EvalStream",
    "KnowledgeUpdateEvaluator",
    "StreamQuery",
    "StreamRerankingEvaluator",
    "StreamRetrievalEvaluator",
    "StreamTurn",
    "TemporalProbeEvaluator",
    "parse_stream",
    "read_streams",
    "sts_evaluator",
    "write_streams",
]

# Reading streams needs no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "controls": ("Control",),
        "evaluators": (
            "KnowledgeUpdateEvaluator",
            "StreamRerankingEvaluator",
            "StreamRetrievalEvaluator",
            "TemporalProbeEvaluator",
            "sts_evaluator",
        ),
        "schema": (
            "EvalStream",
            "StreamQuery",
            "StreamTurn",
            "parse_stream",
        ),
        "streams": (
            "read_streams",
            "write_streams",
        ),
    },
)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
