"""The stack of a released checkpoint: built without weights, filled from the files, with the ways it was trained in."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.util import get_device_name
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evoemb._errors import CheckpointError, InputError
from evoemb.modules.config import MemoryConfig
from evoemb.modules.dialogue_format import UPSTREAM_PREFIX, DialogueConfig, TokenIds
from evoemb.modules.dialogue_parts import DialogueParts
from evoemb.modules.empty_weights import EmptyWeights
from evoemb.modules.native import NativeReference
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.tensor_files import Source, TensorFiles
from evoemb.stack import fresh_queue
from evoemb.upstream.checkpoint import UpstreamConfig, embedding_dimension, fill, read_config, stored_dtype
from evoemb.upstream.keys import KeyReport, has_head

logger = logging.getLogger(__name__)

_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_TOKEN_NAMES = ("<|endoftext|>", "<|im_end|>", "user")
# Larger than any vocabulary; it is refused once all ids are known.
_NO_ID = 2**31 - 1
_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class UpstreamChoices:
    """What a caller may say about a released checkpoint.

    Args:
        base_model: Folder or Hub id of the base model's configuration; None takes the name in the checkpoint.
        tokenizer: Folder or Hub id of the tokenizer; None takes the base model's, or the checkpoint's own.
        token_ids: Any of ``end_of_text``, ``im_end``, ``user`` and ``query_prefix``; the rest are the paper's.
        memory: ``capacity_latents``, ``segment_turns`` and ``segment_tokens``, in place of the checkpoint's.
        dtype: Of the weights; None means float32 on a CPU and what is stored elsewhere; ``"auto"`` what is stored.
        device: Where the weights are read to.
        attn_implementation: Attention kernels, as transformers names them; None lets it choose.
    """

    base_model: str | None = None
    tokenizer: str | None = None
    token_ids: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    dtype: str | torch.dtype | None = None
    device: str | torch.device = "cpu"
    attn_implementation: str | None = None

    @classmethod
    def of(
        cls, model_kwargs: Mapping[str, Any] | None, memory: Mapping[str, Any], named: Mapping[str, Any]
    ) -> UpstreamChoices:
        """Gather the choices from the arguments of :class:`evoemb.EvoEmbedding`.

        Args:
            model_kwargs: ``dtype`` (or ``torch_dtype``), ``attn_implementation`` and ``device_map``.
            memory: Choices of the memory.
            named: ``base_model``, ``tokenizer``, ``token_ids`` and ``device``.

        Raises:
            InputError: A name is unknown, or the weights are to be spread over several devices.
        """
        given = {name: value for name, value in (model_kwargs or {}).items() if value is not None}
        dtype = given.pop("dtype", given.pop("torch_dtype", None))
        attention = given.pop("attn_implementation", None)
        placed = _single_device(given.pop("device_map", None))
        if given:
            raise InputError(
                f"model_kwargs names {', '.join(sorted(given))}, which a released checkpoint does not take. It takes "
                "dtype, attn_implementation and device_map; save the model once to load it with the others."
            )
        if unknown := sorted(set(named) - {"base_model", "tokenizer", "token_ids", "device"}):
            raise InputError(
                f"upstream_kwargs names {', '.join(unknown)}. Known names are base_model, tokenizer and token_ids."
            )
        device = placed or named.get("device") or get_device_name()
        return cls(**{**named, "device": device}, memory=memory, dtype=dtype, attn_implementation=attention)


@dataclass(frozen=True, slots=True)
class UpstreamStack:
    """A loaded checkpoint: its modules, the prompts it was trained with, and what became of its keys."""

    modules: list[nn.Module]
    prompts: dict[str, str]
    report: KeyReport


def build_stack(source: Source, choices: UpstreamChoices) -> UpstreamStack:
    """Load a released checkpoint.

    Raises:
        CheckpointError: A file or tensor is missing or does not fit.
        InputError: A choice is unknown or out of range.
    """
    config = read_config(source)
    files = TensorFiles(source)
    dtype = _dtype(choices, files)
    base = _base_source(source, choices.base_model or config.base_model)
    tokenizer = _tokenizer(source, base, choices.tokenizer)
    backbone = _empty_backbone(base, dtype, choices.attn_implementation)
    token_ids = _token_ids(tokenizer, backbone.config.vocab_size, choices.token_ids)
    memory = _memory_config(config, token_ids, choices.memory)
    backbone.config.tie_word_embeddings = not has_head(files.shapes)
    transformer = _transformer(backbone, tokenizer, memory)
    queue = fresh_queue(transformer, embedding_dimension(files))
    report = fill(
        {"transformer": backbone, "reader": transformer.reader, "queue": queue},
        files,
        dtype=dtype,
        device=choices.device,
    )
    # Norms and rotary tables were made real at once, on the CPU and in their own dtype.
    transformer.to(choices.device)
    queue.to(choices.device)
    if report.unused:
        logger.warning("%s holds tensors that have no place here: %s", source.name, ", ".join(report.unused))
    ways = DialogueConfig.of_released_checkpoints(token_ids)
    transformer.dialogue = DialogueParts(backbone, ways, source, NativeReference(source))
    modules = [transformer, queue, Pooling(queue.get_embedding_dimension(), "lasttoken"), Normalize()]
    return UpstreamStack(modules, {"query": _prompt(tokenizer, choices.token_ids), "document": ""}, report)


def _dtype(choices: UpstreamChoices, files: TensorFiles) -> torch.dtype:
    given = choices.dtype
    if isinstance(given, torch.dtype):
        return given
    if given is None and torch.device(choices.device).type == "cpu":
        return torch.float32
    if given in (None, "auto"):
        return stored_dtype(files)
    named = getattr(torch, str(given).removeprefix("torch."), None)
    if not isinstance(named, torch.dtype):
        raise InputError(f"dtype={given!r} was given. Use float32, bfloat16, float16, or auto.")
    return named


def _single_device(device_map: Any) -> str | None:
    """Return the one device a device map names; None for no map.

    Raises:
        InputError: It spreads the weights.
    """
    if isinstance(device_map, Mapping) and len(set(device_map.values())) == 1:
        device_map = next(iter(device_map.values()))
    if device_map is None:
        return None
    if isinstance(device_map, int):
        return f"cuda:{device_map}"
    if isinstance(device_map, torch.device) or (isinstance(device_map, str) and device_map not in _SPREADING):
        return str(device_map)
    raise InputError(
        f"device_map={device_map!r} spreads the weights over several devices, which a released checkpoint cannot be "
        'read into. Name one device, such as device_map="cuda:0", or convert the checkpoint (evoemb convert) and load '
        "the folder with this map."
    )


def _base_source(checkpoint: Source, name: str) -> Source:
    """Return where the base model's configuration lies: a relative name may be a folder in or beside the checkpoint."""
    folder = Path(checkpoint.name)
    if folder.is_dir() and not Path(name).is_dir():
        near = next((path for path in (folder / name, folder.parent / name) if (path / "config.json").is_file()), None)
        name = str(near or name)
    # The revision is the checkpoint's, not the base model's.
    return Source(name, {**checkpoint.hub, "revision": None})


