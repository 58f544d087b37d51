"""Weights of a checkpoint, one file or sharded, in a folder or on the Hub, read one tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from sentence_transformers.util import load_file_path
from torch import Tensor

from evoemb._errors import CheckpointError

INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
_HUB_ARGUMENTS = ("token", "cache_folder", "revision", "local_files_only")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, or a repository on the Hub with what it takes to reach it.

    Args:
        name: Folder or Hub id.
        hub: ``token``, ``cache_folder``, ``revision`` and ``local_files_only``, as sentence-transformers names them.
        subfolder: Folder inside.
    """

    name: str
    hub: dict[str, Any] = field(default_factory=dict)
    subfolder: str = ""

    @classmethod
    def of_hub_kwargs(cls, name: str, kwargs: dict[str, Any], subfolder: str = "") -> Source:
        """Pick the Hub arguments out of those that sentence-transformers passes around."""
        return cls(name, {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}, subfolder)

    def path(self, filename: str) -> Path | None:
        """Return the local path of a file, downloaded if it lies on the Hub; None if there is no such file."""
        found = load_file_path(self.name, filename, subfolder=self.subfolder, **self.hub)
        return None if found is None else Path(found)

    def json(self, filename: str) -> dict[str, Any] | None:
        """Read a JSON object; None if there is no such file.

        Raises:
            CheckpointError: The file holds no JSON object.
        """
        path = self.path(filename)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{filename} of {self.name} is no JSON: {error}. Download it again.") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{filename} of {self.name} holds a {type(content).__name__}, expected an object.")
        return content


class TensorFiles:
    """The tensors of a checkpoint by name; shapes are read from the headers, data only when asked for.

    Args:
        source: Where ``model.safetensors``, or its index and shards, lie.

    Raises:
        CheckpointError: There are no weights, a shard is missing, or a file is damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self._paths():
            self._read_header(path)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return self._shapes

    @property
    def paths(self) -> list[Path]:
        """The files, each once."""
        return list(dict.fromkeys(self._files.values()))

    def names_in(self, path: Path) -> list[str]:
        """Name the tensors of one file."""
        return [name for name, file in self._files.items() if file == path]

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            CheckpointError: There is none of that name.
        """
        if name not in self._files:
            raise CheckpointError(f"{self.source.name} holds no tensor {name}. Check the folder, or load another one.")
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def _paths(self) -> list[Path]:
        index = self.source.json(INDEX_FILE)
        if index is None:
            single = self.source.path(WEIGHTS_FILE)
            if single is None:
                raise CheckpointError(
                    f"{self.source.name} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}. Name a folder or Hub id with "
                    "safetensors weights; offline, they must be in the cache already."
                )
            return [single]
        found = []
        for shard in sorted(set(index.get("weight_map", {}).values())):
            path = self.source.path(shard)
            if path is None:
                raise CheckpointError(
                    f"{self.source.name} lacks the shard {shard} that its index names. Download the checkpoint again."
                )
            found.append(path)
        return found

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    self._files[name] = path
                    self._shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}. Download it again.") from error
