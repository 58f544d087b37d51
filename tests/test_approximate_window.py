"""``approximate_window=n``: what turns see of a full queue moves once in n turns; what is written stays exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoemb import EvoEmbedding, InputError
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.stream_memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.rows import Limits
from laws import assert_same_embeddings, assert_same_states

PREFIX = [("qwen3", "prefix"), ("qwen3_5", "prefix")]


@pytest.fixture(params=PREFIX, ids="-".join)
def decoder(request, models) -> EvoEmbedding:
    return models(*request.param)


@torch.no_grad()
def expected(model: EvoEmbedding, turns: list[str], window_turns: int) -> np.ndarray:
    """Each turn alone on the latents it may see: those behind the last ``window_turns`` that begin a window."""
    transformer: StatefulTransformer = model[0]
    held, capacity = transformer.memory_config.num_latents, transformer.memory_config.capacity_latents
    state, latents, found = model.new_state(), [], []
    for number, turn in enumerate(turns):
        first = max(0, number * held - capacity)
        while first % (window_turns * held):
            first += 1
        seen = torch.cat([torch.zeros(0, transformer.reader.latent_size), *latents])[first:]
        found += engine.read(model._stack(), [StreamMemory(seen)], [transformer.token_ids([turn])], Limits())[0]
        model.encode([turn], stateful=True, state=state)
        latents.append(state.snapshot()[0].latents[-held:])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("window_turns", [2, 3])
def test_turns_see_the_newest_latents_from_a_multiple_of_n_turns_on(decoder, stream, window_turns):
    config = decoder.memory_config
    found = decoder.encode(stream, stateful=True, approximate_window=window_turns)
    assert_same_embeddings(found, expected(decoder, stream, window_turns))
    exact = decoder.encode(stream, stateful=True)
    unmoved = config.capacity_latents // config.num_latents + 1
    assert_same_embeddings(found[:unmoved], exact[:unmoved])
    assert np.abs(found - exact).max() > 1e-3


def test_what_is_written_stays_exact(decoder, stream):
    states = decoder.new_state(), decoder.new_state()
    decoder.encode(stream, stateful=True, state=states[0])
    decoder.encode(stream, stateful=True, state=states[1], approximate_window=2)
    assert_same_states(*states)
    assert_same_embeddings(*(decoder.encode(["where"], state=state) for state in states))


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_halves_and_batches_give_what_one_reading_gives(decoder, stream, cut):
    whole = decoder.encode(stream, stateful=True, approximate_window=2)
    state = decoder.new_state()
    halves = [
        decoder.encode(part, stateful=True, state=state, approximate_window=2) for part in (stream[:cut], stream[cut:])
    ]
    assert_same_embeddings(np.concatenate(halves), whole)
    both = decoder.encode([stream[:cut], stream], stateful=True, approximate_window=2, batch_size=3)
    assert_same_embeddings(np.concatenate(both), np.concatenate((whole[:cut], whole)))


def test_what_has_no_window_that_moves_is_refused(models, stream):
    model = models("qwen3", "prefix")
    with pytest.raises(InputError, match=r"approximate_window=0 was given\. Use a number of turns; 1 is exact"):
        model.encode(stream, stateful=True, approximate_window=0)
    for told in ({"stateful": True, "memory": "final"}, {"state": model.new_state()}):
        with pytest.raises(InputError, match='only turns read with stateful=True and memory="causal"'):
            model.encode(stream, approximate_window=2, **told)
    with pytest.raises(InputError, match=r"approximate_window=99 turns are more than the queue holds\. Use at most"):
        model.encode(stream, stateful=True, approximate_window=99)
    with pytest.raises(InputError, match="approximate_window=2 needs a memory"):
        model.encode(stream, approximate_window=2)
    with pytest.raises(InputError, match="an attention reader reads a full queue at no more cost"):
        models("bert", "attention").encode(stream, stateful=True, approximate_window=2)
