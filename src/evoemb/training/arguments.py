"""Training arguments: those of sentence-transformers, and a few that streams need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

from evoemb._errors import InputError


@dataclass
class EvoEmbeddingTrainingArguments(SentenceTransformerTrainingArguments):
    """Arguments of :class:`evoemb.training.EvoEmbeddingTrainer`; the stock ones work too.

    ``per_device_train_batch_size`` counts streams, and is 2 here.

    Args:
        bptt_turns: Gradients reach back through the queue about this many turns; None: through the whole stream.
        row_limit: Rows that one forward of the backbone holds at most; speed and peak memory only.
        token_limit: Rows times the longest row of such a forward at most; None for no limit.
        timestamps: How a turn with a timestamp is written, such as ``"[{timestamp}] {turn}"``; None leaves them out.
        max_batch_tokens: Streams are batched by length with at most this many tokens a batch, and
            ``per_device_train_batch_size`` streams; None batches at random.
        freeze: Regular expressions of parameters that are not trained.
        unfreeze: Regular expressions of parameters that are trained beside the memory; ``["."]`` is full fine-tuning.
        bad_rows: ``"raise"`` stops before the first step and names the first broken rows; ``"skip"`` leaves them out.
    """

    per_device_train_batch_size: int = field(default=2, metadata={"help": "Streams a batch and device."})
    per_device_eval_batch_size: int = field(default=2, metadata={"help": "Streams a batch and device in evaluation."})
    bptt_turns: int | None = field(default=None, metadata={"help": "Turns that gradients reach back; None: all."})
    row_limit: int = field(default=64, metadata={"help": "Rows of one forward of the backbone at most."})
    token_limit: int | None = field(default=None, metadata={"help": "Rows times longest row of a forward at most."})
    timestamps: str | None = field(default=None, metadata={"help": 'Such as "[{timestamp}] {turn}".'})
    max_batch_tokens: int | None = field(default=None, metadata={"help": "Tokens a batch at most, lengths bucketed."})
    freeze: list[str] = field(default_factory=list, metadata={"help": "Regular expressions of names to freeze."})
    unfreeze: list[str] = field(default_factory=list, metadata={"help": "Regular expressions of names to train."})
    bad_rows: str = field(default="raise", metadata={"help": '"raise" or "skip".'})

    def __post_init__(self) -> None:
        """Check our own arguments; the parent checks the rest."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to copy to, and torch warns
        if self.bad_rows not in ("raise", "skip"):
            raise InputError(f'bad_rows={self.bad_rows!r} was given. Use "raise" or "skip".')
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise InputError(f"max_batch_tokens={self.max_batch_tokens} was given. Use 1 or more, or None.")


def paper_arguments(num_devices: int = 8, **changes: Any) -> dict[str, Any]:
    """Return the paper's training arguments, spread over ``num_devices`` so that the global batch stays 16 streams.

    Args:
        **changes: Arguments in their place.

    Source: EvoEmbedding (arXiv 2606.21649): lr 5e-5, cosine to 10 %, warm-up 5 %, 1 epoch, 8 GPUs, batch 1,
    accumulation 2.
    """
    return {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 0.05,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": math.ceil(16 / num_devices),
        "bf16": True,
        "gradient_checkpointing": True,
        **changes,
    }
