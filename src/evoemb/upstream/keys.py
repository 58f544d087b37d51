"""Where each tensor of a released checkpoint goes, and a report of what fits and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evoemb._errors import CheckpointError
from evoemb.modules.adapters import MEMORY_ADAPTER, RETRIEVER_ADAPTER
from evoemb.modules.language_head import NATIVE_PREFIX

# PEFT's wrapper around the causal language model, as the paper's code saves it.
_BASE = "model.base_model.model."
_BACKBONE = f"{_BASE}model."
_HEAD = f"{_BASE}lm_head."
_ADAPTERS = {"memory_generator": MEMORY_ADAPTER, "retriever": RETRIEVER_ADAPTER}
_PROJECTIONS = ("latent_to_mem", "mem_to_latent", "mem_to_emb")
MEMORY_QUERIES = "memory_queries"
LAST_PROJECTION = "mem_to_emb.2.weight"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What became of the keys of a checkpoint.

    Args:
        mapped: Checkpoint key to the name in the model.
        lazy: Keys that are read when they are first needed: the native embedding model, an untied language head.
        unused: Keys with no place in the model.
        missing: Names in the model that no key fills.
    """

    mapped: dict[str, str]
    lazy: list[str]
    unused: list[str]
    missing: list[str]

    def lines(self, *, every: bool = False) -> list[str]:
        """Say it in lines of text: the counts, then the unused and missing keys; with ``every``, all keys."""
        counts = (
            f"{len(self.mapped)} keys mapped, {len(self.lazy)} kept for generate and native, "
            f"{len(self.unused)} unused, {len(self.missing)} missing"
        )
        lines = [counts, *(f"unused: {key}" for key in self.unused), *(f"missing: {key}" for key in self.missing)]
        if every:
            lines += [f"mapped: {key} -> {name}" for key, name in self.mapped.items()]
            lines += [f"kept: {key}" for key in self.lazy]
        return lines


def target_of(key: str) -> str | None:
    """Return the name that a checkpoint key has in the stack (``transformer.``, ``reader.`` or ``queue.`` in front).

    None for keys that go nowhere.
    """
    if key == MEMORY_QUERIES:
        return f"reader.{MEMORY_QUERIES}"
    first, _, rest = key.partition(".")
    if first in _PROJECTIONS:
        # Single layers are saved as the first of a sequence, with an activation behind it or not.
        return f"queue.{key}" if first == "mem_to_emb" else f"queue.{first}.{rest.removeprefix('0.')}"
    if not key.startswith(_BACKBONE):
        return None
    name = key.removeprefix(_BACKBONE).replace(".base_layer.", ".")
    for theirs, ours in _ADAPTERS.items():
        for part in ("lora_A", "lora_B"):
            name = name.replace(f".{part}.{theirs}.", f".{part}.{ours}.")
    return f"transformer.{name}"


def is_lazy(key: str) -> bool:
    """Tell keys that are read only when they are needed."""
    return key.startswith((NATIVE_PREFIX, _HEAD))


def has_head(shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a checkpoint holds a language head of its own, so that the token embeddings are not the head."""
    return f"{_HEAD}weight" in shapes


def match(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str) -> KeyReport:
    """Match a checkpoint's keys with the tensors of a stack.

    Args:
        found: Shapes by checkpoint key.
        expected: Shapes by name in the stack.
        source: Name of the checkpoint, for messages.

    Raises:
        CheckpointError: A shape differs.
    """
    mapped: dict[str, str] = {}
    unused: list[str] = []
    for key, shape in found.items():
        name = target_of(key)
        if name is None or name not in expected:
            if not is_lazy(key):
                unused.append(key)
            continue
        mapped[key] = name
        if _squeezed(shape, expected[name]) != expected[name]:
            raise CheckpointError(
                f"{key} of {source} has the shape {shape}, but the base model's configuration gives {expected[name]}. "
                "Pass the base model this checkpoint was trained with: load_upstream(..., base_model=...)."
            )
    missing = sorted(set(expected) - set(mapped.values()))
    return KeyReport(mapped, [key for key in found if is_lazy(key)], unused, missing)


def _squeezed(shape: Shape, expected: Shape) -> Shape:
    """Drop a leading 1: the memory queries are saved as a batch of one."""
    return shape[1:] if len(shape) == len(expected) + 1 and shape[0] == 1 else shape
