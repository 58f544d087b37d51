"""Uses of the public names that must type-check: `mypy tests/typing` reads this file, nothing runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import assert_type

from evoemb import EvoEmbedding, EvoReranker, MemoryState, load_upstream
from evoemb.losses import CombinedLoss, EvidenceContrastiveLoss
from evoemb.ranking import Hit, RankedId, RetrievalConfig
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments, StreamCollator

TURNS = ["I live in Oslo.", "Last week I moved to Porto."]
MESSAGES = [{"role": "user", "content": "I live in Oslo."}, {"role": "user", "content": "Where do I live?"}]
Array = NDArray[Any]


def encode(model: EvoEmbedding, state: MemoryState, flag: bool) -> None:
    assert_type(model.encode("one text"), Array)
    assert_type(model.encode(TURNS), Array)
    assert_type(model.encode(TURNS, stateful=True, memory="final", batch_size=4), Array)
    assert_type(model.encode(MESSAGES, stateful=True, state=state), Array)
    assert_type(model.encode(TURNS, state=state, convert_to_tensor=True), Tensor)
    assert_type(model.encode("one text", state=state, convert_to_numpy=False), Tensor)
    assert_type(model.encode(TURNS, state=state, convert_to_numpy=False), list[Tensor])
    assert_type(model.encode([TURNS, TURNS[:1]], stateful=True), list[Array])
    assert_type(model.encode([MESSAGES, MESSAGES], stateful=True, convert_to_tensor=True), list[Tensor])
    model.encode(TURNS, stateful=flag, convert_to_tensor=flag)
    model.encode(TURNS, "query", None, 16, output_value="token_embeddings")
    assert_type(model.encode("one text", state=state, output_value="token_embeddings"), Tensor)
    assert_type(model.encode(MESSAGES, stateful=True, output_value="token_embeddings"), list[Tensor])
    assert_type(model.encode([TURNS, TURNS], stateful=True, output_value="token_embeddings"), list[list[Tensor]])
    assert_type(model.encode_messages(MESSAGES), Array)
    assert_type(model.encode_messages(MESSAGES, convert_to_tensor=True), Tensor)
    assert_type(model.encode_native("one text"), Array)
    assert_type(model.encode_native(TURNS, convert_to_tensor=True), Tensor)


def retrieve(model: EvoEmbedding) -> None:
    hits = model.retrieve(TURNS, "Where do I live?", top_k=1)
    assert_type(hits, list[Hit])
    assert_type(hits[0]["text"], str)
    assert_type(hits[0]["score"], float)
    assert_type(hits[0]["corpus_id"], int)
    assert_type(model.retrieve(TURNS, ["Where?", "Who?"], scoring="hybrid"), list[list[Hit]])
    assert_type(model.retrieve(TURNS, "Where?", scoring="late"), list[Hit])
    assert_type(model.retrieve(MESSAGES, native=True, scoring="hybrid"), list[Hit])
    model.retrieval_config = RetrievalConfig("late", vector_weight=0)
    assert_type(model.retrieve(MESSAGES, top_k=None, state=model.new_state()), list[Hit])


def generate(model: EvoEmbedding) -> None:
    assert_type(model.generate(MESSAGES, max_new_tokens=5, do_sample=True), str)
    assert_type(model.generate(MESSAGES, return_token_ids=True), list[int])


def rank(model: EvoEmbedding) -> None:
    reranker = EvoReranker(model, temperature=0.1)
    assert_type(reranker.rank("Where?", TURNS, 2, state=model.new_state()), list[RankedId])
    assert_type(reranker.rank("Where?", TURNS, return_documents=True), list[Hit])
    assert_type(reranker.predict(("Where?", TURNS[0])), np.float32)
    assert_type(reranker.predict([("Where?", turn) for turn in TURNS]), NDArray[np.float32])
    assert_type(reranker.predict([["Where?", turn] for turn in TURNS], convert_to_tensor=True), Tensor)


def states(model: EvoEmbedding) -> None:
    state = model.new_state(batch_size=2)
    state.save("chat.safetensors")
    loaded = MemoryState.load("chat.safetensors")
    assert_type(loaded[0], MemoryState)
    assert_type(MemoryState.stack([loaded[0], loaded[1]]), MemoryState)


def train(folder: str) -> None:
    model = EvoEmbedding(folder, memory_reader="attention", num_latents=4)
    args = EvoEmbeddingTrainingArguments(folder, bptt_turns=8)
    loss = CombinedLoss(model, [EvidenceContrastiveLoss(model)])
    EvoEmbeddingTrainer(model, args, [{"turns": TURNS}], loss=loss, data_collator=StreamCollator(model))
    assert_type(load_upstream(folder, dtype="float32"), EvoEmbedding)
