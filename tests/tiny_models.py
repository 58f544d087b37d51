"""Tiny random models, built in memory: backbones, tokenizers, and models with a memory that matters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextModel

from evoemb import EvoEmbedding
from evoemb.modules.backbones.lookup import is_causal
from kinds import ENCODERS

WORDS = (
    "i we you live moved work in to from at paris rome lyon porto oslo bern my sister brother dog cat has lost found "
    "the a red blue key book lamp yesterday today first last then where what who when did do is was and not but user "
    "assistant : . ? , ' ok noted"
).split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *dict.fromkeys(WORDS)])}


def tiny_tokenizer(*, encoder: bool) -> PreTrainedTokenizerFast:
    """A lower-casing word tokenizer; encoders get ``<s> ... </s>`` around a text, decoders nothing."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", VOCABULARY["<s>"]), ("</s>", VOCABULARY["</s>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
    )


def tiny_backbone(kind: str) -> PreTrainedModel:
    """A random backbone of a few thousand weights, the same one every time."""
    torch.manual_seed(7)
    size = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    decoder = {**size, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "pad_token_id": 0}
    encoder = {**size, "max_position_embeddings": 80, "pad_token_id": 0, "num_hidden_layers": 4}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    layers = ["linear_attention", "full_attention"]
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        "qwen3": lambda: Qwen3Model(Qwen3Config(**decoder, num_hidden_layers=2)),
        "qwen3_5": lambda: Qwen3_5TextModel(
            Qwen3_5TextConfig(**decoder, **linear, linear_value_head_dim=8, num_hidden_layers=2, layer_types=layers)
        ),
        "llama": lambda: LlamaModel(LlamaConfig(**decoder, num_hidden_layers=2)),
        "bert": lambda: BertModel(BertConfig(**encoder)),
        "modernbert": lambda: ModernBertModel(
            ModernBertConfig(
                **encoder, local_attention=8, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
            )
        ),
        "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**encoder)),
    }
    model = builders[kind]()
    # Untrained weights hardly tell texts apart; larger ones make every difference visible.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model.eval()


def save_base(kind: str, plain: Path, saved: Path) -> Path:
    """Save a tiny backbone as transformers does to ``plain``, and as a model of sentence-transformers to ``saved``."""
    tiny_backbone(kind).save_pretrained(plain)
    tiny_tokenizer(encoder=kind in ENCODERS).save_pretrained(plain)
    pooling = Pooling(32, "mean" if kind in ENCODERS else "lasttoken")
    model = SentenceTransformer(modules=[Transformer(str(plain)), pooling, Normalize()], device="cpu")
    model.save_pretrained(str(saved), create_model_card=False)
    return saved


SMALL_MEMORY = {
    "prefix": {"num_latents": 3, "capacity_latents": 12, "segment_turns": 4, "segment_tokens": 40, "lora_rank": 4},
    "attention": {"num_latents": 2, "capacity_latents": 8, "segment_turns": 1, "lora_rank": 4},
}


def build_model(folder: Path, reader: str, *, trained: bool = True, **memory: object) -> EvoEmbedding:
    """A fresh model, loaded from a saved base; ``trained`` gives its memory random weights that matter."""
    encoder = "bert" in folder.name or "roberta" in folder.name
    choices = {**SMALL_MEMORY[reader], **({"segment_turns": 1} if encoder else {}), **memory}
    model = EvoEmbedding(str(folder), memory_reader=reader, memory_kwargs=choices, device="cpu")
    if trained:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "age_key" in name or "mem_to_latent.weight" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
                elif "gate_opening" in name:
                    # Encoders read a prefix more weakly; a decoder's recurrence would amplify rounding.
                    parameter.fill_(0.03 if is_causal(model[0].model) else 0.05)
                elif "age_bias" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 1)
    return model.eval()


_built: dict[str, EvoEmbedding] = {}


def make_model(folder: Path, reader: str, *, trained: bool = True, **memory: object) -> EvoEmbedding:
    """A model that a test may change: a copy of the one built first with these choices, which takes less time."""
    choices = repr((str(folder), reader, trained, sorted(memory.items())))
    if choices not in _built:
        _built[choices] = build_model(folder, reader, trained=trained, **memory)
    return copy.deepcopy(_built[choices])
