"""However many streams run side by side, what is held of their memories at a time stays within a bound."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from evoemb import EvoEmbedding
from evoemb.modules.readers.key_values import KeyValues
from evoemb.streaming import engine, rows
from evoemb.streaming.rows import Limits
from laws import assert_same_embeddings, assert_same_states

QUESTIONS = ["where do i live", "what is red"]
STREAMS = 5


@pytest.fixture(params=["qwen3", "llama", "qwen3_5"])
def decoder(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """A decoder whose memories are run once for several texts."""
    return models(request.param, "prefix")


@pytest.fixture
def streams(stream: list[str]) -> list[list[str]]:
    """Streams that all fill a queue, in other orders."""
    return [stream[start:] + stream[:start] for start in range(STREAMS)]


@pytest.fixture
def ask(decoder: EvoEmbedding, streams: list[list[str]]) -> Callable[[int], np.ndarray]:
    """Ask questions of the first so many streams' memories, beside which nothing is kept."""
    state = decoder.new_state(STREAMS)
    decoder.encode(streams, stateful=True, state=state)
    memories = [memory.without_live() for memory in state.snapshot()]
    ids = decoder[0].token_ids(QUESTIONS)

    def asked(first: int) -> np.ndarray:
        with torch.no_grad():
            found = engine.read(decoder._stack(), memories[:first], [ids] * first, Limits())
        return torch.stack([torch.stack(stream) for stream in found]).numpy()

    return asked


def most_held(decoder: EvoEmbedding, call: Callable[[], object]) -> int:
    """Run a call and give the most bytes held of memories that it ran, as a forward of the backbone began."""

    seen: list[int] = []

    def count(*_: object) -> None:
        kept = {id(one): one.nbytes for one in gc.get_objects() if type(one) is KeyValues}
        seen.append(sum(kept.values()))

    gc.freeze()  # what was there before is not looked through
    handle = decoder[0].model.register_forward_pre_hook(count)
    try:
        call()
    finally:
        handle.remove()
        gc.unfreeze()
    return max(seen)


def test_more_streams_would_hold_more(decoder, ask):
    assert most_held(decoder, lambda: ask(STREAMS)) == STREAMS * most_held(decoder, lambda: ask(1)) > 0


@pytest.mark.parametrize("memories", [0, 1, 2.5])
def test_what_is_held_of_memories_stays_within_the_bound_however_many_streams(decoder, ask, monkeypatch, memories):
    one = most_held(decoder, lambda: ask(1))
    bound = int(memories * one)
    monkeypatch.setattr(rows, "KEPT_BYTES", bound)
    # One memory is always run. A recurrent layer's state is seen in the memory that passes the bound only.
    fits = max(bound, one) if decoder[0].reader.sees_beginnings else bound + one
    for streams in (3, STREAMS):
        assert most_held(decoder, lambda count=streams: ask(count)) <= fits


@pytest.mark.parametrize("memories", [0, 2.5])
def test_streams_in_groups_give_what_each_gives_alone(decoder, streams, ask, monkeypatch, memories):
    singles = [decoder.new_state() for _ in streams]
    alone = [decoder.encode(one, stateful=True, state=single) for one, single in zip(streams, singles, strict=True)]
    together = ask(STREAMS)
    monkeypatch.setattr(rows, "KEPT_BYTES", int(memories * most_held(decoder, lambda: ask(1))))
    state = decoder.new_state(STREAMS)
    for found, expected in zip(decoder.encode(streams, stateful=True, state=state), alone, strict=True):
        assert_same_embeddings(found, expected)
    assert_same_embeddings(ask(STREAMS).reshape(-1, 32), together.reshape(-1, 32))
    for index, single in enumerate(singles):
        assert_same_states(state[index], single)


def test_memories_that_a_state_holds_already_are_used_together(decoder, streams, monkeypatch):
    state = decoder.new_state(STREAMS)
    decoder.encode(streams, stateful=True, state=state)
    first = decoder.encode([QUESTIONS] * STREAMS, state=state)
    monkeypatch.setattr(rows, "KEPT_BYTES", 1)
    batches: list[int] = []
    handle = decoder[0].model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    second = decoder.encode([QUESTIONS] * STREAMS, state=state)
    handle.remove()
    assert batches == [len(QUESTIONS) * STREAMS]
    np.testing.assert_array_equal(np.stack(second), np.stack(first))
