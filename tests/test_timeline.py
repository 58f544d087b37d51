"""The timeline: one reading gives the state of every chosen moment."""

from __future__ import annotations

import numpy as np
import pytest

from evoemb import InputError
from evoemb.timeline import read_moments
from laws import assert_same_embeddings, assert_same_states, bytes_of


def state_after(model, turns):
    state = model.new_state()
    if turns:
        model.encode(turns, stateful=True, state=state)
    return state


def test_a_moment_has_the_state_and_the_vectors_of_reading_only_so_far(model, stream):
    moments = [9, 1, 4, len(stream), 4]
    vectors = []
    for reached in read_moments(model, [stream], [moments]):
        moment = reached[0]
        vectors.append(moment.vectors)
        assert_same_states(moment.state, state_after(model, stream[: moment.num_turns]))
        assert_same_embeddings(
            model.encode("where do i live", state=moment.state),
            model.encode("where do i live", state=state_after(model, stream[: moment.num_turns])),
        )
    assert [len(one) for one in vectors] == [1, 3, 5, 4]
    assert_same_embeddings(np.concatenate(vectors), model.encode(stream, stateful=True))


def test_the_state_of_a_moment_stays_while_reading_goes_on(model, stream):
    kept = [(one[0].state, bytes_of(one[0].state)) for one in read_moments(model, [stream], [range(1, 14)])]
    assert all(bytes_of(state) == before for state, before in kept)
    assert [state.num_turns for state, _ in kept] == list(range(1, 14))


def test_streams_are_read_side_by_side_each_to_its_last_moment(model, stream):
    streams, moments = [stream, stream[::-1], stream[3:6]], [[2, 7], [5], [1, 2, 3]]
    steps = list(read_moments(model, streams, moments))
    assert [{index: one.num_turns for index, one in step.items()} for step in steps] == [
        {0: 2, 1: 5, 2: 1},
        {0: 7, 2: 2},
        {2: 3},
    ]
    for step in steps:
        for index, moment in step.items():
            assert_same_states(moment.state, state_after(model, streams[index][: moment.num_turns]))


@pytest.mark.parametrize("remember", [0, 3, 4, 13, 20])
def test_a_memory_that_stops_stays_while_later_turns_are_encoded_on_it(model, stream, remember):
    vectors, frozen = [], state_after(model, stream[:remember])
    for reached in read_moments(model, [stream], [[2, 4, 13]], remember=remember):
        vectors.append(reached[0].vectors)
        assert_same_states(reached[0].state, state_after(model, stream[: min(remember, reached[0].num_turns)]))
    expected = [*(model.encode(stream[:remember], stateful=True) if remember else [])]
    if remember < len(stream):
        expected += [*model.encode(stream[remember:], state=frozen)]
    assert_same_embeddings(np.concatenate(vectors), expected)


def test_moments_outside_a_stream_are_refused(models, stream):
    model = models("bert", "attention")
    for moments in ([], [0], [-1, 3], [14]):
        with pytest.raises(InputError, match=r"were given for stream 1 of 13 turns.* from 1 to the number of turns"):
            next(read_moments(model, [stream, stream], [[1], moments]))
    with pytest.raises(InputError, match=r"2 lists of moments were given for 1 streams"):
        next(read_moments(model, [stream], [[1], [2]]))
    with pytest.raises(InputError, match=r"Pass one list a stream, and at least one stream"):
        next(read_moments(model, [], []))
