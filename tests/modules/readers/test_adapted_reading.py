"""Adapted reading: texts that see a memory run under the memory adapter, all others on the bare backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evoemb import EvoEmbedding, InputError
from evoemb.modules.config import MemoryConfig
from laws import assert_same_embeddings


@pytest.fixture(params=["bert", "modernbert", "xlm-roberta"])
def encoder(request, models) -> EvoEmbedding:
    model = models(request.param, "attention")
    assert model[0].memory_config.adapted_reading
    return model


def test_texts_that_see_no_memory_run_on_the_bare_backbone(encoder, stream):
    assert_same_embeddings(encoder.encode(stream, stateful=True)[0], encoder.encode(stream)[0])
    assert_same_embeddings(encoder.encode(stream, state=encoder.new_state()), encoder.encode(stream))


def test_a_batch_of_full_and_empty_memories_equals_one_by_one(encoder, stream):
    full, none = encoder.new_state(), encoder.new_state()
    encoder.encode(stream[:5], stateful=True, state=full)
    both = encoder.new_state(batch_size=2)
    encoder.encode([stream[:5], stream[:1]], stateful=True, state=both)
    queries = ["where do i live ?", "what was lost ?"]
    # A text for each stream of one state, and the same text for states alone.
    together = encoder.encode(queries, state=both)
    assert_same_embeddings(together[:1], encoder.encode(queries[:1], state=full))
    # Streams of unequal length side by side: first turns (no memory) and later ones share a forward.
    halves = encoder.encode([stream[5:9], stream[:3]], stateful=True)
    assert_same_embeddings(halves[0], encoder.encode(stream[5:9], stateful=True))
    assert_same_embeddings(halves[1], encoder.encode(stream[:3], stateful=True, state=none))


def test_the_adapter_moves_texts_that_see_a_memory(encoder, stream, monkeypatch):
    state = encoder.new_state()
    encoder.encode(stream[:5], stateful=True, state=state)
    adapted = encoder.encode("where do i live ?", state=state)
    reader = encoder[0].reader
    monkeypatch.setattr(reader, "config", replace(reader.config, adapted_reading=False))
    assert np.abs(adapted - encoder.encode("where do i live ?", state=state)).max() > 1e-3


def test_it_is_refused_for_the_prefix_reader():
    with pytest.raises(InputError, match='Use memory_reader="attention"'):
        MemoryConfig(reader="prefix", adapted_reading=True)


def test_models_saved_before_keep_their_bare_reading():
    saved = {"reader": "attention", "num_latents": 4, "capacity_latents": 128}
    assert not MemoryConfig(**saved).adapted_reading
