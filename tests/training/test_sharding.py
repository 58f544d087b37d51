"""FSDP trains what one process trains, and what it cannot do is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from evoemb import EvoEmbedding, InputError
from evoemb.training.sharding import check_options, gathered, is_sharded
from training.streams import rows

WORKER = Path(__file__).with_name("sharded_worker.py")


def run_worker(folder: Path, bases: list[Path], processes: int) -> dict[str, dict[str, Any]]:
    """Train in one process without FSDP, or in several with it, and give what came out."""
    folder.mkdir()
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(WORKER), str(folder), *map(str, bases)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_two_sharded_processes_equal_one_from_the_first_step_to_the_saved_model(base_folder, tmp_path):
    bases = [base_folder("qwen3"), base_folder("bert")]
    alone, shared = (run_worker(tmp_path / str(processes), bases, processes) for processes in (1, 2))
    for name, one in alone.items():
        two = shared[name]
        assert (one["sharded"], two["sharded"]) == (False, True)
        assert (one["processes"], two["processes"]) == (1, 2)
        assert len(one["losses"]) == 4
        assert one["losses"][-1] < one["losses"][0]
        for entry in ("losses", "eval_loss", "seen"):
            # Two halves of a batch are summed in another order.
            assert two[entry] == pytest.approx(one[entry], rel=1e-4, abs=1e-5), (name, entry)
        first, second = (EvoEmbedding(str(tmp_path / str(n) / name / "final"), device="cpu") for n in (1, 2))
        assert type(second) is EvoEmbedding
        for (key, expected), (_, found) in zip(first.named_parameters(), second.named_parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        turns = rows(1)[0]["turns"]
        expected, found = (model.encode(turns, stateful=True, convert_to_tensor=True) for model in (first, second))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # Taken up after its second step, a sharded run goes on to the numbers of the one that was not interrupted.
    assert shared["resumed"]["losses"] == pytest.approx(shared["decoder"]["losses"], abs=1e-6)
    assert shared["resumed"]["seen"][-1] == pytest.approx(shared["decoder"]["seen"][-1], abs=1e-6)
    # The encoder's run was told to end with its best step, the second.
    folder = tmp_path / "2" / "encoder"
    best, final = (EvoEmbedding(str(folder / part), device="cpu") for part in ("checkpoint-2", "final"))
    for (key, expected), (_, found) in zip(best.named_parameters(), final.named_parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fsdp_version": 1}, "FSDP version 1 was given, but only FSDP2"),
        ({"transformer_cls_names_to_wrap": ["BertLayer"]}, "transformer_layer_cls_to_wrap=.*as often as it has turns"),
        ({"min_num_params": 1000}, "min_num_params=1000"),
        ({"activation_checkpointing": True}, "lose the adapter in use; gradient_checkpointing=True"),
        ({"cpu_ram_efficient_loading": True}, "every process loads the model by itself"),
    ],
)
def test_what_cannot_be_sharded_is_told(options, told, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # the plugin sets it
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    check_options(plugin)
    for name, value in options.items():
        setattr(plugin, name, value)
    with pytest.raises(InputError, match=told):
        check_options(plugin)


def test_sharding_that_accelerate_leaves_out_is_told():
    with pytest.raises(InputError, match=r"shards on accelerators only.*Leave fsdp out on a CPU"):
        check_options(None)


def test_a_model_that_is_not_sharded_is_left_alone(models):
    model = models("bert", "attention")
    assert not is_sharded(model)
    with gathered(model):
        assert not is_sharded(model)
