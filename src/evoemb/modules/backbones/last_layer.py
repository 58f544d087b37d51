"""The last layer of a decoder, run for the tokens that are read: the others give it keys and values, and no more.

No layer follows that would look at what another token comes to. So the last layer can run as it does with a cache: keys
and values of all tokens, and queries, attention and feed-forward block of the few whose states are wanted. The layer's
own forward runs these; only the keys and values are computed here, for layers whose way to them is known.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

# By name, not by parts: rotary positions in half-split and in interleaved layout have the same parts.
KNOWN_ATTENTION = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention", "Qwen3_5Attention")


class _Wanted:
    """Places ``(N, places)`` whose states one forward shall give, and whether its last layer ran for them alone."""

    def __init__(self, places: Tensor) -> None:
        self.places = places
        self.taken = False


# A context variable, as for the adapter in use: other threads may run the same backbone for other tokens.
_WANTED: ContextVar[_Wanted | None] = ContextVar("evoemb_wanted_tokens", default=None)


class _Complete:
    """What the layer gets as ``past_key_values``: keys and values of all tokens, which it adds nothing to."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self._states = (key, value)

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values ``(N, heads, P + L, d)``."""
        return self._states


def states_at(backbone: PreTrainedModel, places: Tensor, **inputs: Any) -> Tensor:
    """Run a backbone and give its last states at some tokens of each row.

    Args:
        places: Where they stand in the call's rows of ``L`` tokens, ``(N, places)``; a place may be named twice.
        **inputs: What the backbone's forward takes.

    Returns:
        ``(N, places, H)``: up to rounding the states that the whole forward has there. In training, and where the last
        layer is of no known kind, the whole forward is what runs.
    """
    wanted = _Wanted(places) if _can_leave_out(backbone) else None
    token = _WANTED.set(wanted)
    try:
        hidden: Tensor = backbone(**inputs).last_hidden_state
    finally:
        _WANTED.reset(token)
    if wanted is not None and wanted.taken:
        return hidden
    return hidden[torch.arange(hidden.shape[0], device=hidden.device)[:, None], places]


def _can_leave_out(backbone: PreTrainedModel) -> bool:
    """Tell whether the last layer can run for some tokens alone; make it ready for that."""
    if torch.is_grad_enabled() or backbone.training:
        return False
    layers: Any = getattr(backbone, "layers", None)
    attention = getattr(layers[-1], "self_attn", None) if layers else None
    # Other implementations take no mask by token, or know none but the causal one.
    implementation = getattr(backbone.config, "_attn_implementation", None)
    if type(attention).__name__ not in KNOWN_ATTENTION or implementation not in ("sdpa", "eager"):
        return False
    if _leave_out not in layers[-1]._forward_pre_hooks.values():
        layers[-1].register_forward_pre_hook(_leave_out, with_kwargs=True)
    return True


def _leave_out(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
    """Pass a layer the wanted tokens in place of all, and the keys and values of all as its past."""
    wanted = _WANTED.get()
    if wanted is None or wanted.taken or len(args) != 1:
        return None
    wanted.taken = True
    places, hidden, attention = wanted.places, args[0], layer.self_attn  # (N, places), (N, L, H)
    rotary = [part.expand(hidden.shape[0], -1, -1) for part in kwargs["position_embeddings"]]
    key, value = _keys_and_values(attention, layer.input_layernorm(hidden), *rotary)
    if (past := kwargs.get("past_key_values")) is not None:
        key, value = past.update(key, value, attention.layer_idx)
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    changed = {
        "attention_mask": _mask_at(kwargs.get("attention_mask"), places, hidden, key.shape[2]),
        "position_embeddings": tuple(part[rows, places] for part in rotary),
        "position_ids": None,  # in the rotary parts already
        "past_key_values": _Complete(key, value),
    }
    return (hidden[rows, places],), {**kwargs, **changed}


def _keys_and_values(attention: Any, hidden: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Compute keys and values ``(N, heads, L, d)`` as the layer's attention does."""
    key = attention.k_proj(hidden).unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    value = attention.v_proj(hidden).unflatten(-1, (-1, attention.head_dim))
    key, cosine, sine = key.transpose(1, 2), cosine.unsqueeze(1), sine.unsqueeze(1)
    # Some models turn the first units of a head only. No wider dtype than theirs: rounding would differ.
    turned, rest = key[..., : cosine.shape[-1]], key[..., cosine.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosine + torch.cat((-second, first), dim=-1) * sine
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned, value.transpose(1, 2)


def _mask_at(mask: Tensor | None, places: Tensor, hidden: Tensor, keys: int) -> Tensor:
    """Cut the wanted tokens' rows ``(N, 1, places, P + L)`` out of a mask; without one, each sees those before it."""
    if mask is not None:
        mask = mask.expand(places.shape[0], -1, -1, -1)
        return mask.gather(2, places[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    before = keys - hidden.shape[1]
    hides = torch.arange(keys, device=hidden.device) > before + places[:, None, :, None]
    return torch.zeros(hides.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(
        hides, torch.finfo(hidden.dtype).min
    )
