"""Which parameters are trained: the memory by default, and what the user freezes or thaws by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from evoemb._errors import InputError


def set_trainable(model: nn.Module, *, freeze: Sequence[str] = (), unfreeze: Sequence[str] = ()) -> list[str]:
    r"""Freeze and thaw parameters whose names match; the rest stays as it is.

    A fresh model trains its adapters and memory and keeps the base frozen. ``unfreeze=["."]`` is full fine-tuning,
    ``unfreeze=[r"layers\.2[0-9]\."]`` thaws the top layers, ``freeze=[r"lora_.*\.retriever"]`` trains what is
    remembered and keeps what is retrieved.

    Args:
        model: Its ``named_parameters`` are matched.
        freeze: Regular expressions, found anywhere in a name; they win over ``unfreeze``.
        unfreeze: Regular expressions, found anywhere in a name.

    Returns:
        Names of the parameters that are trained.

    Raises:
        InputError: An expression is invalid or matches no name, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for option, patterns, wanted in (("unfreeze", unfreeze, True), ("freeze", freeze, False)):
        for pattern in patterns:
            matched = {name for name in names if _search(pattern, name, option)}
            if not matched:
                raise InputError(
                    f"{option}={pattern!r} matches no parameter. Names look like {names[0]!r} and {names[-1]!r}; see "
                    "model.named_parameters()."
                )
            for name, parameter in model.named_parameters():
                if name in matched:
                    parameter.requires_grad_(wanted)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("Every parameter is frozen, so there is nothing to train. Leave some out of freeze.")
    return trained


def _search(pattern: str, name: str, option: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise InputError(f"{option}={pattern!r} is not a regular expression ({error}).") from error
