"""Memory, embeddings and dialogues against the paper's code, through the public methods."""

from __future__ import annotations

import pytest
import torch

from evoemb import MemoryState
from evoemb.chat.ids import split_messages
from evoemb.segments import SegmentPolicy
from evoemb.state.memory import StreamMemory
from parity.cases import TOLERANCE


def close(found, expected, kind):
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=TOLERANCE[kind])


def chunk_sizes(model, lengths):
    policy = SegmentPolicy(model.memory_config.segment_turns, model.memory_config.segment_tokens)
    return [segment.stop - segment.start for segment in policy.group(lengths)]


def is_short(case):
    """Whether there is something to resume, and little enough to read turn by turn."""
    return case.expected("buffer") is not None and len(case.inputs["history_turns"]) <= 20


@pytest.mark.operation("build_latent_buffer")
def test_reading_turns_leaves_the_latents_of_the_original(model, case):
    turns, state = case.inputs["history_turns"], model.new_state()
    if turns:
        model.encode(turns, stateful=True, state=state)
    expected = case.expected("buffer")
    if expected is None:
        assert state.num_latents == 0
        return
    close(state.latents[0], expected[0], "latents")
    lengths = [len(ids) for ids in model[0].token_ids(turns)]
    assert lengths == case.expected_values["turn_token_lengths"]
    assert chunk_sizes(model, lengths) == case.expected_values["chunk_sizes"]


@pytest.mark.operation("build_latent_buffer", where=is_short)
def test_reading_turn_by_turn_leaves_the_same_latents(model, case):
    expected, state = case.expected("buffer"), model.new_state()
    for turn in case.inputs["history_turns"]:
        model.encode([turn], stateful=True, state=state)
    close(state.latents[0], expected[0], "latents")


@pytest.mark.operation("encode_texts_with_latent_buffer")
def test_texts_on_a_memory_are_embedded_as_by_the_original(model, case):
    texts, key, expected = case.inputs["texts"], case.inputs["latent_buffer"], case.expected("embeddings")
    limits = {"max_batch_tokens": case.inputs["max_batch_tokens"]}
    if case.inputs["native"]:
        close(model.encode_native(texts), expected, "embeddings")
        return
    state = model.new_state()
    if key is not None:
        state = MemoryState(model.state_spec, [StreamMemory(case.tensor(key)[0], num_turns=1)])
    found = torch.as_tensor(model.encode(texts, state=state, **limits))
    close(found.unsqueeze(0) if isinstance(texts, str) else found, expected, "embeddings")
    if key is None:
        close(model.encode(texts), expected, "embeddings")


@pytest.mark.operation("encode_messages")
def test_messages_are_embedded_as_by_the_original(model, case):
    messages = case.inputs["messages"]
    close(model.encode_messages(messages, native=case.inputs["native"]), case.expected("embeddings"), "embeddings")
    turns, query = split_messages(messages, model[0].dialogue.config)
    assert turns == case.expected_values["history_turns"]
    assert query == case.expected_values["query"]