def _hub_kwargs(source: Source) -> dict[str, Any]:
    """Return a source's Hub arguments as transformers names them."""
    hub = {key: value for key, value in source.hub.items() if key != "cache_folder" and value is not None}
    return {**hub, "cache_dir": source.hub.get("cache_folder")}


def _tokenizer(checkpoint: Source, base: Source, given: str | None) -> PreTrainedTokenizerBase:
    places = [base, checkpoint] if given is None else [Source(given, {**checkpoint.hub, "revision": None})]
    for place in places:
        if any(place.path(name) is not None for name in _TOKENIZER_FILES):
            return AutoTokenizer.from_pretrained(place.name, **_hub_kwargs(place))
    raise CheckpointError(
        f"No tokenizer was found in {' or '.join(place.name for place in places)}. Pass the folder or Hub id of one: "
        "load_upstream(..., tokenizer=...); offline, it must be in the cache already."
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase, size: int, given: Mapping[str, Any] | None) -> TokenIds:
    ids = TokenIds()
    if max(ids.end_of_text, ids.im_end, ids.user) >= max(size, len(tokenizer)):
        # Another tokenizer than the original's: ids that it does not have can only mean the tokens of that name.
        end, im_end, user = (_named_id(tokenizer, name) for name in _TOKEN_NAMES)
        ids = TokenIds(end, im_end, user)
    ids = ids.updated(given)
    if "query_prefix" not in (given or {}):
        prefix: Any = tokenizer(UPSTREAM_PREFIX, add_special_tokens=False)["input_ids"]
        ids = replace(ids, query_prefix=tuple(prefix))
    outside = [value for value in (ids.end_of_text, ids.im_end, ids.user, *ids.query_prefix) if value >= size]
    if outside:
        raise InputError(
            f"The base model has {size} tokens, so the ids {outside} are none of them. Pass ids of its tokenizer: "
            'load_upstream(..., token_ids={"end_of_text": ..., "im_end": ..., "user": ...}).'
        )
    return ids


