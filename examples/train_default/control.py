"""The control of a run: the same base, rows, steps and loss, no memory: ``python control.py OUTPUT --sgd FILE``.

What a fine-tuned static model learns from the same data is not the memory's doing; ``evaluate.py --control OUTPUT``
puts it beside the memory. Under ``torchrun`` each process takes its part of a step's rows, as a run's processes do.
Writes OUTPUT, a sentence-transformers model.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from peft import LoraConfig
from rows import Row
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor
from train import Recipe, add_recipe_options, recipe_of, rows_of, without_dropout

from evoemb.default_model.base import base_model
from evoemb.losses.infonce import evidence_infonce

TARGETS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
"""What the memory's adapters change, in the layers that read the memory."""

BATCH = 16
"""Texts of like length that run together, so that little of a batch is padding."""


def main() -> None:
    """Read the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_options(parser)
    told = parser.parse_args()
    recipe = recipe_of(told)
    processes, number = join_processes()
    torch.manual_seed(told.seed)
    model = adapted_base(recipe)
    train(model, rows_of(recipe, told.seed, told.sgd, told.babi)[number::processes], recipe)
    if number == 0:
        model[0].model = model[0].model.merge_and_unload()
        model.save_pretrained(str(told.output), create_model_card=False)
    if processes > 1:
        torch.distributed.destroy_process_group()


def join_processes() -> tuple[int, int]:
    """Meet the other processes of ``torchrun``, where there are any: how many they are, and which this one is."""
    if not torch.distributed.is_torchelastic_launched():
        return 1, 0
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_world_size(), torch.distributed.get_rank()


def adapted_base(recipe: Recipe) -> SentenceTransformer:
    """Give the frozen base with adapters on as many top layers, of the same rank, as the memory has."""
    from peft import get_peft_model

    model = without_dropout(SentenceTransformer(base_model(), device="cuda" if torch.cuda.is_available() else "cpu"))
    backbone = model[0].model
    layers = backbone.config.num_hidden_layers
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=list(TARGETS),
        layers_to_transform=list(range(layers - recipe.memory_layers, layers)),
        layers_pattern="layer",
    )
    model[0].model = get_peft_model(backbone, config)
    return model


def train(model: SentenceTransformer, rows: Sequence[Row], recipe: Recipe) -> None:
    """Take ``recipe.steps`` steps of ``recipe.streams`` rows with the run's learning rate and clipping.

    Processes that met start from equal weights and step by the mean of their gradients, so that they stay equal.
    """
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe))
    model.train()
    for step in range(recipe.steps):
        batch = rows[step * recipe.streams : (step + 1) * recipe.streams]
        losses = [row_loss(model, row, recipe) for row in batch]
        loss = torch.stack(losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)


def average_gradients(weights: Sequence[Tensor]) -> None:
    """Give each weight the mean of its gradients over the processes that met."""
    if not torch.distributed.is_initialized():
        return
    for one in weights:
        if one.grad is not None:
            torch.distributed.all_reduce(one.grad)
            one.grad /= torch.distributed.get_world_size()


def rate(step: int, recipe: Recipe) -> float:
    """Share of the learning rate: a linear start, then half a cosine, or constant."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule != "cosine":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps))


def row_loss(model: SentenceTransformer, row: Row, recipe: Recipe) -> Tensor:
    """Give the contrastive loss over the turns seen, and what holds turns and foreign questions to the base."""
    texts = [*row["turns"], *row["query"]]
    embeddings = embed(model, texts)
    turns, queries = embeddings[: len(row["turns"])], embeddings[len(row["turns"]) :]
    places = torch.arange(len(turns), device=turns.device)
    seen = places < torch.tensor(row["asked_at"], device=turns.device)[:, None]
    positive = torch.zeros_like(seen)
    for number, evidence in enumerate(row["evidence"]):
        positive[number, evidence] = True
    scored = positive.any(-1)
    each = evidence_infonce(queries @ turns.T / recipe.temperature, positive, seen & ~positive, length_weight=False)
    loss = each[scored].sum() / scored.sum().clamp(min=1)
    with torch.no_grad(), model[0].model.disable_adapter():
        held = torch.cat(
            [torch.randperm(len(turns))[: max(1, len(turns) // 4)], len(turns) + (~scored).nonzero()[:, 0]]
        )
        base = embed(model, [texts[at] for at in held])
    far = 1 - (embeddings[held] * base).sum(-1)
    foreign = held >= len(turns)
    loss = loss + recipe.drift_weight * far[~foreign].mean()
    return loss + recipe.foreign_weight * far[foreign].mean() if bool(foreign.any()) else loss


def embed(model: SentenceTransformer, texts: Sequence[str]) -> Tensor:
    """Embed with gradients, ``(N, D)``, unit length; equal texts are run once, each beside those of its length."""
    distinct = sorted(dict.fromkeys(texts), key=len)
    found = []
    for begin in range(0, len(distinct), BATCH):
        features = batch_to_device(model.preprocess(distinct[begin : begin + BATCH]), model.device)
        found.append(F.normalize(model(features)["sentence_embedding"].float(), dim=-1))
    number = {text: at for at, text in enumerate(distinct)}
    return torch.cat(found)[[number[text] for text in texts]]


if __name__ == "__main__":
    main()
