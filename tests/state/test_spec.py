"""A state is checked against a model in one place, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evoemb import EvoReranker, MemoryState
from evoemb._errors import StateError
from evoemb.modules import fingerprint as fingerprints
from tiny_models import make_model


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


def test_a_reranker_whose_modules_were_exchanged_is_another_model(base_folder, models, stream):
    model, other = models("bert", "attention"), make_model(base_folder("bert"), "attention", trained=False)
    state = model.new_state()
    reranker = EvoReranker(model)
    reranker.rank("ok", stream[:2], state=state)
    reranker[0] = other[0]
    with pytest.raises(StateError, match=r"does not fit .*: fingerprint"):
        reranker.rank("ok", stream[:2], state=state)


def test_a_call_on_one_stream_refuses_a_state_of_several_in_the_same_words(models, stream):
    model = models("bert", "attention")
    several = model.new_state(2)
    for call in (
        lambda: model.retrieve(stream, "ok", state=several),
        lambda: EvoReranker(model).rank("ok", stream, state=several),
    ):
        with pytest.raises(StateError, match=r"This call takes one stream, but the state holds 2. Pass state\[i\]"):
            call()
