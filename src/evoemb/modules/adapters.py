"""LoRA adapters that share one frozen backbone: which linear layers carry them, and which one is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.few_rows import linear
from evoemb.modules.fingerprint import version_of

MEMORY_ADAPTER = "memory"
RETRIEVER_ADAPTER = "retriever"

PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Copies that are kept save a twentieth of a large forward's time and a tenth of a small one's. Reading with a model of
# 0.6 billion weights in float32 shall fit in 2 GB beside them.
_KEPT_COPIES_BYTES = 2**30

# A context variable, not an attribute of the model: threads that encode with one model may be in different roles.
_IN_USE: ContextVar[str | None] = ContextVar("evoemb_adapter_in_use", default=None)


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """Run a block with the adapter ``name``, or with the bare backbone if ``name`` is None."""
    token = _IN_USE.set(name)
    try:
        yield
    finally:
        _IN_USE.reset(token)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Size of one adapter. The update is ``alpha / rank * B(A(dropout(x)))``.

    Source: EvoEmbedding (arXiv 2606.21649): rank 64, alpha 128, dropout 0.1 on all projections.
    """

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.1

    @property
    def scaling(self) -> float:
        """Factor of the low-rank update."""
        return self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A linear layer that adds the low-rank update of the adapter in use, if it carries that adapter.

    The base weights keep their names (``X.weight``, ``X.bias``), so a backbone is saved without renaming.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.train(linear.training)
        self.lora_A = nn.ModuleDict()
        self.lora_B = nn.ModuleDict()
        self.lora_config: dict[str, AdapterConfig] = {}
        self.merges = True
        self.keeps: set[str] = set()
        self._merged: dict[str, tuple[tuple[tuple[int, int, int], ...], Tensor | None]] = {}

    def add_adapter(self, name: str, config: AdapterConfig, generator: torch.Generator) -> None:
        """Add an adapter whose update is zero: A uniform as in PEFT, B zero."""
        weight = self.weight
        down = nn.Linear(self.in_features, config.rank, bias=False, device="meta")
        up = nn.Linear(config.rank, self.out_features, bias=False, device="meta")
        bound = self.in_features**-0.5
        initial = torch.empty(config.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        down.weight = nn.Parameter(initial.to(device=weight.device, dtype=weight.dtype))
        up.weight = nn.Parameter(torch.zeros(self.out_features, config.rank, device=weight.device, dtype=weight.dtype))
        self.lora_A[name], self.lora_B[name] = down, up
        self.lora_config[name] = config
        self.keeps.add(name)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the parent names it so
        """Apply the layer, with the update of the adapter in use."""
        name = _IN_USE.get()
        if name is None or name not in self.lora_config:
            return linear(input, self.weight, self.bias)
        if (weight := self.weight_in_use(input.shape[:-1].numel())) is not None:
            return linear(input, weight, self.bias)
        config = self.lora_config[name]
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        output = linear(input, self.weight, self.bias)
        reduced = down(F.dropout(input, config.dropout, self.training).to(down.weight.dtype))
        update: Tensor = up(reduced) * config.scaling
        return output + update.to(output.dtype)

    def weight_in_use(self, rows: int) -> Tensor | None:
        """Return the one matrix that the layer with the adapter in use comes to, for an input of so many rows.

        Returns:
            The base weight, a copy that is kept, or one made for this call where so many rows pay for it; None where
            the update runs beside the layer.
        """
        name = _IN_USE.get()
        if name is None or name not in self.lora_config:
            return self.weight
        if not self.merges or self.training or torch.is_grad_enabled():
            return None
        if name in self.keeps:
            return self._kept_weight(name)
        # Both count multiplications, without the rank that they share: of the update on the rows, and of merging it.
        pays = rows * (self.in_features + self.out_features) > self.in_features * self.out_features
        return self._merged_weight(name) if pays else None

    def _kept_weight(self, name: str) -> Tensor:
        """Return base plus update as one matrix, computed once and again only after a weight has changed.

        The base weight is never touched, so leaving inference gives back exactly the unmerged layer. An update that is
        still zero costs no copy.
        """
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        version = tuple(version_of(part) for part in (self.weight, down.weight, up.weight))
        known = self._merged.get(name)
        if known is None or known[0] != version:
            known = None
            self._merged.pop(name, None)  # let go of before its successor is made
            known = (version, self._merged_weight(name) if bool(up.weight.any()) else None)
            self._merged[name] = known
        return self.weight if known[1] is None else known[1]

    def _merged_weight(self, name: str) -> Tensor:
        """Compute base plus update ``(out, in)``, in float32 before it is rounded to the weight's dtype."""
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        scaling = self.lora_config[name].scaling
        merged = torch.addmm(self.weight.float(), up.weight.float(), down.weight.float(), alpha=scaling)
        return merged.to(self.weight.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave merged copies out of pickles and deep copies; they are computed again where they are needed."""
        return {**self.__dict__, "_merged": {}}


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Walk over the layers of ``model`` that carry adapters, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def target_names(model: nn.Module, *, within: Iterable[str] = ("",)) -> list[str]:
    """Name the linear layers that adapters go on: the paper's projections, or all linear layers of the blocks.

    Args:
        model: The backbone.
        within: Prefixes of module names; only layers below one of them are named.

    Raises:
        UnsupportedBackboneError: No linear layer was found.
    """
    prefixes = tuple(within)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linears = [
        name for name in linears if name.startswith(prefixes) and any(part.isdigit() for part in name.split("."))
    ]
    named = [name for name in linears if name.rsplit(".", 1)[-1] in PAPER_TARGETS]
    if not linears:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} has no linear layer in numbered blocks below {prefixes}, so adapters find no "
            "place. Use a Transformer backbone built of nn.Linear layers."
        )
    return named or linears


def add_adapter(model: nn.Module, name: str, config: AdapterConfig, targets: Iterable[str], seed: int = 0) -> None:
    """Put the adapter ``name`` on the linear layers ``targets`` of ``model``; its update starts at zero.

    Args:
        targets: Full module names inside ``model``, as :func:`target_names` gives them.
        seed: Seed of the random A matrices, so that two processes build the same fresh adapter.

    Raises:
        UnsupportedBackboneError: The base model is quantised.
    """
    generator = torch.Generator().manual_seed(seed)
    for target in targets:
        parent_name, _, child = target.rpartition(".")
        parent = model.get_submodule(parent_name)
        layer = getattr(parent, child)
        if not layer.weight.is_floating_point():
            raise UnsupportedBackboneError(
                f"The layer {target} holds {layer.weight.dtype} weights: the base model is quantised, and adapters "
                "need its weights as they are. Load it in bfloat16 or float32, without a quantization_config."
            )
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            setattr(parent, child, layer)
        layer.add_adapter(name, config, generator)


def merge_in_inference(model: nn.Module, enabled: bool | None = None) -> int:
    """Say how inference runs adapters: on merged copies of the adapted weights that are kept, or without such copies.

    Without a kept copy a layer merges its update for every call of many rows, and runs it beside itself for few.

    Args:
        enabled: True keeps a copy a layer and adapter. False never merges: updates run beside their layers, as in
            training. None keeps copies up to 1 GiB, those of the retriever first: questions are few rows.

    Returns:
        Bytes of the copies that will be kept, if no update is zero.
    """
    layers = [layer for _, layer in lora_layers(model)]
    for layer in layers:
        layer.merges = enabled is not False
        layer.keeps = set()
        layer._merged = {}
    kept = 0
    names = {name for layer in layers for name in layer.lora_config}
    for name in sorted(names, key=lambda name: (name != RETRIEVER_ADAPTER, name)):
        for layer in layers:
            copy = layer.weight.nbytes if name in layer.lora_config else 0
            if copy and (enabled or (enabled is None and kept + copy <= _KEPT_COPIES_BYTES)):
                layer.keeps.add(name)
                kept += copy
    return kept


def adapter_parameters(model: nn.Module, name: str) -> Iterator[nn.Parameter]:
    """Walk over the trainable tensors of one adapter."""
    for _, layer in lora_layers(model):
        if name in layer.lora_config:
            yield from layer.lora_A[name].parameters()
            yield from layer.lora_B[name].parameters()


def is_adapter_parameter(name: str) -> bool:
    """Tell from its name whether a parameter of a backbone belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def keep_adapter_in_checkpoints(model: nn.Module) -> None:
    """Make gradient checkpointing recompute every block under the adapter it ran with.

    The backward pass runs long after the role has changed; recomputing under another adapter gives wrong gradients
    without any error.
    """
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is not None and not getattr(checkpoint, "_keeps_adapter", False):
            module._gradient_checkpointing_func = _keeping_adapter(checkpoint)  # type: ignore[assignment]


def _keeping_adapter(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(checkpoint)
    def wrapped(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = _IN_USE.get()

        def under_same_adapter(*inner: Any, **inner_kwargs: Any) -> Any:
            with using(name):
                return function(*inner, **inner_kwargs)

        return checkpoint(under_same_adapter, *args, **kwargs)

    wrapped._keeps_adapter = True  # type: ignore[attr-defined]
    return wrapped
