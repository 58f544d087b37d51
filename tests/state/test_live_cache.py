"""What a live state keeps beside itself changes no number, stays within its bound and is never saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evoemb import EvoEmbedding, MemoryState
from evoemb.state.live import LiveCache

QUESTIONS = ["where do i live", "what is red", "who has the key"]
# Rows continued from kept keys and values are summed in another order than whole rows; the recurrence of untrained
# weights carries such differences on.
TOLERANCE = 3e-5

DECODERS = [("qwen3", "prefix"), ("llama", "prefix"), ("qwen3_5", "prefix")]


@pytest.fixture(params=DECODERS, ids=lambda case: case[0])
def decoder(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """A decoder whose rows can be continued."""
    return models(*request.param)


def read_and_ask(model: EvoEmbedding, stream: list[str], state: MemoryState, *, trim: bool) -> np.ndarray:
    """Read turn by turn, asking after each; ``trim`` lets go of everything kept before every step."""
    found = []
    for turn in stream:
        if trim:
            state.trim()
        turns = model.encode([turn], stateful=True, state=state)
        if trim:
            state.trim()
        found.append(np.concatenate([turns, model.encode(QUESTIONS, state=state)]))
    return np.stack(found)


def test_a_state_that_keeps_gives_what_a_trimmed_state_gives(decoder: EvoEmbedding, stream: list[str]) -> None:
    kept, trimmed = decoder.new_state(), decoder.new_state()
    first = read_and_ask(decoder, stream, kept, trim=False)
    second = read_and_ask(decoder, stream, trimmed, trim=True)
    assert kept.cache_nbytes > 0
    np.testing.assert_allclose(first, second, atol=TOLERANCE)


def test_a_question_after_a_question_finds_the_memory_run(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    decoder.encode(stream, stateful=True, state=state)
    first = decoder.encode(QUESTIONS, state=state)
    kept = state.snapshot()[0].live
    assert kept is not None
    assert kept.reading is not None
    before = kept.reading
    np.testing.assert_array_equal(decoder.encode(QUESTIONS, state=state), first)
    assert kept.reading is before


def test_branches_of_a_state_keep_apart(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    decoder.encode(stream[:3], stateful=True, state=state)
    decoder.encode(QUESTIONS, state=state)
    other = state[0]
    decoder.encode(["i moved to rome"], stateful=True, state=state)
    decoder.encode(["the dog has the blue key", "ok"], stateful=True, state=other)
    for branch in (state, other):
        live = decoder.encode(QUESTIONS, state=branch)
        branch.trim()
        np.testing.assert_allclose(decoder.encode(QUESTIONS, state=branch), live, atol=TOLERANCE)


def test_what_is_kept_is_never_saved(decoder: EvoEmbedding, stream: list[str], tmp_path: Path) -> None:
    state = decoder.new_state()
    decoder.encode(stream, stateful=True, state=state)
    decoder.encode(QUESTIONS, state=state)
    assert state.cache_nbytes > 0
    state.save(tmp_path / "live.safetensors")
    state.trim()
    assert state.cache_nbytes == 0
    state.save(tmp_path / "trimmed.safetensors")
    assert (tmp_path / "live.safetensors").read_bytes() == (tmp_path / "trimmed.safetensors").read_bytes()
    loaded = MemoryState.load(tmp_path / "live.safetensors")
    assert loaded.cache_nbytes == 0
    live = decoder.encode(stream[:2], stateful=True, state=state)
    np.testing.assert_allclose(decoder.encode(stream[:2], stateful=True, state=loaded), live, atol=TOLERANCE)


def test_what_would_pass_the_bound_is_not_kept(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    live = state.snapshot()[0].live
    assert live is not None
    live.limit_bytes = 100
    decoder.encode(stream[:5], stateful=True, state=state)
    decoder.encode(QUESTIONS, state=state)
    assert state.cache_nbytes == 0


def test_the_cache_stays_bounded_over_a_long_stream(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    sizes = []
    for _ in range(4):
        decoder.encode(stream, stateful=True, state=state)
        decoder.encode(QUESTIONS, state=state)
        sizes.append(state.cache_nbytes)
    # How much of a segment is open varies from round to round, the queue does not.
    assert max(sizes[1:]) <= 4 * sizes[0]
    assert max(sizes) < 2**20


def test_a_full_queue_moves_and_its_old_rows_are_let_go(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    decoder.encode(stream, stateful=True, state=state)
    assert state.num_latents == decoder.memory_config.capacity_latents
    live = state.snapshot()[0].live
    assert live is not None
    assert live.reading is None


def test_encoders_keep_nothing(models: Callable[[str, str], EvoEmbedding], stream: list[str]) -> None:
    model = models("bert", "attention")
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    model.encode(QUESTIONS, state=state)
    assert state.cache_nbytes == 0


def test_a_cache_keeps_what_fits_beside_the_other() -> None:
    class Thing:
        def __init__(self, nbytes: int) -> None:
            self.nbytes = nbytes

    cache = LiveCache(limit_bytes=100)
    cache.keep_reading(Thing(70))
    cache.keep_writing(Thing(40))
    assert cache.nbytes == 70
    cache.keep_writing(Thing(30))
    assert cache.nbytes == 100
    cache.trim()
    assert cache.nbytes == 0


def test_what_a_segment_will_take_is_known_before_it_is_run(decoder: EvoEmbedding, stream: list[str]) -> None:
    state = decoder.new_state()
    decoder.encode(stream[:2], stateful=True, state=state)
    live = state.snapshot()[0].live
    assert live is not None
    estimated = decoder[0].reader.kept_bytes(live.writing.length)
    held = sum(layer.key.nbytes + layer.value.nbytes for layer in live.writing.layers if hasattr(layer, "key"))
    assert estimated == held > 0


def test_rows_without_room_are_not_even_recorded(
    decoder: EvoEmbedding, stream: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    write = type(decoder[0].reader).write

    def spying(reader: object, segments: object, *, keep: bool = False) -> object:
        asked.append(keep)
        return write(reader, segments, keep=keep)

    monkeypatch.setattr(type(decoder[0].reader), "write", spying)
    state = decoder.new_state()
    for limit in (2**20, 100):
        live = state.snapshot()[0].live
        assert live is not None
        live.limit_bytes = limit
        decoder.encode(stream[:1], stateful=True, state=state)
    assert asked == [True, False]


def test_streams_of_unequal_pasts_continue_side_by_side(decoder: EvoEmbedding, stream: list[str]) -> None:
    def read(*, trim: bool) -> np.ndarray:
        states = [decoder.new_state(), decoder.new_state()]
        decoder.encode(stream[:1], stateful=True, state=states[0])
        decoder.encode(stream[1:3], stateful=True, state=states[1])
        both = MemoryState.stack(states)
        found = []
        for turn in stream[3:6]:
            if trim:
                both.trim()
            found += decoder.encode([[turn], [turn]], stateful=True, state=both)
        return np.concatenate(found)

    np.testing.assert_allclose(read(trim=False), read(trim=True), atol=TOLERANCE)
