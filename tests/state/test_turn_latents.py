"""A state at any past turn is the last turns' own latents, and the token ids of the segment that is still open."""

from __future__ import annotations

import pytest
import torch

from evoemb import MemoryState
from evoemb._errors import InputError, StateError
from laws import assert_same_embeddings, assert_same_states


def test_a_state_built_of_its_turns_is_that_of_having_read_only_so_far(any_model, stream):
    whole, rows, opened, past = any_model.new_state(), [], [], []
    for turn, text in enumerate(stream):
        any_model.encode([text], stateful=True, state=whole)
        rows.append(whole.turn_latents(turn))
        opened.append(whole.open_turns[0])
        past.append(whole.clone())
    for turn, read in enumerate(past):
        built = MemoryState.of_turns(
            any_model.state_spec, rows[: turn + 1], num_turns=turn + 1, open_turns=opened[turn]
        )
        assert_same_states(built, read)
        if turn % 4 == 0:
            query = "where do i live"
            assert_same_embeddings(any_model.encode(query, state=built), any_model.encode(query, state=read))


def test_a_turn_that_left_the_queue_or_was_not_read_is_refused(model, stream):
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    for turn in (-1, 0, len(stream)):
        with pytest.raises(InputError, match=rf"turn_latents\({turn}\) was asked for, but the queue holds"):
            state.turn_latents(turn)
    with pytest.raises(StateError, match="This state holds 2 streams"):
        model.new_state(2).turn_latents(0)


def test_parts_that_contradict_each_other_are_refused(model, stream):
    spec, size = model.state_spec, (model.state_spec.num_latents, model.state_spec.latent_size)
    with pytest.raises(StateError, match=r"latents\[0\] has the shape"):
        MemoryState.of_turns(spec, [torch.zeros(1, 1)], num_turns=1)
    with pytest.raises(StateError, match="1 turns' latents were given, but a state after 3 turns holds"):
        MemoryState.of_turns(spec, [torch.zeros(size)], num_turns=3)
    assert_same_states(MemoryState.of_turns(spec, [], num_turns=0), model.new_state())


def test_what_no_state_can_hold_is_refused(model):
    spec, latents = model.state_spec, torch.zeros(model.state_spec.num_latents, model.state_spec.latent_size)
    for num_turns in (-1, True, 1.5, "1"):
        with pytest.raises(StateError, match=r"num_turns=.* was given. Pass how many turns were read"):
            MemoryState.of_turns(spec, [latents], num_turns=num_turns)
    for wrong, problem in (
        (latents * torch.nan, "holds latents that are NaN or infinite"),
        (latents.long(), "holds latents of type torch.int64"),
    ):
        with pytest.raises(StateError, match=rf"These turns make no state: it {problem}"):
            MemoryState.of_turns(spec, [wrong], num_turns=1)
    with pytest.raises(StateError, match="it holds an open segment that does not fit its packing"):
        MemoryState.of_turns(spec, [latents] * 4, num_turns=4, open_turns=[[1]] * 4)


def test_a_state_built_of_turns_keeps_nothing_of_what_it_was_given(model):
    spec, latents = model.state_spec, torch.zeros(model.state_spec.num_latents, model.state_spec.latent_size)
    built = MemoryState.of_turns(spec, [latents.requires_grad_()], num_turns=1)
    with torch.no_grad():
        latents.add_(1)
    assert built.latents[0].sum() == 0
    assert not built.latents[0].requires_grad
