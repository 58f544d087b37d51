"""FSDP for a model that runs many times a step: weights lie sharded between steps and are gathered once a step.

How often a stream runs the backbone depends on its length. Layers that gather their weights with every forward would
thus wait for other processes that never come, so the whole model is one unit: one all-gather and one reduce-scatter a
step, whatever the streams. Weights, gradients and optimizer states are sharded; during a step the weights are whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evoemb._errors import InputError

# Where a sharded model keeps the names of its parameters that were scalars.
_SCALARS = "_sharded_scalars"
_APART = "a stream runs its layers as often as it has turns, so they cannot gather their weights apart"
# Attributes of accelerate's plugin, the names they have in fsdp_config, and what speaks against them.
_UNFIT = (
    ("transformer_cls_names_to_wrap", "transformer_layer_cls_to_wrap", _APART),
    ("min_num_params", "min_num_params", _APART),
    (
        "activation_checkpointing",
        "activation_checkpointing",
        "it would lose the adapter in use; gradient_checkpointing=True among the arguments keeps it",
    ),
    ("cpu_ram_efficient_loading", "cpu_ram_efficient_loading", "every process loads the model by itself"),
)


def check_options(plugin: Any | None) -> None:
    """Refuse what an evolving model cannot be sharded with, before training.

    Args:
        plugin: accelerate's FSDP plugin; None where FSDP was asked for and accelerate left it out.

    Raises:
        InputError: Nothing would be sharded, or an option does not fit.
    """
    if plugin is None:
        raise InputError(
            "fsdp was given, but accelerate shards on accelerators only and would train with DDP here. Leave fsdp out "
            "on a CPU; on GPUs start one process a GPU with `torchrun --nproc-per-node N`."
        )
    if plugin.fsdp_version != 2:
        raise InputError(
            f"FSDP version {plugin.fsdp_version} was given, but only FSDP2 is supported. Pass "
            'fsdp_config={"version": 2}.'
        )
    for attribute, name, reason in _UNFIT:
        if value := getattr(plugin, attribute, None):
            raise InputError(f"fsdp_config has {name}={value!r}, but {reason}. Leave it out.")


def is_sharded(model: nn.Module) -> bool:
    """Tell whether a model's weights are sharded by FSDP2."""
    return _SCALARS in model.__dict__


def shard(model: nn.Module, accelerator: Any) -> None:
    """Shard a model in place, as one unit, with the options of accelerate's plugin; does nothing the second time.

    accelerate leaves a sharded model as it is. It would otherwise make units of its own, also of modules without
    weights.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if is_sharded(model):
        return
    plugin = accelerator.state.fsdp_plugin
    scalars: list[str] = []
    for name, parameter in list(model.named_parameters()):
        if parameter.requires_grad and accelerator.mixed_precision != "no":
            # As accelerate does: steps are taken in float32, forwards run in the lower precision.
            parameter.data = parameter.data.float()
        if parameter.dim() == 0:  # cannot be sharded
            _put(model, name, parameter.detach().reshape(1))
            scalars.append(name)
    # Whole from the forward to the end of the backward pass: between them a stream runs many times.
    fully_shard(
        model,
        reshard_after_forward=False,
        mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        offload_policy=plugin.cpu_offload,
    )
    model.__dict__[_SCALARS] = scalars


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Hold whole weights for a block that uses the model in other ways than its forward, such as an evaluation.

    All processes have to enter it. Without sharding it does nothing.
    """
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


@contextmanager
def as_before(model: Any) -> Iterator[None]:
    """Lend the first process the model as it was before sharding, with the weights of now, for a block that saves it.

    All processes have to enter it. The weights are those that training steps on, not the lower precision of forwards.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    model.reshard()
    whole: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank() != 0:  # the first process alone has got them
        yield
        return
    shards = dict(model.named_parameters())
    hooks, sharded_class = (model._forward_pre_hooks, model._forward_hooks), type(model)
    try:
        # A model card encodes an example, and nobody would answer if that asked for the other processes' shards.
        model._forward_pre_hooks, model._forward_hooks = OrderedDict(), OrderedDict()
        model.__class__ = next(cls for cls in sharded_class.__mro__ if not issubclass(cls, FSDPModule))
        for name, parameter in shards.items():
            value = whole[name].to(parameter.device)
            _put(model, name, value.reshape(()) if name in model.__dict__[_SCALARS] else value)
        yield
    finally:
        model.__class__ = sharded_class
        model._forward_pre_hooks, model._forward_hooks = hooks
        for name, parameter in shards.items():
            _put(model, name, parameter)


def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a sharded model from whole weights, which every process has to give."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    fitting: dict[str, Any] = {name: tensor.reshape(shapes.get(name, tensor.shape)) for name, tensor in tensors.items()}
    set_model_state_dict(model, fitting, options=StateDictOptions(full_state_dict=True))


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    """Register a tensor in place of a parameter."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    if not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, requires_grad=module.get_parameter(attribute).requires_grad)
    setattr(module, attribute, value)
