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
    "loss_one_turn",
    "loss_small_target",
)
FOLDERS = ("checkpoint", "base")


def copy_cases(reference: Path, data: Path) -> None:
    """Copy checkpoints, tokenizer, and the named cases with their tensors."""
    shutil.copytree(reference / "tokenizer", data / "tokenizer", dirs_exist_ok=True, copy_function=shutil.copyfile)
    for kind in ("qwen3", "qwen35"):
        for folder in FOLDERS:
            source, target = reference / kind / folder, data / kind / folder
            shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        facts = json.loads((reference / kind / "cases.json").read_text(encoding="utf-8"))
        facts["cases"] = [case for case in facts["cases"] if case["name"] in NAMES]
        text = json.dumps(facts, ensure_ascii=False, indent=None, separators=(",", ":"))
        (data / kind / "cases.json").write_text(text + "\n", encoding="utf-8")
        tensors = load_file(reference / kind / "expected.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if name.split("/")[0] in NAMES}
        save_file(kept, data / kind / "expected.safetensors")


if __name__ == "__main__":
    copy_cases(Path(sys.argv[1]), Path(__file__).parent / "data")
