"""Fine-tuning on streams: data, collator, arguments and a trainer that needs nothing extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evoemb._lazy import lazy_names

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

# Checking data needs neither torch nor the trainer.
__getattr__ = lazy_names(
    __name__,
    {
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
    },
)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
