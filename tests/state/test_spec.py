"""A state is checked against a model in one place, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evoemb import EvoReranker, MemoryState
from evoemb._errors import StateError
from evoemb.modules import fingerprint as fingerprints


def test_a_reranker_takes_the_states_of_its_model_and_digests_weights_once(model, stream, monkeypatch):
    state = model.new_state()
    model.encode(stream[:3], stateful=True, state=state)
    reranker = EvoReranker(model)
    digested = []
    original = fingerprints._digest
    monkeypatch.setattr(fingerprints, "_digest", lambda stack: digested.append(1) or original(stack))
    pairs = [(f"query {number}", text) for number in range(6) for text in stream[:2]]
    reranker.predict(pairs, state=state, batch_size=2)
    reranker.predict(pairs, state=state, batch_size=2)
    assert len(digested) <= 1


def test_model_and_reranker_refuse_another_models_state_with_the_same_words(model, stream):
    state = model.new_state()
    other = MemoryState(replace(state.spec, fingerprint="0" * 32), state.snapshot())
    for call in (
        lambda: model.encode("ok", state=other),
        lambda: model.retrieve(stream, "ok", state=other),
        lambda: EvoReranker(model).rank("ok", stream, state=other),
        lambda: EvoReranker(model).predict([("ok", "ok")], state=other),
    ):
        with pytest.raises(StateError, match=r"does not fit .*: fingerprint .* \(model against state\)"):
            call()
