"""Building the module stack: a saved evoemb model as it is, any other text model with a fresh memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from evoemb._errors import InputError, UnsupportedBackboneError
from evoemb.modules.backbones.lookup import has_recurrent_layers, is_causal
from evoemb.modules.config import MemoryConfig
from evoemb.modules.fingerprint import fingerprint
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.stream_score import StreamScore
from evoemb.modules.time_ordered_score import TimeOrderedScore
from evoemb.state import StateSpec

logger = logging.getLogger(__name__)

# Classes that saved models name in modules.json. They are part of the installed package, so no remote code is involved.
_OWN_MODULES = {
    f"{module.__module__}.{module.__name__}": module
    for module in (StatefulTransformer, LatentMemoryQueue, StreamScore, TimeOrderedScore)
}

Modules = list[nn.Module] | OrderedDict[str, nn.Module]


def evolving_stack(modules: Modules, choices: dict[str, Any], source: str | None) -> OrderedDict[str, nn.Module]:
    """Return the stack of an evoemb model.

    Args:
        modules: Loaded modules; the first reads text.
        choices: What the caller asked of the memory (fields of :class:`MemoryConfig`); must be empty or equal to the
            saved values if the modules already have a memory.
        source: Name of the model, for messages.

    Returns:
        The modules as they are if they have a memory already. Otherwise the same modules with the first made stateful
        and a queue behind it, so that embeddings without memory stay exactly what they were.

    Raises:
        UnsupportedBackboneError: The first module is no sentence-transformers ``Transformer`` over text.
        InputError: ``choices`` contradict the saved memory.
    """
    named = list(modules.values()) if isinstance(modules, OrderedDict) else list(modules)
    first = named[0]
    if isinstance(first, StatefulTransformer):
        _check_choices(first.memory_config, choices, source)
        return OrderedDict((str(index), module) for index, module in enumerate(named))
    if not isinstance(first, Transformer) or first.module_output_name != "token_embeddings":
        raise UnsupportedBackboneError(
            f"{source or 'The model'} starts with {type(first).__name__}, which gives no token embeddings of text. "
            "evoemb needs a model whose first module is a sentence-transformers Transformer over text."
        )
    memory = MemoryConfig.for_backbone(causal=is_causal(first.model), **choices)
    stateful = StatefulTransformer.adopt(first, memory)
    stack: list[nn.Module] = [stateful, fresh_queue(stateful), *named[1:]]
    logger.warning(
        "%s has no trained memory: a fresh one was added, and until it is trained, embeddings with memory are close to "
        "those without. Train it, or load a trained evoemb model.",
        source or "The model",
    )
    return OrderedDict((str(index), module) for index, module in enumerate(stack))


def own_module(class_ref: str) -> type[nn.Module] | None:
    """Return the module class of this package that a saved model names, or None for any other name."""
    return _OWN_MODULES.get(class_ref)


def fresh_queue(transformer: StatefulTransformer, embedding_dimension: int | None = None) -> LatentMemoryQueue:
    """Return the untrained queue that fits a transformer's memory configuration."""
    memory = transformer.memory_config
    projection = transformer.reader.projection
    queue = LatentMemoryQueue(
        hidden_size=int(transformer.get_embedding_dimension()),
        embedding_dimension=embedding_dimension,
        num_latents=memory.num_latents,
        capacity_latents=memory.capacity_latents,
        projection=projection,
    )
    if projection == "read" and has_recurrent_layers(transformer.model):
        # Recurrent layers have no attention to gate; zero rows are what they do not see.
        nn.init.zeros_(queue.mem_to_latent.weight)
    return queue.to(next(transformer.model.parameters()).device)


def check_stack(modules: list[nn.Module]) -> None:
    """Refuse a stack that the recurrence cannot run through.

    Raises:
        InputError: The second module is no queue, the sizes of the first two differ, or no pooling follows.
    """
    names = " -> ".join(type(module).__name__ for module in modules)
    if len(modules) < 3 or not isinstance(modules[1], LatentMemoryQueue):
        raise InputError(
            f"The modules are {names}, expected StatefulTransformer -> LatentMemoryQueue -> Pooling -> Normalize."
        )
    if not any(isinstance(module, Pooling) for module in modules[2:]):
        raise InputError(f"The modules are {names}; a Pooling must follow LatentMemoryQueue. Add one.")
    memory, queue = modules[0].memory_config, modules[1]
    for name in ("num_latents", "capacity_latents"):
        if getattr(memory, name) != getattr(queue, name):
            raise InputError(
                f"{name} is {getattr(memory, name)} in StatefulTransformer and {getattr(queue, name)} in "
                "LatentMemoryQueue. Build both from one MemoryConfig."
            )


def spec_of(stack: nn.Sequential, model_id: str, revision: str = "") -> StateSpec:
    """Return what a state belongs to that these modules make; the names are for messages."""
    transformer: Any = stack[0]
    memory: MemoryConfig = transformer.memory_config
    return StateSpec(
        model_id=model_id,
        revision=revision,
        fingerprint=fingerprint(stack),
        reader=memory.reader,
        num_latents=memory.num_latents,
        capacity_latents=memory.capacity_latents,
        latent_size=transformer.reader.latent_size,
        segment_turns=memory.segment_turns,
        segment_tokens=memory.segment_tokens,
    )


def pools_last_token(modules: Sequence[nn.Module]) -> bool:
    """Tell whether embeddings are made of each text's last token alone.

    Args:
        modules: The stack. What stands between queue and pooling may look at other tokens, and so may a pooling that
            leaves a prompt out or is not sentence-transformers' own.
    """
    pooling: Any = modules[2]
    return type(pooling) is Pooling and pooling.pooling_mode == "lasttoken" and bool(pooling.include_prompt)


def _check_choices(saved: MemoryConfig, choices: dict[str, Any], source: str | None) -> None:
    known = saved.to_dict()
    if unknown := sorted(set(choices) - set(known)):
        raise InputError(f"memory_kwargs names {', '.join(unknown)}. Known names are {', '.join(sorted(known))}.")
    other = [name for name, value in choices.items() if value is not None and known[name] != value]
    if other:
        listed = ", ".join(f"{name}={choices[name]!r} (saved: {known[name]!r})" for name in other)
        raise InputError(
            f"{source or 'The model'} was saved with another memory than asked for: {listed}. Leave these out to load "
            "it as it is, or start from its base model to build a new memory."
        )
