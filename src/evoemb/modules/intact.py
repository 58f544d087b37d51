"""Whether a model's files are whole: sizes are checked before anything is built, weights and words after loading.

The libraries below fill what is missing with random numbers and read words without a vocabulary as unknown. Neither
stops a model from embedding, so evoemb asks before it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from evoemb._errors import CheckpointError
from evoemb.modules.adapters import is_adapter_parameter
from evoemb.modules.tensor_files import INDEX_FILE, WEIGHTS_FILE, Source, TensorFiles

MODULES_FILE = "modules.json"
CONFIG_FILE = "config.json"

_MAX_MODULES = 64
# Far above any model there is; a damaged or hostile file asks for 10^6 layers, and building them takes all memory.
_BOUNDS = {
    "num_hidden_layers": 1024,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**14,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**28,
    "type_vocab_size": 2**16,
}
_AGAIN = "Download the model again, or save it again with save_pretrained."
# A head that some checkpoints lack and no sentence embedding uses.
_UNUSED = ("pooler.",)


def check_sizes(source: Source) -> None:
    """Refuse a folder whose configuration asks for what no model has, before anything is built of it.

    Raises:
        CheckpointError: ``modules.json`` or ``config.json`` is no JSON of the right kind, or a size is out of bounds.
    """
    folder = _transformer_folder(source)
    path = source.path(f"{folder}{CONFIG_FILE}")
    if path is None:
        return
    config = read_object(path, source.name)
    for part in (config, config.get("text_config")):
        for name, bound in _BOUNDS.items():
            value = part.get(name) if isinstance(part, Mapping) else None
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= bound:
                raise CheckpointError(
                    f"{CONFIG_FILE} of {source.name}: {name} is {value!r:.60}, expected a whole number from 1 to "
                    f"{bound}. {_AGAIN}"
                )


def check_words(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that knows no word: its vocabulary file is missing, and every word would read as unknown.

    Raises:
        CheckpointError: It knows special tokens at most.
    """
    vocabulary = getattr(tokenizer, "get_vocab", None)
    if vocabulary is None:
        return
    known = len(set(vocabulary()) - set(tokenizer.all_special_tokens))
    if not known:
        raise CheckpointError(
            f"The tokenizer of {name} knows no words: its vocabulary (tokenizer.json, vocab.txt or the like) is "
            f"missing. {_AGAIN}"
        )


def check_whole(backbone: nn.Module, source: Source) -> None:
    """Refuse a backbone of whose weights some stood in no file and were filled with random numbers.

    Args:
        backbone: As loaded from ``source``, adapters or not.
        source: Where its safetensors weights lie; other formats are not looked at.

    Raises:
        CheckpointError: Tensors are missing; the first few are named.
    """
    at = Source(source.name, source.hub, _transformer_folder(source).rstrip("/"))
    if at.path(WEIGHTS_FILE) is None and at.path(INDEX_FILE) is None:
        return
    there: set[str] = set()
    for name in TensorFiles(at).shapes:
        parts = name.split(".")  # files may name the model's own head or class first
        there.update(".".join(parts[start:]) for start in range(min(3, len(parts))))
    tied = set(getattr(backbone, "all_tied_weights_keys", None) or ())
    wanted = [
        name.replace(".base_layer.", ".")
        for name in backbone.state_dict()
        if not is_adapter_parameter(name) and name not in tied and not name.startswith(_UNUSED)
    ]
    missing = [name for name in wanted if name not in there]
    # None found at all: the files use other names, which the library translated.
    if missing and len(missing) < len(wanted):
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise CheckpointError(
            f"The weights of {source.name} lack {len(missing)} of {len(wanted)} tensors ({listed}), which would be "
            f"random numbers. {_AGAIN}"
        )


def check_numbers(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """Refuse weights that are NaN or infinite: every embedding would be, too.

    Raises:
        CheckpointError: The first such tensor is named.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} in {where} holds NaN or infinite numbers. {_AGAIN}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, all of them finite.

    Raises:
        CheckpointError: The file is damaged, or a tensor holds NaN or infinite numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}. {_AGAIN}") from error
    check_numbers(found.items(), path)
    return found


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        CheckpointError: The file holds none.
    """
    content = _read_json(path, name)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} of {name} holds a {type(content).__name__}, expected an object. {_AGAIN}")
    return content


def _transformer_folder(source: Source) -> str:
    """Return the folder of the first module, ``""`` or with a slash at its end; modules.json is checked on the way."""
    path = source.path(MODULES_FILE)
    if path is None:
        return ""
    modules = _read_json(path, source.name)
    if not isinstance(modules, list) or not 0 < len(modules) <= _MAX_MODULES:
        given = f"{len(modules)} modules" if isinstance(modules, list) else f"a {type(modules).__name__}"
        raise CheckpointError(
            f"{MODULES_FILE} of {source.name} holds {given}, expected a list of 1 to {_MAX_MODULES} modules. {_AGAIN}"
        )
    for number, module in enumerate(modules):
        fields = module if isinstance(module, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("path", "type")):
            raise CheckpointError(
                f"{MODULES_FILE} of {source.name}, entry {number}: {module!r:.80} was found, expected an object with "
                f'"path" and "type", both strings. {_AGAIN}'
            )
    folder = str(modules[0]["path"])
    return f"{folder}/" if folder else ""


def _read_json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise CheckpointError(f"{path.name} of {name} is no JSON: {error}. {_AGAIN}") from error
