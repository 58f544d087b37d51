"""Put a trained reranker into the package: ``python ship_reranker.py OUTPUT/score [OUTPUT2/score ...]``.

Takes what ``train_reranker.py`` wrote; of several runs it takes the mean of their weights. Writes
``src/evoemb/default_model/weights/reranker`` in float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from evoemb.default_model.packaged import SCORE_FOLDER
from evoemb.modules import TimeOrderedScore

TARGET = Path(__file__).resolve().parents[2] / "src" / "evoemb" / "default_model" / "weights" / SCORE_FOLDER


def main() -> None:
    """Read the command line, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="+", help="folders of trained scores")
    told = parser.parse_args()
    ship([TimeOrderedScore.load(str(folder)) for folder in told.scores], TARGET)
    print(f"wrote {TARGET}, {sum(path.stat().st_size for path in TARGET.iterdir()):,} bytes")


def ship(trained: list[TimeOrderedScore], target: Path) -> None:
    """Write the mean of several runs' weights to ``target`` in float16."""
    first, *_ = trained
    states = [module.state_dict() for module in trained]
    first.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    target.mkdir(parents=True, exist_ok=True)
    first.half().save(str(target))
    for path in target.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone


if __name__ == "__main__":
    main()