def _named_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return the id of a token, or an id that no vocabulary has, which is refused once all ids are known."""
    return tokenizer.get_vocab().get(name, _NO_ID)


def _prompt(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any] | None) -> str:
    """Return the text of the query prefix; ids that a caller chose are turned back into text."""
    if "query_prefix" in (given or {}):
        return str(tokenizer.decode(list((given or {})["query_prefix"])))
    return UPSTREAM_PREFIX


def _memory_config(config: UpstreamConfig, ids: TokenIds, given: Mapping[str, Any] | None) -> MemoryConfig:
    own: dict[str, Any] = {
        "reader": "prefix",
        "init": "paper",
        "num_latents": config.num_latents,
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "end_of_text_id": ids.end_of_text,
    }
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    if fixed := sorted(name for name in own if name in chosen and chosen[name] != own[name]):
        listed = ", ".join(f"{name}={chosen[name]!r} (checkpoint: {own[name]!r})" for name in fixed)
        raise InputError(f"The checkpoint's weights fix {listed}. Leave these out, or load another checkpoint.")
    return MemoryConfig.for_backbone(causal=True, **{"capacity_latents": config.capacity_latents, **chosen, **own})


def _empty_backbone(base: Source, dtype: torch.dtype, attn_implementation: str | None) -> PreTrainedModel:
    if base.path("config.json") is None:
        raise CheckpointError(
            f"The configuration of the base model {base.name} was not found. Pass its folder or Hub id: "
            "load_upstream(..., base_model=...); offline, it must be in the cache already."
        )
    config = AutoConfig.from_pretrained(base.name, **_hub_kwargs(base)).get_text_config()
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with EmptyWeights():
        backbone: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, **chosen)  # type: ignore[no-untyped-call]
    backbone.train(False)  # as from_pretrained gives it: without dropout until training begins
    return backbone


class _GivenBackbone(StatefulTransformer):
    """A stateful transformer around a backbone that exists already."""

    def __init__(self, backbone: PreTrainedModel, folder: str, memory: MemoryConfig) -> None:
        self.__dict__["_given"] = backbone
        super().__init__(folder, memory=memory, modality_config=_TEXT_ONLY, module_output_name="token_embeddings")
        del self.__dict__["_given"]

    def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        return self.__dict__["_given"]  # type: ignore[no-any-return]


def _transformer(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, memory: MemoryConfig
) -> StatefulTransformer:
    """Return the first module. Its parent class reads a tokenizer from a folder only, so ours is written to one."""
    with tempfile.TemporaryDirectory() as folder:
        backbone.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        module: StatefulTransformer = _GivenBackbone(backbone, folder, memory)
    module.__class__ = StatefulTransformer
    return module
