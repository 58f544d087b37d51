"""Train with FSDP under torchrun on gloo, or alone without, and save what came out. Started by test_sharding.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import nn

from evoemb.losses import CachedStreamLoss, CombinedLoss, EvidenceContrastiveLoss
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments
from tiny_models import make_model
from training.streams import rows

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


def shard_on_cpu() -> None:
    """Let accelerate take gloo for one of the backends it shards on; everything behind that choice is its own."""
    before = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        PartialState(cpu=True)
        if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        before(self, *args, **kwargs)

    AcceleratorState.__init__ = init


class Reads(BaseEvaluator):
    """Use the model as evaluators do, and score its second step best."""

    primary_metric = "score"
    higher_is_better = True

    def __call__(self, model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        row = rows(1)[0]
        found = model.encode(row["turns"], stateful=True, convert_to_tensor=True)
        hits = model.retrieve(row["turns"], row["query"], top_k=1)
        return {"score": float(steps == 2), "seen": float(found[:, 0].sum()), "best": hits[0]["score"]}


def trained(folder: Path, base: Path, reader: str, *, resume: str | None = None, **changes: Any) -> dict[str, Any]:
    """Four steps on eight streams, two micro-batches of four streams a step, with everything that touches weights."""
    torch.manual_seed(0)
    model = make_model(base, reader, trained=False, lora_dropout=0.0)
    model[0].model.config.attention_probs_dropout_prob = 0.0
    model[0].model.config.tie_word_embeddings = reader == "prefix"
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    args = EvoEmbeddingTrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=4 // PROCESSES,
        per_device_eval_batch_size=4 // PROCESSES,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        adam_epsilon=1e-2,  # else rounding decides the sign of a step where there is hardly a gradient
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        fsdp=PROCESSES > 1,
        eval_on_start=True,
        **each_step,
        **changes,
    )
    loss: Any = CombinedLoss(model) if reader == "prefix" else None
    if reader != "prefix":
        contrastive = EvidenceContrastiveLoss(model, in_batch_negatives=True, gather_across_devices=True)
        # One part of the batch in the second process, two in the first.
        loss = CachedStreamLoss(model, contrastive, streams_per_step=1 + int(os.environ.get("RANK", "0")))
    trainer = EvoEmbeddingTrainer(model, args, rows(8), rows(4), loss=loss, evaluator=Reads())
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "final"))
    shards = [type(parameter).__name__ for parameter in model.parameters()]
    log = trainer.state.log_history
    return {
        "processes": PROCESSES,
        "sharded": shards.count("DTensor") == len(shards),
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "seen": [entry["eval_seen"] for entry in log if "eval_seen" in entry],
        "eval_loss": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
    }


def main(folder: Path, decoder: Path, encoder: Path) -> None:
    """Train the memory of a decoder and a whole encoder, and take the decoder's run up again."""
    if PROCESSES > 1:
        shard_on_cpu()
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_score"}
    kept = {"gradient_checkpointing": True}
    results = {
        "decoder": trained(folder / "decoder", decoder, "prefix", **kept),
        "encoder": trained(folder / "encoder", encoder, "attention", unfreeze=["."], **best),
        "resumed": trained(folder / "resumed", decoder, "prefix", resume=str(folder / "decoder/checkpoint-2"), **kept),
    }
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / "result.json").write_text(json.dumps(results), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
