"""Training learns what only a memory can know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evoemb.losses import EvidenceContrastiveLoss
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments
from training.state_tracking import make_streams, recall_at_1, tiny_model

CHANCE = 1 / 4  # eight turns about two objects
RECIPES = {
    "decoder": {"steps": 60, "learning_rate": 1e-3, "memory": {}},
    "encoder": {"steps": 90, "learning_rate": 3e-3, "memory": {}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECIPES)
def test_a_tiny_model_learns_who_has_it_now_and_who_had_it_first(kind, tmp_path: Path):
    recipe = RECIPES[kind]
    model = tiny_model(kind, tmp_path / "base", seed=0, **recipe["memory"])
    size = 16
    args = EvoEmbeddingTrainingArguments(
        str(tmp_path / "run"),
        max_steps=recipe["steps"],
        per_device_train_batch_size=size,
        learning_rate=recipe["learning_rate"],
        warmup_steps=20,
        unfreeze=["."],  # the base is random too
        row_limit=256,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    rows = make_streams(recipe["steps"] * size, seed=1, turns=8, objects=2)
    trainer = EvoEmbeddingTrainer(model, args, rows, loss=EvidenceContrastiveLoss)
    trainer.train()
    told = {text for row in rows for text in (" / ".join(row["turns"]),)}
    held_out = [row for row in make_streams(48, seed=2, turns=8, objects=2) if " / ".join(row["turns"]) not in told]
    assert len(held_out) >= 40
    assert recall_at_1(model, held_out) >= 0.95
    assert abs(recall_at_1(model, held_out, memory=False) - CHANCE) <= 0.12


def test_the_task_cannot_be_solved_from_texts():
    for stream in make_streams(50, seed=3, turns=8, objects=2):
        assert len(set(stream["turns"])) == 8
        for query, (index,) in zip(stream["query"], stream["evidence"], strict=True):
            thing = query.split()[3]
            mentions = [place for place, turn in enumerate(stream["turns"]) if turn.endswith(thing)]
            assert len(mentions) == 4
            assert index == (mentions[-1] if "now" in query else mentions[0])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
