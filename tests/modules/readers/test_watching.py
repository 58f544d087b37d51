"""Watching where texts look in memory: shares of turns, the same outputs, gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from evoemb import InputError
from evoemb.modules.readers.watching import attention_by_age

QUERY = "where do i live ?"


def _texts(model, *texts):
    return {tuple(ids) for ids in model[0].token_ids(list(texts))}


@pytest.fixture(params=["bert", "modernbert"])
def encoder(request, models):
    return copy.deepcopy(models(request.param, "attention")).eval()


def test_shares_of_the_turns_seen_add_up_to_one_and_outputs_stay(encoder, stream):
    state = encoder.new_state()
    encoder.encode(stream[:5], stateful=True, state=state)
    plain = encoder.encode(QUERY, state=state)
    with encoder[0].reader.watching(_texts(encoder, QUERY)) as watched:
        np.testing.assert_array_equal(encoder.encode(QUERY, state=state), plain)
    assert [one.layer for one in watched] == list(range(encoder[0].reader.num_memory_layers))
    for one in watched:
        assert not one.of_latents
        assert one.turns == [min(5, one.weights.shape[-1])]
        torch.testing.assert_close(one.weights[..., -one.turns[0] :].sum(-1), torch.ones(one.weights.shape[:2]))


def test_only_the_texts_asked_for_are_watched_with_their_latents(encoder, stream):
    with encoder[0].reader.watching(_texts(encoder, stream[3])) as watched:
        encoder.encode(stream[:6], stateful=True)
    assert {ids for one in watched for ids in one.token_ids} == _texts(encoder, stream[3])
    assert {one.of_latents for one in watched} == {False, True}
    assert {count for one in watched for count in one.turns} == {3}


def test_a_bias_for_the_turn_just_before_shows_in_its_share(encoder, stream):
    reader = encoder[0].reader
    with torch.no_grad():
        reader.age_bias[:, :, 0] += 50.0
    with reader.watching(_texts(encoder, *stream[1:4])) as watched:
        encoder.encode(stream[:4], stateful=True)
    assert watched
    assert all(float(one.weights[..., -1].min()) > 0.99 for one in watched)


def test_gradients_reach_the_memory_through_what_is_watched(encoder, stream):
    encoder.train()
    reader = encoder[0].reader
    memory = torch.randn(1, 2 * reader.config.num_latents, reader.latent_size)
    ids = torch.tensor(encoder[0].token_ids([QUERY]))
    with reader.watching({tuple(ids[0].tolist())}) as watched:
        reader.read(ids, torch.ones_like(ids), memory, torch.ones(memory.shape[:2], dtype=torch.bool))
    watched[-1].weights[..., 0].sum().backward()
    assert float(reader.age_bias.grad.abs().max()) > 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_gradient_checkpointing_is_refused(encoder):
    encoder.train()
    encoder.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(InputError, match="Switch one of them off"), encoder[0].reader.watching(set()):
        pass


def test_the_softmax_is_over_the_memory_alone_and_the_oldest_turn_may_have_fewer_slots():
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)
    bias, valid = torch.randn(3, 5), torch.tensor([[True] * 5, [False] * 5])
    found = attention_by_age(query, key, bias[:, None].expand(2, 3, 4, 5), valid, num_latents=2)
    slots = (query[0] @ key[0].transpose(-1, -2) / 8**0.5 + bias[:, None]).softmax(-1)
    turns = torch.stack([slots[..., 0], slots[..., 1:3].sum(-1), slots[..., 3:].sum(-1)], dim=-1)
    torch.testing.assert_close(found[0], turns)
    assert not found[1].any()
