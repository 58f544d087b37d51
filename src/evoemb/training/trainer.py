"""The sentence-transformers trainer with everything streams need already in place."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.training_args import (
    BatchSamplers,
    SentenceTransformerTrainingArguments,
)
from torch import nn

from evoemb._errors import CheckpointError, InputError, InputTypeError
from evoemb.losses import CombinedLoss, EvidenceContrastiveLoss
from evoemb.model import EvoEmbedding
from evoemb.training.arguments import EvoEmbeddingTrainingArguments
from evoemb.training.collator import StreamCollator
from evoemb.training.columns import parse_row
from evoemb.training.datasets import stream_dataset
from evoemb.training.sampler import TokenBudgetBatchSampler
from evoemb.training.sharding import as_before, check_options, gathered, is_sharded, load_whole, shard
from evoemb.training.trainable import set_trainable

logger = logging.getLogger(__name__)


class EvoEmbeddingTrainer(SentenceTransformerTrainer):
    """Train an :class:`evoemb.EvoEmbedding` on streams.

    Like ``SentenceTransformerTrainer``, and data may also be a list of rows or the name of a file or Hub data set. Rows
    are checked before the first step. Without ``loss``, the paper's is taken: the memory loss and the contrastive loss
    where rows have answers and the base is a decoder that can continue them, else the contrastive loss alone.

    Args:
        model: The model.
        args: Training arguments; stock ones work, :class:`EvoEmbeddingTrainingArguments` has more.
        train_dataset: Rows, see :func:`evoemb.training.parse_row`.
        eval_dataset: Rows in the same forms, or a dictionary of them.
        **kwargs: As for ``SentenceTransformerTrainer`` (``loss``, ``evaluator``, ``callbacks``, ...).

    Raises:
        InputError: Rows are broken, or several GPUs are visible to one process.
        InputTypeError: The model is no EvoEmbedding.
    """

    def __init__(
        self,
        model: EvoEmbedding | None = None,
        args: SentenceTransformerTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        if model is not None and not isinstance(model, EvoEmbedding):
            raise InputTypeError(
                f"model is {type(model).__name__}, expected EvoEmbedding. Load it with EvoEmbedding(name_or_path)."
            )
        args = args or EvoEmbeddingTrainingArguments(output_dir="tmp_trainer")
        if args.n_gpu > 1:
            raise InputError(
                f"{args.n_gpu} GPUs are visible to one process, and DataParallel would cut streams apart. Start one "
                "process a GPU with `torchrun --nproc-per-node N`, or set CUDA_VISIBLE_DEVICES to one."
            )
        _refuse_ignored(args, kwargs.get("data_collator"))
        bad_rows = getattr(args, "bad_rows", "raise")
        if train_dataset is not None:
            train_dataset = stream_dataset(train_dataset, bad_rows=bad_rows)
        if eval_dataset is not None:
            eval_dataset = stream_dataset(eval_dataset, bad_rows=bad_rows)
        _read_whole_rows(args, train_dataset)
        freeze, unfreeze = getattr(args, "freeze", ()), getattr(args, "unfreeze", ())
        if model is not None and (freeze or unfreeze):
            set_trainable(model, freeze=freeze, unfreeze=unfreeze)
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        if args.fsdp or self.is_fsdp_enabled:
            check_options(self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None)
        self._optimized: list[list[Any]] = []

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the optimizer; under FSDP the model is sharded first, for the optimizer to hold the shards."""
        if not self.is_fsdp_enabled:
            return super().create_optimizer(*args, **kwargs)
        shard(self.model, self.accelerator)
        optimizer = super().create_optimizer(*args, **kwargs)
        self._optimized = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Return the schedule of the learning rate."""
        # accelerate tells parameters apart by the address of their shard, and empty shards have none.
        for group, parameters in zip(getattr(self.optimizer, "param_groups", []), self._optimized, strict=False):
            group["params"] = parameters
        return super().create_scheduler(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Run the evaluation, under FSDP on whole weights."""
        with gathered(self.model):
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as ``save_pretrained`` does; under FSDP all processes have to call it."""
        if not is_sharded(self.model):
            super().save_model(output_dir, _internal_call)
            return
        with as_before(self.model):
            if self.args.should_save:
                self._save(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        if is_sharded(self.model):
            load_whole(self.model, EvoEmbedding(checkpoint_path, device="cpu").state_dict())
        else:
            super()._load_from_checkpoint(checkpoint_path)

    def get_data_collator(self, model: Any, args: Any, processing_class: Any = None) -> Any:
        """Return the collator of streams, with the options of the arguments."""
        return StreamCollator(model, **_collator_options(args))

    def get_default_loss(self, model: Any) -> nn.Module:
        """Return the paper's loss, or the part of it that model and data allow."""
        loss: nn.Module = EvidenceContrastiveLoss(model)
        if getattr(self.data_collator, "answers", False) and _has_answers(self.train_dataset):
            try:
                loss = CombinedLoss(model)
            except CheckpointError as error:
                logger.warning("The memory loss is left out, as the base model's head is not at hand: %s", error)
        logger.info("No loss was passed, so %s is used.", type(loss).__name__)
        return loss

    def get_batch_sampler(self, dataset: Any, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        """Return the sampler under a token budget if the arguments ask for it."""
        budget = getattr(self.args, "max_batch_tokens", None)
        if budget is None or not hasattr(dataset, "__len__"):
            return super().get_batch_sampler(dataset, batch_size, *args, **kwargs)
        collator: Any = self.data_collator
        lengths = [collator.count_tokens(parse_row(row, index)) for index, row in enumerate(dataset)]
        seed = kwargs.get("seed") or 0
        return TokenBudgetBatchSampler(dataset, batch_size, lengths=lengths, max_tokens=budget, seed=seed)


def _collator_options(args: Any) -> dict[str, Any]:
    """Return what our arguments say of the collator; nothing for stock ones."""
    names = ("bptt_turns", "row_limit", "token_limit", "timestamps")
    return {name: getattr(args, name) for name in names} if isinstance(args, EvoEmbeddingTrainingArguments) else {}


def _refuse_ignored(args: Any, collator: Any) -> None:
    """Refuse training arguments that would change nothing.

    Raises:
        InputError: An argument is not for streams, or another one decides in its place.
    """
    if ignored := [name for name in ("prompts", "router_mapping") if getattr(args, name, None)]:
        raise InputError(
            f"{' and '.join(ignored)} of the training arguments has no effect on streams. Set model.prompts to "
            '{"query": ..., "document": ...}: training puts them before queries and turns, as encode_query and '
            "encode_document do."
        )
    if collator is not None:
        defaults = {field.name: field.default for field in fields(EvoEmbeddingTrainingArguments)}
        for name, value in _collator_options(args).items():
            if value not in (defaults[name], getattr(collator, name, None)):
                raise InputError(
                    f"{name}={value!r} of the training arguments has no effect beside data_collator, which has options "
                    f"of its own. Pass StreamCollator(model, {name}={value!r}), or leave data_collator out."
                )
    budget, sampler = getattr(args, "max_batch_tokens", None), args.batch_sampler
    if budget is not None and sampler != BatchSamplers.BATCH_SAMPLER:
        raise InputError(
            f"batch_sampler={sampler!r} was given with max_batch_tokens={budget}, which batches streams by length. "
            "Leave one of them out."
        )


def _read_whole_rows(args: Any, dataset: Any) -> None:
    """Let every process read rows of its own: accelerate would cut one process's batch by rows of its tensors."""
    from datasets import IterableDataset

    if not isinstance(dataset, IterableDataset):
        return
    if budget := getattr(args, "max_batch_tokens", None):
        raise InputError(
            f"max_batch_tokens={budget} was given with a streaming data set, whose rows cannot be sorted by length. "
            "Leave it out, or load the rows without streaming; token_limit bounds the memory of a forward."
        )
    if args.accelerator_config.dispatch_batches is None:
        args.accelerator_config.dispatch_batches = False


def _has_answers(dataset: Any) -> bool:
    """Tell from the first row whether rows carry answers."""
    for row in dataset or ():
        return any(question.answer is not None for question in parse_row(row).questions)
    return False
