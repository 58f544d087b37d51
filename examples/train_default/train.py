"""Train the default model: ``python train.py OUTPUT --sgd sgd_ku.train.jsonl.gz``.

Writes OUTPUT/model (adapters and memory with the base model), OUTPUT/log.json (loss curve) and OUTPUT/config.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from attention import TargetCollator
from datasets import Dataset
from generator.streams import Shape
from objective import DefaultModelLoss
from rows import Row, make_rows
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb.default_model.base import base_model
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments

Model = TypeVar("Model", bound=SentenceTransformer)


@dataclass(frozen=True)
class Recipe:
    """Every choice of a run; ``--config`` reads them from a JSON file, ``--set name=value`` changes one."""

    steps: int = 600
    streams: int = 2
    learning_rate: float = 1e-3
    age_learning_rate: float = 5e-3
    warmup_steps: int = 30
    schedule: str = "cosine"
    temperature: float = 0.05
    foreign_weight: float = 1.0
    drift_weight: float = 0.5
    mix: float = 0.3
    attention_weight: float = 0.3
    queries: int = 18
    foreign: int = 2
    min_turns: int = 10
    max_turns: int = 36
    max_leading: int = 8
    sgd_share: float = 0.4
    sgd_turns: int = 28
    join_share: float = 0.0
    context: int = 8
    babi_share: float = 0.0
    lead: int = 80
    lead_share: float = 0.35
    values_share: float = 0.0
    num_latents: int = 4
    capacity_latents: int = 256
    memory_layers: int = 3
    lora_rank: int = 32
    gate_bias: float = -1.0
    adapted_reading: bool = True
    start_strength: float = 1.0
    bf16: bool = False


def main() -> None:
    """Read the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_options(parser)
    parser.add_argument("--start", help="a model of an earlier run to go on from; None begins with an untrained memory")
    told = parser.parse_args()
    train(recipe_of(told), told.output, told.seed, told.sgd, told.babi, told.start)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run and its control share."""
    parser.add_argument("output", type=Path)
    parser.add_argument("--sgd", help="SGD conversations, training half, in evoemb's stream format")
    parser.add_argument("--babi", help="bAbI stories, training half, in evoemb's stream format")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def recipe_of(told: argparse.Namespace) -> Recipe:
    """Give the recipe of ``--config`` with the changes of ``--set``."""
    chosen: dict[str, Any] = json.loads(told.config.read_text()) if told.config else {}
    kinds = {field.name: type(field.default) for field in fields(Recipe)}
    for change in told.set:
        name, _, value = change.partition("=")
        chosen[name] = value == "true" if kinds[name] is bool else kinds[name](value)
    return Recipe(**chosen)


def train(
    recipe: Recipe,
    output: Path,
    seed: int,
    sgd_file: str | None,
    babi_file: str | None = None,
    start: str | None = None,
) -> EvoEmbedding:
    """Train one model and write it with its log."""
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = without_dropout(EvoEmbedding(start) if start else fresh_model(recipe))
    weaken(model, recipe.start_strength)
    rows = rows_of(recipe, seed, sgd_file, babi_file)
    loss = DefaultModelLoss(
        model,
        temperature=recipe.temperature,
        foreign_weight=recipe.foreign_weight,
        drift_weight=recipe.drift_weight,
        mix=recipe.mix,
        attention_weight=recipe.attention_weight,
    )
    cuda = torch.cuda.is_available()
    arguments = EvoEmbeddingTrainingArguments(
        output_dir=str(output / "trainer"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.streams,
        learning_rate=recipe.learning_rate,
        learning_rate_mapping={r"reader\.age_": recipe.age_learning_rate},
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        use_cpu=not cuda,
        save_strategy="steps",
        save_steps=100,
        save_only_model=True,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    begun = time.perf_counter()
    collator = TargetCollator(model, row_limit=24)
    # Of rows in a list the trainer keeps its own columns alone.
    data = Dataset.from_list(rows)
    trainer = EvoEmbeddingTrainer(model=model, args=arguments, train_dataset=data, loss=loss, data_collator=collator)
    trainer.train()
    seconds = round(time.perf_counter() - begun, 1)
    model.save_pretrained(str(output / "model"))
    (output / "config.json").write_text(json.dumps({"seed": seed, **asdict(recipe)}, indent=1) + "\n")
    about = {"seconds": seconds, "threads": torch.get_num_threads(), "cuda": cuda, "torch": torch.__version__}
    (output / "log.json").write_text(json.dumps({"about": about, "log": trainer.state.log_history}, indent=0) + "\n")
    return model


def rows_of(recipe: Recipe, seed: int, sgd_file: str | None, babi_file: str | None) -> list[Row]:
    """Give the rows of all steps, on all processes of ``torchrun``; a run and its control have the same."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return make_rows(
        recipe.steps * recipe.streams * processes,
        seed,
        shape=Shape(recipe.min_turns, recipe.max_turns, max_leading=recipe.max_leading),
        queries=recipe.queries,
        foreign=recipe.foreign,
        sgd_file=sgd_file,
        sgd_share=recipe.sgd_share,
        sgd_turns=recipe.sgd_turns,
        join_share=recipe.join_share,
        context=recipe.context,
        babi_file=babi_file,
        babi_share=recipe.babi_share,
        lead=recipe.lead,
        lead_share=recipe.lead_share,
        values_share=recipe.values_share,
    )


def fresh_model(recipe: Recipe) -> EvoEmbedding:
    """Give the frozen base with an untrained memory."""
    return EvoEmbedding(
        base_model(),
        memory_reader="attention",
        num_latents=recipe.num_latents,
        capacity_latents=recipe.capacity_latents,
        memory_kwargs={
            "memory_layers": recipe.memory_layers,
            "lora_rank": recipe.lora_rank,
            "lora_alpha": 2.0 * recipe.lora_rank,
            "lora_dropout": 0.0,
            "gate_bias": recipe.gate_bias,
            "adapted_reading": recipe.adapted_reading,
        },
    )


@torch.no_grad()
def weaken(model: EvoEmbedding, strength: float) -> None:
    """Leave of what every adapter adds to its layer the part ``strength``, in place.

    Far from the base a model knows its training data best; part of the way back it does better on text of other kinds
    (Wortsman et al., arXiv 2109.01903), and goes on from there.
    """
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.mul_(strength)


def without_dropout(model: Model) -> Model:
    """Switch off the base's own dropout: it is not trained, and noise in it would blur what the memory is to learn."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    transformer: Any = model[0]
    transformer.model.config.attention_probs_dropout_prob = 0.0
    return model


if __name__ == "__main__":
    main()
