"""MemoryState as a handle: what it tells, how it is copied, cut, joined and moved."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from evoemb import MemoryState
from evoemb._errors import StateError
from laws import assert_same_embeddings, assert_same_states, bytes_of


@pytest.fixture
def state(model, stream):
    """A state of three streams: one in the middle of a segment, one longer than the queue, one empty."""
    states = [model.new_state() for _ in range(3)]
    model.encode(stream[:2], stateful=True, state=states[0])
    model.encode(stream, stateful=True, state=states[1])
    return MemoryState.stack(states)


def test_a_new_state_is_empty(model):
    state = model.new_state()
    assert (state.batch_size, state.num_turns, state.num_latents, state.nbytes) == (1, 0, 0, 0)
    assert state.latents[0].shape == (0, model.state_spec.latent_size)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_a_state_holds_at_least_one_stream(model, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} was given. A state holds at least one stream"):
        model.new_state(batch_size)
    with pytest.raises(StateError, match=r"needs at least one stream.* Use model.new_state\(\)"):
        MemoryState(model.state_spec, [])


def test_a_state_tells_what_it_holds(model, state, stream):
    config = model.memory_config
    assert len(state) == state.batch_size == 3
    assert state.num_turns == (2, len(stream), 0)
    assert state.num_latents == (2 * config.num_latents, config.capacity_latents, 0)
    assert [tuple(one.shape) for one in state.latents] == [(n, state.spec.latent_size) for n in state.num_latents]
    assert state.nbytes >= sum(one.nbytes for one in state.latents)
    assert state.device == torch.device("cpu")
    assert state.spec == model.state_spec
    told = repr(state)
    assert f"batch_size=3, num_turns=(2, {len(stream)}, 0)" in told
    assert f"nbytes={state.nbytes}, model='{model.state_spec.model_id}'" in told


def test_indexing_gives_one_stream_as_a_state_of_its_own(model, state, stream):
    before = bytes_of(state)
    for index in (0, 1, 2, -1):
        part = state[index]
        assert part.batch_size == 1
        assert part.num_turns == state.num_turns[index]
        model.encode(stream, stateful=True, state=part)
    assert bytes_of(state) == before
    assert [part.num_turns for part in state] == list(state.num_turns)


def test_a_slice_gives_several_streams(state):
    assert state[1:].num_turns == state.num_turns[1:]
    assert state[::-1].num_turns == state.num_turns[::-1]
    with pytest.raises(StateError, match="at least one stream"):
        state[:0]
    with pytest.raises(IndexError):
        state[3]


def test_stacking_the_streams_of_a_state_gives_it_back(state):
    assert_same_states(MemoryState.stack(list(state)), state, tolerance=0)
    assert_same_states(MemoryState.stack([state[:2], state[2]]), state, tolerance=0)


def test_stacked_states_read_on_as_each_alone(model, state, stream):
    alone = [state[index].clone() for index in range(3)]
    batch = model.encode([stream[:3]] * 3, stateful=True, state=state)
    for index, one in enumerate(alone):
        assert_same_embeddings(batch[index], model.encode(stream[:3], stateful=True, state=one))
        assert_same_states(state[index], one)


def test_stacking_nothing_or_states_of_two_models_is_refused(models):
    with pytest.raises(StateError, match="needs at least one state, but none was given"):
        MemoryState.stack([])
    states = [models("bert", "attention").new_state(), models("qwen3", "prefix").new_state()]
    with pytest.raises(StateError, match=r"States 0 and 1 belong to different models: fingerprint .*; reader"):
        MemoryState.stack(states)


def through_pickle(state: MemoryState) -> MemoryState:
    return pickle.loads(pickle.dumps(state))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle, MemoryState.clone])
def test_a_copy_is_independent(model, state, stream, duplicate):
    twin, before = duplicate(state), bytes_of(state)
    assert_same_states(twin, state, tolerance=0)
    assert twin.spec == state.spec
    model.encode([stream] * 3, stateful=True, state=twin)
    assert bytes_of(state) == before
    assert twin.num_turns != state.num_turns


def test_a_clone_shares_no_storage(state):
    mine = {one.untyped_storage().data_ptr() for one in state.latents if one.numel()}
    theirs = {one.untyped_storage().data_ptr() for one in state.clone().latents if one.numel()}
    assert not mine & theirs


def test_a_reset_state_is_empty_and_keeps_its_streams(state, model):
    state.reset()
    assert state.num_turns == (0, 0, 0)
    assert state.nbytes == 0
    assert_same_states(state, model.new_state(3), tolerance=0)


def test_moving_a_state_keeps_its_value_and_gives_it_back(state):
    before = bytes_of(state)
    assert state.to("cpu") is state
    assert bytes_of(state) == before
    state.to("meta")  # the one other device every machine has
    assert state.device == torch.device("meta")


def test_a_state_never_carries_gradients_or_inference_tensors(model, stream):
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    for latents in state.latents:
        assert not latents.requires_grad
        assert not latents.is_inference()


def test_a_value_that_is_not_the_current_one_cannot_be_advanced(state):
    old = state.snapshot()
    state.advance(old, [memory.copy() for memory in old])
    before = bytes_of(state)
    with pytest.raises(StateError, match=r"advanced by another call .* retry this call"):
        state.advance(old, old)
    assert bytes_of(state) == before


def test_two_specs_differ_where_they_say(models):
    mine, other = models("bert", "attention").state_spec, models("qwen3", "prefix").state_spec
    assert mine.differences(mine) == []
    told = mine.differences(other)
    assert "num_latents 2 against 3" in told
    assert not any(line.startswith(("model_id", "revision")) for line in told)


def test_what_travels_between_processes_is_the_value_alone(model, stream):
    """Cached keys and values of a large model would be hundreds of times the state's own size."""
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    model.encode("where", state=state)
    assert len(pickle.dumps(state)) < state.nbytes + 4096
    assert through_pickle(state).cache_nbytes == 0
