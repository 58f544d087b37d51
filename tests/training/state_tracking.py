"""A task that only a memory solves: who holds an object now, and who held it first.

A stream tells how objects change hands. Every turn about an object reads alike but for the name, so a text alone says
neither that it was the first nor that it is the newest: without memory one can only guess among the object's turns.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from evoemb import EvoEmbedding

NAMES = ("ada", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "jun", "kim", "lea")
OBJECTS = ("key", "lamp", "book", "map")
WORDS = (*NAMES, *OBJECTS, "takes", "the", "who", "has", "had", "now", "first", "?")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def make_streams(count: int, seed: int, *, turns: int = 6, objects: int = 1) -> list[dict[str, Any]]:
    """Streams in which ``objects`` objects change hands, with both questions about each; names do not repeat."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        names = chance.sample(NAMES, turns)
        things = chance.sample(OBJECTS, objects)
        told = [things[index % objects] for index in range(turns)]
        chance.shuffle(told)
        queries, evidence = [], []
        for thing in things:
            mentions = [index for index, other in enumerate(told) if other == thing]
            queries += [f"who has the {thing} now ?", f"who had the {thing} first ?"]
            evidence += [[mentions[-1]], [mentions[0]]]
        texts = [f"{name} takes the {thing}" for name, thing in zip(names, told, strict=True)]
        made.append({"turns": texts, "query": queries, "evidence": evidence})
    return made


def tiny_model(kind: str, folder: Path, seed: int, hidden: int = 64, **memory: Any) -> EvoEmbedding:
    """A random decoder (prefix reader, two layers) or encoder (attention reader, three layers)."""
    torch.manual_seed(seed)
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    size = {"vocab_size": len(vocabulary), "hidden_size": hidden, "intermediate_size": 2 * hidden}
    size["num_attention_heads"] = 4
    if kind == "decoder":
        heads = {"num_key_value_heads": 4, "head_dim": hidden // 4, "max_position_embeddings": 1024}
        Qwen3Model(Qwen3Config(**size, **heads, num_hidden_layers=2, pad_token_id=0)).save_pretrained(folder)
    else:
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        BertModel(
            BertConfig(**size, **quiet, num_hidden_layers=3, max_position_embeddings=32, pad_token_id=0)
        ).save_pretrained(folder)
    pooling = Pooling(hidden, "lasttoken" if kind == "decoder" else "mean")
    base = SentenceTransformer(modules=[Transformer(str(folder)), pooling, Normalize()], device="cpu")
    reader = "prefix" if kind == "decoder" else "attention"
    choices = {"num_latents": 2, "capacity_latents": 32, "lora_rank": 8, "lora_dropout": 0.0, **memory}
    return EvoEmbedding(modules=list(base), memory_kwargs={"reader": reader, **choices}, device="cpu")


def recall_at_1(model: EvoEmbedding, streams: list[dict[str, Any]], *, memory: bool = True) -> float:
    """The share of questions whose evidence ranks first; without ``memory`` every text is encoded alone."""
    model.eval()
    hits: list[bool] = []
    state = model.new_state(len(streams))
    texts = [stream["turns"] for stream in streams]
    if memory:
        turns = model.encode(texts, stateful=True, state=state, convert_to_tensor=True, batch_size=256)
    for index, stream in enumerate(streams):
        own = turns[index] if memory else model.encode(stream["turns"], convert_to_tensor=True)
        asked = {"state": state[index]} if memory else {}
        queries = model.encode(stream["query"], convert_to_tensor=True, **asked)
        best = (queries @ own.T).argmax(-1).tolist()
        hits += [[place] == evidence for place, evidence in zip(best, stream["evidence"], strict=True)]
    return sum(hits) / len(hits)
