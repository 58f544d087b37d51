"""The first module of the stack: a text backbone that also reads a memory and writes to it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from evoemb._errors import CheckpointError, EvoembError, InputError
from evoemb.modules.adapter_files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from evoemb.modules.adapters import (
    MEMORY_ADAPTER,
    RETRIEVER_ADAPTER,
    is_adapter_parameter,
    keep_adapter_in_checkpoints,
    lora_layers,
    merge_in_inference,
    using,
)
from evoemb.modules.backbones.lookup import is_causal, learned_positions
from evoemb.modules.backbones.shared_keys import share_keys
from evoemb.modules.config import MemoryConfig
from evoemb.modules.dialogue_parts import DialogueParts
from evoemb.modules.intact import read_object, read_tensors
from evoemb.modules.readers.features import names_a_memory
from evoemb.modules.readers.lookup import reader_for
from evoemb.modules.tensor_files import Source
from evoemb.modules.tokenizing import alone, token_ids

MEMORY_FILE = "memory.safetensors"
MEMORY_CONFIG_FILE = "memory_config.json"
ADAPTERS_FOLDER = "adapters"


class StatefulTransformer(Transformer):
    """A sentence-transformers ``Transformer`` with a memory reader and two adapters.

    Without memory features it is its parent, bit for bit: the same tokenizer, the same forward, under the adapter
    that the reader names for such texts, if any. With them, ``token_embeddings`` are conditioned on the memory.

    Args:
        model_name_or_path: As in the parent.
        memory: Choices of the memory, a :class:`MemoryConfig` or its dictionary; None chooses by the backbone.
        **kwargs: Passed on to the parent.
    """

    # Not for use through plain SentenceTransformer: declared so that passing them gives our error, not a generic one.
    forward_kwargs: set[str] = {"stateful", "state", "memory"}

    def __init__(
        self, model_name_or_path: str, *, memory: MemoryConfig | dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._attach_memory(memory or {})

    @classmethod
    def adopt(
        cls, transformer: Transformer, memory: MemoryConfig | dict[str, Any] | None = None
    ) -> StatefulTransformer:
        """Turn a loaded ``Transformer`` into a stateful one; it keeps its backbone, tokenizer and settings.

        The object itself changes its class: it then encodes texts without memory exactly as before.
        """
        transformer.__class__ = cls
        stateful: StatefulTransformer = transformer  # type: ignore[assignment]
        stateful._attach_memory(memory or {})
        return stateful

    def _attach_memory(self, memory: MemoryConfig | dict[str, Any]) -> None:
        """Build the reader and the adapters."""
        if self.backend != "torch":
            raise InputError(f'backend="{self.backend}" cannot carry a memory. Use backend="torch".')
        if not isinstance(memory, MemoryConfig):
            memory = MemoryConfig.for_backbone(causal=is_causal(self.model), **memory)
        # Packed rows would lose the boundary between memory and text.
        self.unpad_inputs = False
        self.memory_config = memory
        self.reader = reader_for(self.model, memory)
        self.reader.add_adapters()
        merge_in_inference(self.model)
        share_keys(self.model)
        self._freeze_base()
        self.dialogue = DialogueParts(self.model)

    def _freeze_base(self) -> None:
        """Leave gradients to the adapters and the reader; users may thaw what they name."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(is_adapter_parameter(name))

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of a text; longer ones are cut.

        Raises:
            InputError: Set to more than the backbone has positions.
        """
        found: int | None = Transformer.max_seq_length.fget(self)
        return found

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        positions = learned_positions(self.model)
        if value is not None and positions is not None and value > positions:
            raise InputError(
                f"max_seq_length={value} was given, but {type(self.model).__name__} has {positions} positions. Use at "
                f"most {positions}, and split longer texts."
            )
        Transformer.max_seq_length.fset(self, value)

    @property
    def _tokenizer(self) -> Any:
        return self.tokenizer

    @property
    def adapter_names(self) -> list[str]:
        """Names of the adapters on the backbone, sorted."""
        return sorted({name for _, layer in lora_layers(self.model) for name in layer.lora_config})

    @property
    def is_memory_trained(self) -> bool:
        """Whether any adapter has left its zero start."""
        ups = [parameter for name, parameter in self.model.named_parameters() if ".lora_B." in name]
        return any(bool(up.any()) for up in ups)

    def preprocess(  # type: ignore[override]
        self, inputs: Any, prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenize texts as the parent does; ends them with the end-of-text id where the model asks for it."""
        _refuse_state(kwargs)
        end = self.memory_config.end_of_text_id
        with alone(self._tokenizer):
            if end is None:
                return super().preprocess(inputs, prompt=prompt, **kwargs)
            ids = self._ids_with_end(list(inputs), end, prompt)
            padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        return {**padded, "modality": "text"}

    def _ids_with_end(self, texts: list[str], end: int, prompt: str | None) -> list[list[int]]:
        """Tokenize without special tokens and append ``end`` unless a text ends with it already.

        The prompt is tokenized by itself: no token spans both, as in training.
        """
        room = self.max_seq_length or None
        before = token_ids(self._tokenizer, [prompt])[0] if prompt else []
        rows = token_ids(self._tokenizer, texts)
        rows = [[*before, *ids] if ids and ids[-1] == end else [*before, *ids, end] for ids in rows]
        return [ids if room is None or len(ids) <= room else [*ids[: room - 1], end] for ids in rows]

    def token_ids(self, texts: list[str], prompt: str | None = None, **kwargs: Any) -> list[list[int]]:
        """Return each text's token ids as :meth:`preprocess` makes them, without padding, at least one a text.

        Args:
            **kwargs: Passed on to the parent's ``preprocess`` (``task``, ``processing_kwargs``).
        """
        features = self.preprocess(texts, prompt=prompt, **kwargs)
        rows = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
        found: list[list[int]] = [ids[mask].tolist() for ids, mask in rows]
        filler = next((i for i in (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id) if i is not None), 0)
        return [ids or [filler] for ids in found]

    def full_length(self, text: str) -> int:
        """Count the tokens ``text`` would have if it were not cut to the model's window."""
        end = self.memory_config.end_of_text_id
        (ids,) = token_ids(self._tokenizer, [text], add_special_tokens=end is None)
        return len(ids) + (end is not None and ids[-1:] != [end])

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write ``token_embeddings`` ``(N, T, H)``: stateless, on a finished memory, or over a block of turns."""
        _refuse_state(kwargs)
        if not names_a_memory(features):
            with using(self.reader.stateless_adapter):
                return super().forward(features, **kwargs)
        return {**features, **self.reader.embed(features)}

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return what every layer writes of texts without a memory, ``(N, T, H)`` each; the first is their input."""
        with using(self.reader.stateless_adapter):
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    def keep_adapter_in_checkpoints(self) -> None:
        """Make gradient checkpointing recompute under the adapter of the forward pass."""
        keep_adapter_in_checkpoints(self.model)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the bare backbone, the tokenizer, the adapters and the reader's own weights; never a state."""
        if getattr(self.model, "_hf_peft_config_loaded", False):
            raise InputError(
                "The backbone carries a peft adapter, which this folder would not hold. Merge it into the base model "
                "before the memory is added, or delete it with model.delete_adapter(name)."
            )
        base = {name: tensor for name, tensor in self.model.state_dict().items() if not is_adapter_parameter(name)}
        self.model.save_pretrained(output_path, state_dict=base)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)
        self.save_memory(Path(output_path))

    def save_memory(self, folder: Path) -> None:
        """Write all but the backbone and the tokenizer: the memory's choices, the reader, the adapters."""
        (folder / MEMORY_CONFIG_FILE).write_text(json.dumps(self.memory_config.to_dict(), indent=2), encoding="utf-8")
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.reader.state_dict().items()}
        save_file(tensors, folder / MEMORY_FILE, metadata={"format": "pt"})
        for name in (MEMORY_ADAPTER, RETRIEVER_ADAPTER):
            save_adapter(self.model, name, folder / ADAPTERS_FOLDER / name)
        self.dialogue.save(folder)

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> StatefulTransformer:
        """Load from a folder or the Hub; arguments as in the parent's ``load``."""
        source = Source.of_hub_kwargs(model_name_or_path, kwargs, subfolder)
        memory = read_memory_config(source)
        init_kwargs = cls._load_init_kwargs(model_name_or_path, subfolder=subfolder, **kwargs)
        module = cls(model_name_or_path, memory=memory, **init_kwargs)
        module.load_memory(source)
        return module

    def load_memory(self, source: Source) -> None:
        """Fill a new memory, built with the choices that lie there, with what :meth:`save_memory` wrote.

        Raises:
            EvoembError: A file is missing, or does not fit the backbone or the memory's choices.
        """
        _load_reader(self.reader, _needed(source, MEMORY_FILE))
        for name in (MEMORY_ADAPTER, RETRIEVER_ADAPTER):
            files = [_needed(source, f"{ADAPTERS_FOLDER}/{name}/{file}") for file in (WEIGHTS_FILE, CONFIG_FILE)]
            load_adapter(self.model, name, *files)
        self._freeze_base()
        self.dialogue = DialogueParts.load(self.model, source)

    def __repr__(self) -> str:
        """Name the backbone and the memory's main choices."""
        memory = self.memory_config
        return (
            f"StatefulTransformer({type(self.model).__name__}, memory_reader={memory.reader!r}, "
            f"num_latents={memory.num_latents}, capacity_latents={memory.capacity_latents})"
        )


