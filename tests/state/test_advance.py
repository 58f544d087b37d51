"""Who may change a state, and when: all or nothing, only by stateful calls of the model that made it."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch

from evoemb import EvoEmbedding, MemoryState
from evoemb._errors import InputError, InputTypeError, StateError
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from laws import assert_same_embeddings, assert_same_states, bytes_of
from tiny_models import make_model


class StopHereError(Exception):
    """Raised by a test in the middle of a call."""


@pytest.fixture
def read_state(model, stream):
    """A state in the middle of a segment."""
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    return state


@pytest.mark.parametrize("memory", ["causal", "final"])
@pytest.mark.parametrize("place", ["write", "pooling"])
def test_a_call_that_fails_in_the_middle_leaves_the_state_as_it_was(
    model, stream, read_state, monkeypatch, place, memory
):
    before, latents = bytes_of(read_state), read_state.snapshot()
    calls = []

    def failing(module, *args):
        calls.append(module)
        if len(calls) == 4:
            raise StopHereError
        return original(module, *args)

    if place == "write":
        original = LatentMemoryQueue.write
        monkeypatch.setattr(LatentMemoryQueue, "write", failing)
    else:
        original = type(model[2]).forward
        monkeypatch.setattr(type(model[2]), "forward", failing)
    with pytest.raises(StopHereError):
        model.encode(stream * 4, stateful=True, state=read_state, memory=memory, batch_size=1)
    monkeypatch.undo()
    assert len(calls) == 4
    assert bytes_of(read_state) == before
    assert read_state.snapshot() is latents


def test_a_failed_call_can_be_repeated(model, stream, read_state, monkeypatch):
    expected = read_state.clone()
    wanted = model.encode(stream, stateful=True, state=expected)
    with monkeypatch.context() as patch:
        patch.setattr(LatentMemoryQueue, "write", lambda *_: (_ for _ in ()).throw(StopHereError))
        with pytest.raises(StopHereError):
            model.encode(stream, stateful=True, state=read_state)
    assert_same_embeddings(model.encode(stream, stateful=True, state=read_state), wanted)
    assert_same_states(read_state, expected)


BAD_CALLS = [
    ({"inputs": []}, InputError, "nothing to read"),
    ({"inputs": None}, InputTypeError, "None was given"),
    ({"inputs": 5}, InputTypeError, "an int was given"),
    ({"inputs": ["ok", None]}, InputTypeError, "Turn 1 is None"),
    ({"inputs": ["ok", 5]}, InputTypeError, "Turn 1 is an int"),
    ({"inputs": [{"role": "user"}]}, InputError, 'no "content"'),
    ({"inputs": [{"role": "wizard", "content": "x"}]}, InputError, "role 'wizard'"),
    ({"inputs": (turn for turn in ["ok"])}, InputTypeError, "read only once"),
    ({"inputs": [["ok"], ["ok"]]}, StateError, "holds 1 streams, but 2 streams were given"),
    ({"inputs": ["ok"], "batch_size": 0}, InputError, "batch_size=0"),
    ({"inputs": ["ok"], "max_batch_tokens": 0}, InputError, "max_batch_tokens=0"),
    ({"inputs": ["ok"], "memory": "later"}, InputError, "memory='later' is not known"),
    ({"inputs": ["ok"], "precision": "int4"}, ValueError, "int4"),
    ({"inputs": ["ok"], "prompt_name": "nobody"}, ValueError, "nobody"),
    ({"inputs": ["ok"], "output_value": None}, InputError, "output_value=None"),
    ({"inputs": ["ok"], "pool": {"processes": []}}, InputError, "process pool"),
    ({"inputs": ["ok"], "device": ["cpu", "cpu"]}, InputError, "one device"),
    ({"inputs": ["ok"], "normalise_embeddings": True}, ValueError, "normalise_embeddings"),
    ({"inputs": ["ok", "i live in paris " * 30], "truncate": False}, InputError, "Turn 1 has .* reads 64"),
    ({"inputs": ["ok", "half an emoji \ud83d"]}, InputError, "Turn 1 .*surrogate"),
    ({"inputs": [{"role": "user", "content": "\udc00"}]}, InputError, "message 0 .*surrogate"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_a_refused_call_says_why_and_changes_nothing(models, stream, call, error, message):
    model = models("qwen3", "prefix")
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    before = bytes_of(state)
    with pytest.raises(error, match=message):
        model.encode(stateful=True, state=state, **call)
    assert bytes_of(state) == before


def test_a_state_that_is_none_of_ours_is_refused(model):
    with pytest.raises(StateError, match=r"state is dict, expected MemoryState. Make one with model.new_state\(\)"):
        model.encode(["ok"], stateful=True, state={})


def test_latents_that_are_not_finite_never_reach_a_state(base_folder, stream):
    model = make_model(base_folder("qwen3"), "prefix")
    state = model.new_state()
    model.encode(stream[:2], stateful=True, state=state)
    before = bytes_of(state)
    with torch.no_grad():
        model[0].reader.memory_queries[0, 0] = torch.nan
    broken = MemoryState(model.state_spec, state.snapshot())
    with pytest.raises(StateError, match=r"NaN or infinite, so the state was not advanced"):
        model.encode(stream, stateful=True, state=broken)
    assert bytes_of(broken) == before


OTHERS = {
    "weights": (("bert", "attention", {}), "fingerprint '"),
    "capacity": (("bert", "attention", {"capacity_latents": 10}), "capacity_latents 8 against 10"),
    "latents": (("bert", "attention", {"num_latents": 4}), "num_latents 2 against 4"),
    "layers": (("bert", "attention", {"memory_layers": 1}), "latent_size 64 against 32"),
    "reader": (("bert", "prefix", {}), "reader 'attention' against 'prefix'"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_state_of_another_model_is_refused_with_the_difference_named(base_folder, models, stream, case):
    (kind, reader, memory), difference = OTHERS[case]
    model = models("bert", "attention")
    other = make_model(base_folder(kind), reader, trained=case != "weights", **memory)
    state = other.new_state()
    other.encode(stream[:2], stateful=True, state=state)
    before = bytes_of(state)
    for call in ({"stateful": True}, {}):
        with pytest.raises(StateError, match=r"does not fit .*Load the model that made it") as caught:
            model.encode(stream, state=state, **call)
        assert difference in str(caught.value)
    with pytest.raises(StateError, match="does not fit"):
        model.retrieve(stream, "where", state=state)
    assert bytes_of(state) == before


@pytest.mark.parametrize("packing", [{"segment_turns": 3}, {"segment_tokens": 41}], ids=str)
def test_a_state_of_another_packing_is_refused(base_folder, models, packing):
    state = make_model(base_folder("qwen3"), "prefix", **packing).new_state()
    with pytest.raises(StateError, match=f"{next(iter(packing))} 4.? against {next(iter(packing.values()))}"):
        models("qwen3", "prefix").encode(["ok"], stateful=True, state=state)


def test_one_training_step_makes_a_model_another_model(base_folder, stream):
    model = make_model(base_folder("bert"), "attention")
    state = model.new_state()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.raises(StateError, match="fingerprint"):
        model.encode(stream, stateful=True, state=state)


def test_old_states_never_change(model, stream):
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    clone, part, snapshot = state.clone(), state[0], state.snapshot()
    tensors = [memory.latents.clone() for memory in snapshot]
    before = bytes_of(state)
    model.encode(stream, stateful=True, state=state)
    assert bytes_of(clone) == bytes_of(part) == before
    assert bytes_of(state) != before
    for memory, tensor in zip(snapshot, tensors, strict=True):
        torch.testing.assert_close(memory.latents, tensor, rtol=0, atol=0)
    state.reset()
    assert bytes_of(clone) == bytes_of(part) == before


BRANCHES = {
    "part": lambda state: state[0],
    "stacked": lambda state: MemoryState.stack([state]),
    "copied": copy.copy,
    "cloned": MemoryState.clone,
    "snapshot": lambda state: MemoryState(state.spec, state.snapshot()),
}


@pytest.fixture(scope="module")
def read_alone():
    """Give the state after some turns and its answer to a question; read once, for every way to branch."""

    @cache
    def read(model, turns, query):
        state = model.new_state()
        model.encode(list(turns), stateful=True, state=state)
        return state, model.encode(query, state=state)

    return read


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("read", [2, 8, *(pytest.param(read, marks=pytest.mark.slow) for read in (1, 5, 6))])
def test_two_states_that_branch_from_one_value_read_on_as_if_alone(model, stream, branch, read, read_alone):
    """What a state keeps to be quick may be shared with its copies; no copy may see what another one read."""
    first = model.new_state()
    model.encode(stream[:read], stateful=True, state=first)
    model.encode("where is my dog", state=first)
    second = BRANCHES[branch](first)
    continuations = (stream[::-1][:3], ["i moved to bern", "my brother found a key", "ok", "where"])
    for step in range(3):
        for state, turns in zip((first, second), continuations, strict=True):
            model.encode([turns[step]], stateful=True, state=state)
            model.encode("where is my dog", state=state)
    for state, turns in zip((first, second), continuations, strict=True):
        query = "where do i live"
        alone, answer = read_alone(model, (*stream[:read], *turns[:3]), query)
        assert_same_states(state, alone)
        assert_same_embeddings(model.encode(query, state=state), answer)


def test_many_threads_ask_one_state_at_once(model, stream):
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    queries = [*stream, "where do i live"] * 3
    expected = [model.encode(query, state=state.clone()) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda query: model.encode(query, state=state), queries)
        for got, wanted in zip(answers, expected, strict=True):
            assert_same_embeddings(got, wanted)


def test_threads_read_on_from_branches_of_one_state_without_disturbing_each_other(model, stream):
    state = model.new_state()
    model.encode(stream[:6], stateful=True, state=state)
    ends = [stream[start : start + 4] for start in range(6)]

    def read_on(turns: list[str]) -> MemoryState:
        mine = state[0]
        for turn in turns:
            model.encode(turn, stateful=True, state=mine)
        return mine

    with ThreadPoolExecutor(4) as pool:
        for turns, got in zip(ends, pool.map(read_on, ends), strict=True):
            alone = model.new_state()
            model.encode([*stream[:6], *turns], stateful=True, state=alone)
            assert_same_states(got, alone)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_call_that_failed_late_can_be_repeated_in_the_middle_of_a_segment(any_model, stream, monkeypatch, fails_at):
    state, alone = any_model.new_state(), any_model.new_state()
    any_model.encode(stream[:2], stateful=True, state=state)
    any_model.encode(stream, stateful=True, state=alone)
    original, calls = type(any_model[2]).forward, []

    def failing(module, *args):
        calls.append(module)
        if len(calls) == fails_at:
            raise StopHereError
        return original(module, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(any_model[2]), "forward", failing)
        with pytest.raises(StopHereError):
            any_model.encode(stream * 10, stateful=True, state=state, batch_size=1)
    any_model.encode(stream[2:], stateful=True, state=state)
    assert_same_states(state, alone)


def test_reading_on_from_a_clone_leaves_the_original(model, stream, read_state):
    clone, before = read_state.clone(), bytes_of(read_state)
    model.encode(stream, stateful=True, state=clone)
    assert bytes_of(read_state) == before


def test_a_state_that_was_reset_reads_like_a_new_one(model, stream, read_state):
    read_state.reset()
    assert read_state.num_turns == read_state.num_latents == 0
    new = model.new_state()
    assert_same_embeddings(
        model.encode(stream, stateful=True, state=read_state),
        model.encode(stream, stateful=True, state=new),
        tolerance=0,
    )
    assert_same_states(read_state, new, tolerance=0)


def test_advancing_one_state_from_two_calls_at_once_is_refused_and_loses_nothing(models, stream, monkeypatch):
    model = models("bert", "attention")
    state = model.new_state()
    original = LatentMemoryQueue.write
    inside = threading.Event()
    go_on = threading.Event()

    def waiting(queue: LatentMemoryQueue, hidden: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(30)
        return original(queue, hidden)

    monkeypatch.setattr(LatentMemoryQueue, "write", waiting)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(model.encode, stream, stateful=True, state=state)
        assert inside.wait(30)
        model.encode(stream[:3], stateful=True, state=state)
        before = bytes_of(state)
        go_on.set()
        with pytest.raises(StateError, match=r"advanced by another call .* this call's turns were not added"):
            slow.result(30)
    assert bytes_of(state) == before
    assert state.num_turns == 3


def test_threads_in_different_roles_do_not_disturb_each_other(models, stream):
    model: EvoEmbedding = models("qwen3", "prefix")
    state = model.new_state()
    expected_turns = model.encode(stream, stateful=True, state=state)
    expected_query = model.encode(stream, state=state)
    expected_plain = model.encode(stream)

    def reading(_: int) -> np.ndarray:
        return model.encode(stream, stateful=True)

    def asking(_: int) -> np.ndarray:
        return model.encode(stream, state=state)

    def plain(_: int) -> np.ndarray:
        return model.encode(stream)

    with ThreadPoolExecutor(3) as pool:
        runs = [
            (pool.submit(call, turn), expected)
            for turn in range(8)
            for call, expected in ((reading, expected_turns), (asking, expected_query), (plain, expected_plain))
        ]
        for run, expected in runs:
            assert_same_embeddings(run.result(60), expected)
