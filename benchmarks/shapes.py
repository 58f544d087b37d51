"""Random models of named sizes, built in memory, and random turns: what the speed benchmark runs on."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from evoemb import EvoEmbedding

# Words of the tokenizer; a model's table of embeddings may be larger.
WORDS = 1000


@dataclass(frozen=True)
class Size:
    """A decoder of Qwen3's kind with the memory on top; ``turns`` of about ``tokens`` tokens are read.

    ``train`` is what the training step runs on, where that is smaller.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    rank: int = 64
    num_latents: int = 16
    capacity: int = 384
    turns: int = 48
    tokens: int = 60
    train_turns: int = 32
    train: Size | None = None

    @property
    def unfilled_turns(self) -> int:
        """Turns after which the queue is full."""
        return self.capacity // self.num_latents


# "laptop" is the issue's shape in small. Its vocabulary keeps the proportion of head to layers near the issue's 1.6.
_ISSUE_TRAIN = Size(512, 4, 8, 4, 64, 1536, 151_936)
SIZES = {
    "tiny": Size(64, 2, 4, 2, 16, 192, 2_000, 8, 4, 32, 16, 20, 8),
    "laptop": Size(256, 4, 4, 2, 64, 768, 20_000, 16, 16, 384, 48, 60, 16),
    "issue": Size(1024, 6, 16, 8, 128, 3072, 151_936, train=_ISSUE_TRAIN),
    # As wide and deep as the backbones of the released checkpoints, all layers of full attention.
    "0.6b": Size(1024, 28, 16, 8, 128, 3072, 151_936, turns=256),
    "0.8b": Size(1024, 24, 8, 2, 256, 3584, 248_320, turns=256),
    "4b": Size(2560, 32, 16, 4, 256, 9216, 248_320, turns=256),
}


def model_of(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> EvoEmbedding:
    """Build the paper's stack on a random backbone; its adapters and queries matter, as if trained."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=32768,
        pad_token_id=0,
    )
    with torch.device(device):
        # In its dtype from the start: a wider copy would hide what is used later from a measure of the peak.
        backbone = AutoModel.from_config(config, dtype=dtype).eval()
    # Loaded small and swapped: a folder of the real size would only be written to be read again.
    small = Qwen3Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, pad_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        Qwen3Model(small).save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
        transformer = Transformer(folder)
    transformer.model = backbone
    memory = {
        "init": "paper",
        "lora_rank": size.rank,
        "lora_alpha": 2.0 * size.rank,
        "lora_dropout": 0.0,
        "num_latents": size.num_latents,
        "capacity_latents": size.capacity,
    }
    modules = [transformer, Pooling(size.hidden, "lasttoken"), Normalize()]
    model = EvoEmbedding(modules=modules, memory_kwargs=memory, device=device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
    return model.to(dtype).eval()


def turns_of(count: int, tokens: int, seed: int = 0, spread: float = 1 / 3) -> list[str]:
    """Write ``count`` turns of about ``tokens`` random words, from ``1 - spread`` to ``1 + spread`` of that."""
    chance = random.Random(seed)
    lengths = [chance.randint(max(1, round(tokens * (1 - spread))), round(tokens * (1 + spread))) for _ in range(count)]
    return [" ".join(f"w{chance.randrange(WORDS)}" for _ in range(length)) for length in lengths]


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{index}": index + 2 for index in range(WORDS)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=8192
    )
