"""Fine-tuning on streams: data, collator, arguments and a trainer that needs nothing extra."""

from evoemb.training.arguments import EvoEmbeddingTrainingArguments
from evoemb.training.collator import StreamCollator
from evoemb.training.columns import Question, StreamExample, parse_row
from evoemb.training.converters import chat_log_rows, document_rows
from evoemb.training.datasets import load_rows, stream_dataset
from evoemb.training.sampler import TokenBudgetBatchSampler
from evoemb.training.trainable import set_trainable
from evoemb.training.trainer import EvoEmbeddingTrainer

__all__ = [
    "EvoEmbeddingTrainer",
    "EvoEmbeddingTrainingArguments",
    "Question",
    "StreamCollator",
    "StreamExample",
    "TokenBudgetBatchSampler",
    "chat_log_rows",
    "document_rows",
    "load_rows",
    "parse_row",
    "set_trainable",
    "stream_dataset",
]
