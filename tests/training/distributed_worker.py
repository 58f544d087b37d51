"""Train a few steps, alone or under torchrun on gloo, and write down what came out. Started by test_trainer.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from evoemb.losses import CachedStreamLoss, EvidenceContrastiveLoss
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments
from tiny_models import make_model
from training.streams import rows


def sums_of(model: nn.Module) -> dict[str, float]:
    """The sum of every trained parameter."""
    return {name: float(p.detach().double().sum()) for name, p in model.named_parameters() if p.requires_grad}


def trained(folder: Path, base: Path, reader: str, *, in_batch: bool, cached: bool) -> dict[str, Any]:
    """Four steps on four streams each; ``in_batch`` takes the turns of all four as negatives.

    ``cached`` runs them a few at a time, as many in one process as in none of the others.
    """
    model = make_model(base, reader, trained=False, lora_dropout=0.0)
    model[0].model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    data = rows(4)
    data[2] = {**data[2], "evidence": []}  # a stream without a gradient of its own
    args = EvoEmbeddingTrainingArguments(
        str(folder / "run"),
        max_steps=4,
        per_device_train_batch_size=4 // processes,  # all four streams a step, whichever process has which
        learning_rate=1e-3,
        optim="sgd",
        max_grad_norm=0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
    )
    loss: Any = EvidenceContrastiveLoss(model, in_batch_negatives=in_batch, gather_across_devices=in_batch)
    if cached:
        loss = CachedStreamLoss(model, loss, streams_per_step=1 + int(os.environ.get("RANK", "0")))
    trainer = EvoEmbeddingTrainer(model, args, data, loss=loss)
    start = sums_of(model)
    trainer.train()
    return {
        "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "start": start,
        "sums": sums_of(model),
    }


def main(folder: Path, *bases: str) -> None:
    """Train on every base; the first process writes the results."""
    results = [
        trained(folder, Path(base), reader, in_batch=in_batch, cached=cached)
        for base, reader in zip(bases[::2], bases[1::2], strict=True)
        for in_batch, cached in ((False, False), (True, False), (True, True))
    ]
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / "result.json").write_text(json.dumps(results), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
