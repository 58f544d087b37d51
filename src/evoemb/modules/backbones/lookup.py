"""Which family a backbone belongs to, decided by its parts and not by a list of names."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.backbones.bert import BertFamily
from evoemb.modules.backbones.decoder import DecoderFamily
from evoemb.modules.backbones.family import LayerFamily
from evoemb.modules.backbones.modernbert import ModernBertFamily


def family_of(backbone: PreTrainedModel) -> LayerFamily:
    """Return the family of ``backbone``.

    Raises:
        UnsupportedBackboneError: The layers are of no known family, or some of them keep a recurrent state.
    """
    absolute = getattr(backbone.config, "position_embedding_type", None) in ("absolute", None)
    if absolute and all(_has(backbone, f"encoder.layer.0.attention.{name}") for name in ("self.query", "output")):
        return BertFamily(backbone)
    if _has(backbone, "layers.0.attn.Wqkv") and _has(backbone, "final_norm"):
        return ModernBertFamily(backbone)
    plain = all(kind == "full_attention" for kind in getattr(backbone.config, "layer_types", None) or [])
    if plain and all(_has(backbone, f"layers.0.{name}") for name in ("self_attn.q_proj", "input_layernorm", "mlp")):
        return DecoderFamily(backbone)
    raise UnsupportedBackboneError(
        f'memory_reader="attention" takes the layers of a backbone apart and does not know those of '
        f"{type(backbone).__name__}. It knows BERT-like encoders, ModernBERT, and Llama-like decoders whose layers all "
        f'attend fully. Use memory_reader="prefix", which works with any backbone that takes inputs_embeds.'
    )


def is_causal(backbone: PreTrainedModel) -> bool:
    """Tell decoders (a token sees earlier tokens only) from encoders."""
    config = backbone.config
    if getattr(config, "is_causal", None) is False or getattr(config, "use_bidirectional_attention", None):
        return False
    return any(getattr(module, "is_causal", False) is True for module in backbone.modules())


def has_recurrent_layers(backbone: PreTrainedModel) -> bool:
    """Tell whether some layers keep a recurrent state (gated linear attention) instead of attending."""
    return any("linear" in kind or "mamba" in kind for kind in getattr(backbone.config, "layer_types", None) or [])


def has_sliding_layers(backbone: PreTrainedModel) -> bool:
    """Tell whether some layers attend to a window of the row only."""
    return any("sliding" in kind or "chunked" in kind for kind in getattr(backbone.config, "layer_types", None) or [])


def _has(module: PreTrainedModel, path: str) -> bool:
    try:
        return module.get_submodule(path) is not None
    except AttributeError:
        return False


def learned_positions(backbone: PreTrainedModel) -> int | None:
    """Count the positions that a backbone has learned one by one; None where positions are computed."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in ("position_embeddings", "wpe"):
            # Positions after the padding index, as in RoBERTa.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
