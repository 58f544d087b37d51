"""Tiny random models, built in memory and saved once a session; no network, no real weights."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: tests never reach a hub

import pytest
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

from evoemb import EvoEmbedding, load_upstream
from evoemb.modules.backbones.lookup import is_causal

torch.set_num_threads(1)  # models this small are slower with more: their threads wait for each other

WORDS = (
    "i we you live moved work in to from at paris rome lyon porto oslo bern my sister brother dog cat has lost found "
    "the a red blue key book lamp yesterday today first last then where what who when did do is was and not but user "
    "assistant : . ? , ' ok noted"
).split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *dict.fromkeys(WORDS)])}

DECODERS = ("qwen3", "qwen3_5", "llama")
ENCODERS = ("bert", "modernbert", "xlm-roberta")


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
    layers = ["linear_attention", "linear_attention", "full_attention"]
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        "qwen3": lambda: Qwen3Model(Qwen3Config(**decoder, num_hidden_layers=3)),
        "qwen3_5": lambda: Qwen3_5TextModel(
            Qwen3_5TextConfig(**decoder, **linear, linear_value_head_dim=8, num_hidden_layers=3, layer_types=layers)
        ),
        "llama": lambda: LlamaModel(LlamaConfig(**decoder, num_hidden_layers=3)),
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


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a tiny sentence-transformers model of a kind, once, and give its folder."""
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            plain, saved = (tmp_path_factory.mktemp(f"{kind}-{part}") for part in ("plain", "st"))
            tiny_backbone(kind).save_pretrained(plain)
            tiny_tokenizer(encoder=kind in ENCODERS).save_pretrained(plain)
            transformer = Transformer(str(plain))
            pooling = Pooling(32, "mean" if kind in ENCODERS else "lasttoken")
            SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save_pretrained(
                str(saved), create_model_card=False
            )
            folders[kind] = saved
        return folders[kind]

    return folder_of


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


CASES = [("qwen3", "prefix"), ("qwen3_5", "prefix"), ("bert", "attention")]
MORE_CASES = [
    ("llama", "prefix"),
    ("qwen3", "attention"),
    ("llama", "attention"),
    ("modernbert", "attention"),
    ("xlm-roberta", "attention"),
    ("bert", "prefix"),
    ("modernbert", "prefix"),
    ("xlm-roberta", "prefix"),
]


@pytest.fixture(scope="session")
def models(base_folder: Callable[[str], Path]) -> Callable[[str, str], EvoEmbedding]:
    """Give the model with trained-looking memory of a kind and reader; built once, never changed by a test."""
    built: dict[tuple[str, str], EvoEmbedding] = {}

    def model_of(kind: str, reader: str) -> EvoEmbedding:
        if (kind, reader) not in built:
            built[kind, reader] = make_model(base_folder(kind), reader)
        return built[kind, reader]

    return model_of


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def model(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """The three kinds every law is checked on: a decoder, a hybrid decoder, an encoder."""
    return models(*request.param)


@pytest.fixture(params=CASES + MORE_CASES, ids=lambda case: "-".join(case))
def any_model(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """Every kind of backbone with every reader it takes."""
    return models(*request.param)


@pytest.fixture(scope="session")
def released() -> EvoEmbedding:
    """A released checkpoint of a few thousand weights; not to be changed by a test."""
    data = Path(__file__).parent / "parity" / "data"
    ids = {"end_of_text": 678, "im_end": 680, "user": 272}
    folder = data / "qwen3"
    return load_upstream(
        folder / "checkpoint", base_model=folder / "base", tokenizer=data / "tokenizer", token_ids=ids, device="cpu"
    )


@pytest.fixture(autouse=True)
def levels_of_logging_stay() -> Iterator[None]:
    """A command run with ``--quiet`` lowers the libraries' logging for the process; the next test starts afresh."""
    libraries = ("evoemb", "huggingface_hub", "sentence_transformers", "transformers")
    loggers = [logging.getLogger(name) for name in libraries]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def stream() -> list[str]:
    """Thirteen turns: more than a segment, more than the queue holds."""
    return [
        "i live in paris",
        "my sister has a red key",
        "i moved to rome",
        "",
        "the dog lost the blue lamp yesterday and we found the book at work today",
        "where is my brother",
        "we moved from rome to lyon then to porto",
        "ok",
        "my cat is in oslo",
        "i work in bern",
        "what did you do",
        "the key was red not blue",
        "last i live in porto",
    ]
