"""Fine-tuning on streams: data, collator, arguments and a trainer that needs nothing extra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoemb.training.arguments import EvoEmbeddingTrainingArguments, paper_arguments
    from evoemb.training.collator import StreamCollator
    from evoemb.training.columns import Question, RowError, StreamExample, parse_row
    from evoemb.training.config import TrainingConfig, train
    from evoemb.training.converters import chat_log_rows, document_rows
    from evoemb.training.datasets import load_rows, stream_dataset
    from evoemb.training.sampler import TokenBudgetBatchSampler
    from evoemb.training.summary import DataSummary
    from evoemb.training.trainable import set_trainable
    from evoemb.training.trainer import EvoEmbeddingTrainer

__all__ = [
    "DataSummary",
    "EvoEmbeddingTrainer",
    "EvoEmbeddingTrainingArguments",
    "Question",
    "RowError",
    "StreamCollator",
    "StreamExample",
    "TokenBudgetBatchSampler",
    "TrainingConfig",
    "chat_log_rows",
    "document_rows",
    "load_rows",
    "paper_arguments",
    "parse_row",
    "set_trainable",
    "stream_dataset",
    "train",
]

# Names are imported when first used: checking data needs neither torch nor the trainer.
_HOMES = {
    "arguments": ("EvoEmbeddingTrainingArguments", "paper_arguments"),
    "collator": ("StreamCollator",),
    "columns": ("Question", "RowError", "StreamExample", "parse_row"),
    "config": ("TrainingConfig", "train"),
    "converters": ("chat_log_rows", "document_rows"),
    "datasets": ("load_rows", "stream_dataset"),
    "sampler": ("TokenBudgetBatchSampler",),
    "summary": ("DataSummary",),
    "trainable": ("set_trainable",),
    "trainer": ("EvoEmbeddingTrainer",),
}
_HOME_OF = {name: f"evoemb.training.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
