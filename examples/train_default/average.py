"""Average the memories of several runs: ``python average.py OUTPUT RUN1/model RUN2/model ...``, stages of one training.

Stages that go on from each other end near each other, each better at something; their mean keeps most of it (model
soups, Wortsman et al., arXiv 2203.05482). Writes OUTPUT/model, and the choices and log of the last run named beside it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from evoemb import EvoEmbedding


def main() -> None:
    """Read the command line, average, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", type=Path, nargs="+", help="folders of trained models, of one shape and base")
    told = parser.parse_args()
    average(told.models).save_pretrained(str(told.output / "model"))
    for name in ("config.json", "log.json"):
        shutil.copy(told.models[-1].parent / name, told.output / name)
    print(f"wrote {told.output / 'model'}, the mean of {len(told.models)} models")


def average(folders: Sequence[Path]) -> EvoEmbedding:
    """Give the first model with the mean of all models' weights; what is equal in all, as the base is, stays as it is.

    Raises:
        SystemExit: The models are not of one shape.
    """
    model, *others = (EvoEmbedding(str(folder), device="cpu") for folder in folders)
    theirs = [other.state_dict() for other in others]
    for name, tensor in model.state_dict().items():
        if any(name not in one or one[name].shape != tensor.shape for one in theirs):
            raise SystemExit(f"{name} is not in all models, or not of one shape: {', '.join(map(str, folders))}.")
        if not all(torch.equal(one[name], tensor) for one in theirs):
            tensor.copy_(torch.stack([tensor, *(one[name] for one in theirs)]).mean(0))
    return model


if __name__ == "__main__":
    main()
