"""A training run as one file: model, data, loss, and arguments of the trainer."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from evoemb._errors import InputError
from evoemb.default_model.base import base_model
from evoemb.losses import CachedStreamLoss, CombinedLoss, EvidenceContrastiveLoss, MemoryLanguageModelingLoss
from evoemb.model import EvoEmbedding
from evoemb.training.arguments import EvoEmbeddingTrainingArguments, paper_arguments
from evoemb.training.trainer import EvoEmbeddingTrainer

LOSSES = ("auto", "evidence_contrastive", "memory_language_modeling", "paper")
RECIPES = ("paper",)
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML as people write it: 5e-5 is a number, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass
class TrainingConfig:
    """What ``evoemb train`` reads.

    Args:
        train: Rows to train on: a file, the id of a data set on the Hub, or a dictionary of them by name.
        output: Folder for checkpoints; the trained model goes to its ``final``.
        model: Folder or Hub id to start from; None takes the default model's base, with a fresh memory.
        eval: Rows to evaluate on, in the same forms.
        memory: Choices of a fresh memory, fields of :class:`evoemb.modules.config.MemoryConfig`.
        model_kwargs: How the base is loaded, such as ``{"dtype": "bfloat16"}``.
        device: Where a run without accelerate's launcher trains.
        loss: ``"auto"``, the paper's as far as model and data allow; ``"paper"``, both of its losses, or an error; or
            one of the two.
        loss_kwargs: Arguments of the contrastive loss.
        cached_streams: Streams alive at a time under GradCache; None trains without it.
        recipe: ``"paper"`` starts from the paper's arguments; None from the trainer's.
        training: Arguments of :class:`EvoEmbeddingTrainingArguments`.
        resume: Checkpoint folder to go on from, or True for the newest in ``output``.
    """

    train: Any
    output: str
    model: str | None = None
    eval: Any = None
    memory: dict[str, Any] = field(default_factory=dict)
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    loss: str = "auto"
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    cached_streams: int | None = None
    recipe: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    resume: str | bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is unknown before anything is loaded."""
        if self.loss not in LOSSES:
            raise InputError(f"loss: {self.loss!r} was given. Use one of {', '.join(LOSSES)}.")
        if self.recipe is not None and self.recipe not in RECIPES:
            raise InputError(f"recipe: {self.recipe!r} was given. Use {', '.join(RECIPES)}, or leave it out.")
        known = {item.name for item in fields(EvoEmbeddingTrainingArguments)}
        _refuse_unknown(self.training, known | set(_CHECKPOINTING), "training")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read a configuration from plain values.

        Raises:
            InputError: A name is unknown, or ``train`` or ``output`` is missing.
        """
        _refuse_unknown(values, {item.name for item in fields(cls)}, "the configuration")
        missing = [name for name in ("train", "output") if not values.get(name)]
        if missing:
            raise InputError(f"The configuration has no {' and no '.join(missing)}. Name the data and a folder.")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> TrainingConfig:
        """Read a configuration from a YAML file, with ``changes`` in place of its values.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: The file is no YAML mapping, or as in :meth:`from_mapping`.
        """
        try:
            values = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no YAML: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"{path} holds {type(values).__name__}, expected names and values such as `train: file`.")
        for name, value in (changes or {}).items():
            nested = isinstance(value, Mapping) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if nested else value
        return cls.from_mapping(values)

    def arguments(self) -> EvoEmbeddingTrainingArguments:
        """Return the trainer's arguments."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        chosen = {**(paper_arguments(processes) if self.recipe == "paper" else {}), **self.training}
        # Named anew in newer transformers, where the old name warns.
        given = [chosen.pop(name) for name in _CHECKPOINTING if name in chosen]
        if given:
            known = {item.name for item in dataclasses.fields(EvoEmbeddingTrainingArguments)}
            chosen[next(name for name in _CHECKPOINTING if name in known)] = given[-1]
        try:
            return EvoEmbeddingTrainingArguments(output_dir=self.output, **{"report_to": "none", **chosen})
        except (TypeError, ValueError) as error:
            raise InputError(f"training: {error}") from error

    def build_loss(self, model: EvoEmbedding) -> nn.Module | None:
        """Return the loss; None leaves the choice to the trainer."""
        contrastive = EvidenceContrastiveLoss(model, **self.loss_kwargs)
        if self.loss == "memory_language_modeling":
            loss: Any = MemoryLanguageModelingLoss(model)
        elif self.loss == "paper":
            loss = CombinedLoss(model, [MemoryLanguageModelingLoss(model), contrastive])
        elif self.loss == "auto" and not self.loss_kwargs and self.cached_streams is None:
            return None
        else:
            loss = contrastive
        return loss if self.cached_streams is None else CachedStreamLoss(model, loss, self.cached_streams)


def train(config: TrainingConfig) -> EvoEmbeddingTrainer:
    """Run a training and save the trained model to ``<output>/final``.

    Raises:
        InputError: Something in the configuration or the data does not fit.
    """
    arguments = config.arguments()
    loaded: dict[str, Any] = {"memory_kwargs": config.memory, "model_kwargs": config.model_kwargs}
    model = EvoEmbedding(config.model or base_model(), device=config.device or str(arguments.device), **loaded)
    trainer = EvoEmbeddingTrainer(model, arguments, config.train, config.eval, loss=config.build_loss(model))
    trainer.train(resume_from_checkpoint=config.resume)
    trainer.save_model(str(Path(config.output) / "final"))
    return trainer


def _refuse_unknown(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{name!r} in {where} is unknown.{hint}")