def read_memory_config(source: Source) -> MemoryConfig:
    """Read the choices of a saved memory.

    Raises:
        EvoembError: There are none.
    """
    choices = read_object(_needed(source, MEMORY_CONFIG_FILE), source.name)
    known = {field.name for field in fields(MemoryConfig)}
    if unknown := sorted(set(choices) - known):
        raise CheckpointError(
            f"{MEMORY_CONFIG_FILE} of {source.name} names {', '.join(unknown)}, which this evoemb does not know. "
            "Install the version of evoemb that wrote it."
        )
    return MemoryConfig(**choices)


def _needed(source: Source, filename: str) -> Path:
    path = source.path(filename)
    if path is None:
        raise EvoembError(
            f"{source.name} has no {filename}, which an evoemb model needs. The folder or repository is incomplete: "
            "save the model again with save_pretrained."
        )
    return path


def _load_reader(reader: nn.Module, path: Path) -> None:
    """Fill a reader from its file, in the reader's own dtype."""
    tensors = read_tensors(path)
    expected: dict[str, Tensor] = reader.state_dict()
    wrong = [name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape]
    if wrong or set(tensors) - set(expected):
        extra = sorted(set(tensors) - set(expected))
        raise EvoembError(
            f"{path} does not fit this reader: missing or of another shape {wrong}, unexpected {extra}. "
            "The file belongs to another memory configuration; load the folder it came with."
        )
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            parameter.copy_(tensors[name])


def _refuse_state(kwargs: dict[str, Any]) -> None:
    """Refuse order-dependent calls that reach the module without the model that threads the state."""
    given = [name for name in ("stateful", "state", "memory") if kwargs.pop(name, None)]
    if given:
        raise InputError(
            f"encode was called with {', '.join(given)}, but this model was loaded with plain SentenceTransformer, "
            "which sorts texts by length and so loses their order. Load it with `from evoemb import EvoEmbedding; "
            "EvoEmbedding(path)`."
        )
