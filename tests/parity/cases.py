"""Reading the reference: inputs, expected tensors, and the checkpoint they were made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from evoemb import EvoEmbedding, load_upstream

SMALL = Path(__file__).parent / "data"
WHOLE = Path(__file__).parents[3] / "shared" / "reference"
KINDS = ("qwen3", "qwen35")

# Replays on other kernels and library versions differ by at most a tenth of these; wrong variants by 0.27 and more.
TOLERANCE = {"latents": 3e-4, "embeddings": 2e-5, "unnormalized": 3e-4, "scores": 3e-4, "losses": 1e-4, "logits": 3e-4}


@dataclass(frozen=True)
class Reference:
    """One kind of backbone in one reference folder."""

    root: Path
    kind: str

    @property
    def folder(self) -> Path:
        return self.root / self.kind

    @property
    def facts(self) -> dict[str, Any]:
        return _facts(self)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return _tensors(self)

    def load(self, *, im_end: int | None = None, end_of_text: int | None = None, **choices: Any) -> EvoEmbedding:
        ids = self.facts["ids"]
        return load_upstream(
            self.folder / "checkpoint",
            base_model=self.folder / "base",
            tokenizer=self.root / "tokenizer",
            token_ids={
                "end_of_text": end_of_text or ids["eot"],
                "im_end": im_end or ids["im_end"],
                "user": ids["user"],
            },
            dtype="float32",
            device="cpu",
            **choices,
        )


@dataclass(frozen=True)
class Case:
    """One replayed call of the paper's code."""

    reference: Reference
    name: str
    path: str
    inputs: dict[str, Any]
    expected_tensors: dict[str, Any]
    expected_values: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{'small' if self.reference.root == SMALL else 'whole'}-{self.reference.kind}-{self.name}"

    @property
    def choices(self) -> dict[str, Any]:
        """Arguments of ``load_upstream`` that this case differs in."""
        inputs, usual = self.inputs, self.reference.facts["ids"]
        ids = inputs.get("ids", usual)
        found = {"capacity_latents": inputs.get("buffer_capacity"), "segment_tokens": inputs.get("chunk_target_tokens")}
        found |= {"segment_turns": inputs.get("chunk_max_turns")}
        if ids["im_end"] != usual["im_end"]:
            found["im_end"] = ids["im_end"]
        if (end := inputs.get("end_of_text_id", usual["eot"])) != usual["eot"]:
            found["end_of_text"] = end
        return {name: value for name, value in found.items() if value is not None}

    def expected(self, name: str) -> torch.Tensor | None:
        """Give an expected tensor; None where the paper's code returns nothing."""
        entry = self.expected_tensors[name]
        return None if entry is None else self.reference.tensors[entry["tensor"]]

    def tensor(self, key: str) -> torch.Tensor:
        """Give a tensor that the inputs name."""
        return self.reference.tensors[key]


def roots() -> list[Path]:
    """The folders there are; the whole reference lies beside the repository on developers' machines only."""
    return [root for root in (SMALL, WHOLE) if (root / KINDS[0] / "cases.json").is_file()]


def cases_of(root: Path) -> list[Case]:
    names = ("name", "path", "inputs", "expected_tensors", "expected_values")
    references = [Reference(root, kind) for kind in KINDS]
    return [Case(one, *(case[name] for name in names)) for one in references for case in one.facts["cases"]]


@lru_cache
def _facts(reference: Reference) -> dict[str, Any]:
    return json.loads((reference.folder / "cases.json").read_text(encoding="utf-8"))


@lru_cache
def _tensors(reference: Reference) -> dict[str, torch.Tensor]:
    return load_file(reference.folder / "expected.safetensors")
