"""The backbone as a language model: the head is found when it is first needed, the weights are shared."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.utils import GenerationMixin

from evoemb._errors import CheckpointError, UnsupportedBackboneError
from evoemb.modules.backbones.lookup import has_recurrent_layers, is_causal
from evoemb.modules.empty_weights import EmptyWeights
from evoemb.modules.intact import read_tensors
from evoemb.modules.tensor_files import Source, TensorFiles

logger = logging.getLogger(__name__)

HEAD_FILE = "lm_head.safetensors"
HEAD_NAME = "lm_head.weight"
# Names of the frozen embedding model inside a released checkpoint.
NATIVE_PREFIX = "emb_model."
# Largest difference of logits with and without cache, as a share of their size, that rounding explains (bfloat16).
_CACHE_TOLERANCE = 0.05


class LanguageHead:
    """Finds the output embeddings of a backbone and builds a causal language model around it.

    Tied heads are the token embeddings. Others are stored with the model or with its base, and are read on first use:
    embeddings never need them.

    Args:
        backbone: The decoder without head.
        read: Gives the stored weight ``(V, H)`` of an untied head; None where none is known.
    """

    def __init__(self, backbone: PreTrainedModel, read: Callable[[], Tensor] | None = None) -> None:
        self._backbone = backbone
        self._read = read
        self._weight: Tensor | None = None
        self._model: Any = None
        self._is_cache_right: bool | None = None

    @property
    def is_tied(self) -> bool:
        """Whether the token embeddings are the head."""
        return bool(getattr(self._backbone.config, "tie_word_embeddings", True))

    def weight(self) -> Tensor:
        """Return the weight of the head ``(V, H)`` in the backbone's dtype and on its device.

        Raises:
            UnsupportedBackboneError: The backbone is an encoder.
            CheckpointError: The head is not tied and was not stored.
        """
        if not is_causal(self._backbone):
            raise UnsupportedBackboneError(
                f"{type(self._backbone).__name__} is an encoder and generates no text. Use a model with a decoder."
            )
        embeddings: Tensor = self._backbone.get_input_embeddings().weight  # type: ignore[assignment]
        if self.is_tied:
            return embeddings
        if self._weight is None:
            self._weight = self.stored()
        if (self._weight.device, self._weight.dtype) != (embeddings.device, embeddings.dtype):
            self._weight = self._weight.to(device=embeddings.device, dtype=embeddings.dtype)
        return self._weight

    def stored(self) -> Tensor:
        """Read the stored weight of an untied head, as it is on disk.

        Raises:
            CheckpointError: There is none.
        """
        if self._read is None:
            raise CheckpointError(
                "This model's language head is not tied to its token embeddings and was not stored with it. "
                "Load the model from the checkpoint it was made of, and save it again."
            )
        return self._read()

    def causal_model(self) -> tuple[Any, bool]:
        """Return the causal language model around the shared backbone, and whether its cache may be used."""
        weight = self.weight()
        if self._model is None:
            with EmptyWeights():
                skeleton: Any = AutoModelForCausalLM.from_config(self._backbone.config, dtype=weight.dtype)  # type: ignore[no-untyped-call]
            if not isinstance(skeleton, GenerationMixin):
                raise UnsupportedBackboneError(f"{type(skeleton).__name__} generates no text. Use another decoder.")
            setattr(skeleton, str(skeleton.base_model_prefix), self._backbone)  # type: ignore[attr-defined]
            self._model = skeleton
        model: Any = self._model
        output = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        output.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
        model.set_output_embeddings(output)
        model.train(self._backbone.training)
        if self._is_cache_right is None:
            self._is_cache_right = not has_recurrent_layers(self._backbone) or _cache_agrees(model)
        return model, self._is_cache_right


@torch.no_grad()
def _cache_agrees(model: Any) -> bool:
    """Compare a cached step with the same step read anew; some transformers versions carry a wrong recurrent state."""
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 8, device=device).unsqueeze(0) % model.config.get_text_config().vocab_size
    embeds = model.get_input_embeddings()(ids)
    whole = model(inputs_embeds=embeds, use_cache=False).logits[:, -2:]
    first = model(inputs_embeds=embeds[:, :-2], use_cache=True)
    cache, steps = first.past_key_values, []
    for position in (-2, -1):
        step = model(input_ids=ids[:, position : position + 1 or None], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        steps.append(step.logits)
    difference = (torch.cat(steps, dim=1) - whole).abs().max()
    agrees = bool(difference <= _CACHE_TOLERANCE * whole.abs().max())
    if not agrees:
        logger.warning(
            "This version of transformers carries a wrong cache for %s (logits differ by %.3g), so text is generated "
            "without a cache, which is slower. Upgrade transformers.",
            type(model).__name__,
            float(difference),
        )
    return agrees


def head_reader(backbone: PreTrainedModel, origin: Source | None) -> Callable[[], Tensor] | None:
    """Return a function that reads an untied head, from the model's source or from the base model's own weights."""
    name = str(getattr(backbone.config, "_name_or_path", "") or "")
    if origin is None and not name:
        return None
    return partial(_read_head, origin or Source(name))


def _read_head(source: Source) -> Tensor:
    if (path := source.path(HEAD_FILE)) is not None:
        return read_tensors(path)[HEAD_NAME]
    files = TensorFiles(source)
    # A released checkpoint holds a second model, whose head is not this one's.
    names = [name for name in files.shapes if name.endswith(HEAD_NAME) and not name.startswith(NATIVE_PREFIX)]
    if not names:
        raise CheckpointError(
            f"{source.name} holds no {HEAD_NAME}, so this model cannot generate text. Save it again from a model that "
            "has one."
        )
    return files.tensor(names[0])
