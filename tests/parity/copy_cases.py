"""Copy a few reference cases of every operation into ``data``: ``python tests/parity/copy_cases.py REFERENCE``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

NAMES = (
    "build_five",
    "build_cap_not_multiple",
    "build_other_end_id",
    "encode_no_memory",
    "encode_memory_5",
    "encode_native_ignores_memory",
    "messages_odd_count",
    "messages_system_first",
    "messages_native",
    "retrieve_short",
    "retrieve_native",
    "retrieve_overflow_odd_cap",
    "retrieve_count_mismatch",
    "rerank",
    "generate_short",
    "generate_no_history",
    "generate_raw_short",
    "loss_aligned",
    "loss_all_evidence",
    "loss_evidence_out_of_range",
    "loss_no_evidence",
    "loss_one_turn",
    "loss_overflow",
    "loss_small_target",
    "loss_turns_mismatch",
)
# Of the loss cases only what the tests compare: the losses and their gradients.
OF_LOSSES = ("total_loss", "lm_loss", "contrastive_loss", "grad.")
FOLDERS = ("checkpoint", "base")


def is_compared(case: str, tensor: str) -> bool:
    """Whether a test reads this tensor of this case."""
    return case in NAMES and (not case.startswith("loss_") or tensor.startswith(OF_LOSSES))


def copy_cases(reference: Path, data: Path) -> None:
    """Copy checkpoints, tokenizer, and the named cases with their tensors."""
    shutil.copytree(reference / "tokenizer", data / "tokenizer", dirs_exist_ok=True, copy_function=shutil.copyfile)
    for kind in ("qwen3", "qwen35"):
        for folder in FOLDERS:
            source, target = reference / kind / folder, data / kind / folder
            shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        facts = json.loads((reference / kind / "cases.json").read_text(encoding="utf-8"))
        facts["cases"] = [case for case in facts["cases"] if case["name"] in NAMES]
        for case in facts["cases"]:
            wanted = case["expected_tensors"]
            case["expected_tensors"] = {key: place for key, place in wanted.items() if is_compared(case["name"], key)}
        text = json.dumps(facts, ensure_ascii=False, indent=None, separators=(",", ":"))
        (data / kind / "cases.json").write_text(text + "\n", encoding="utf-8")
        tensors = load_file(reference / kind / "expected.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if is_compared(*name.split("/", 1))}
        save_file(kept, data / kind / "expected.safetensors")


if __name__ == "__main__":
    copy_cases(Path(sys.argv[1]), Path(__file__).parent / "data")
