"""The model that ships with evoemb: its base without a memory, answers that change with one, and an ordinary model."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb._errors import EvoembError, InputError
from evoemb.default_model import base as base_of_default
from evoemb.default_model.packaged import Base, PackagedModel, save_packaged
from evoemb.ranking import RetrievalConfig
from laws import assert_same_embeddings

pytest.importorskip(base_of_default.OFFLINE_PACKAGE)

SHIPPED = Path(base_of_default.__file__).parent / "weights"
TURNS = ["I live in Oslo.", "The flat is on the third floor.", "Last week I moved to Porto.", "My sister plays cello."]
QUESTION = "Where do I live now?"
BEFORE, AFTER = 2, 3  # turns read when the question is asked, and the turns that come first then
TOP_BEFORE, TOP_AFTER = 0, 2


@pytest.fixture(scope="module")
def default() -> EvoEmbedding:
    return EvoEmbedding(device="cpu")


@pytest.fixture(scope="module")
def base() -> SentenceTransformer:
    return SentenceTransformer(base_of_default.base_model(), device="cpu")


def test_it_is_trained_and_knows_its_name_and_its_base(default, caplog):
    with caplog.at_level(logging.WARNING):
        by_name = EvoEmbedding("evoemb-minilm", device="cpu")
    assert caplog.messages == []
    assert by_name.state_spec == default.state_spec
    assert default.describe()["memory_trained"]
    assert default.state_spec.model_id == "evoemb-minilm"
    assert default.model_card_data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


def test_without_a_memory_it_is_its_base_bit_for_bit(default, base):
    texts = [*TURNS, QUESTION, "", "word " * 60]
    assert np.array_equal(default.encode(texts), base.encode(texts))


def test_with_an_empty_memory_it_is_its_base(default, base):
    assert_same_embeddings(default.encode_query(TURNS, state=default.new_state(len(TURNS))), base.encode(TURNS))
    assert_same_embeddings(default.encode([[turn] for turn in TURNS], stateful=True), base.encode(TURNS)[:, None])


def test_the_answer_changes_as_the_conversation_goes_on(default):
    found = {read: default.retrieve(TURNS[:read], QUESTION, top_k=1)[0]["corpus_id"] for read in (BEFORE, AFTER)}
    assert found == {BEFORE: TOP_BEFORE, AFTER: TOP_AFTER}
    static = default.similarity(default.encode(QUESTION), default.encode(TURNS[:AFTER]))[0]
    assert int(static.argmax()) == TOP_BEFORE  # without a memory it does not


def test_choices_that_contradict_the_saved_memory_are_refused(default):
    with pytest.raises(InputError, match=r"evoemb-minilm was saved with another memory than asked for: num_latents=7"):
        EvoEmbedding(num_latents=7, device="cpu")
    assert EvoEmbedding(num_latents=default.memory_config.num_latents, device="cpu").state_spec == default.state_spec


def test_a_revision_is_refused():
    with pytest.raises(InputError, match="revision='main' was given, but evoemb-minilm comes with evoemb"):
        EvoEmbedding(revision="main")


def test_saved_it_is_an_ordinary_model_and_its_name_is_never_mistaken(default, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default.save_pretrained("copy")
    card = Path("copy", "README.md").read_text(encoding="utf-8")
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert "license: apache-2.0" in card
    assert "trained" in card
    assert 'model = EvoEmbedding("copy")' in card  # where it lies now
    Path("copy").rename("evoemb-minilm")
    with pytest.raises(InputError, match=r"'evoemb-minilm' is the model that ships .* has the same name. Pass '\./evo"):
        EvoEmbedding("evoemb-minilm")
    for name in ("./evoemb-minilm", Path("evoemb-minilm")):
        loaded = EvoEmbedding(name, device="cpu")
        assert loaded.state_spec == default.state_spec
        assert loaded.retrieval_config == default.retrieval_config == RetrievalConfig("late", 0.2, 1.0)
        assert np.array_equal(loaded.encode(TURNS, stateful=True), default.encode(TURNS, stateful=True))
    assert EvoEmbedding(device="cpu").state_spec == default.state_spec


def test_other_weights_in_the_offline_package_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    package = SimpleNamespace(get_model_path=lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, base_of_default.OFFLINE_PACKAGE, package)
    with pytest.raises(EvoembError, match=r"they are not those of .*MiniLM.* Install the extra again"):
        EvoEmbedding()


def test_the_packaged_model_and_the_code_agree_on_the_base():
    found = PackagedModel(SHIPPED).base
    assert (found.base_model, found.sha256) == (base_of_default.BASE_MODEL, base_of_default.BASE_SHA256)


def test_a_memory_that_is_saved_alone_gives_the_model_again(default, base, tmp_path):
    base_file = Base(base_of_default.BASE_MODEL, base_of_default.BASE_SHA256, "test")
    save_packaged(default, tmp_path, base_file, RetrievalConfig("late", vector_weight=0.25))
    (tmp_path / "README.md").write_text("card")
    assert json.loads((tmp_path / "base.json").read_text())["version"] == "test"
    assert PackagedModel(tmp_path).retrieval == RetrievalConfig("late", vector_weight=0.25)
    fresh = SentenceTransformer(base_of_default.base_model(), device="cpu")
    again = EvoEmbedding(modules=PackagedModel(tmp_path).put_on(list(fresh)), device="cpu")
    assert np.array_equal(again.encode(TURNS, stateful=True), default.encode(TURNS, stateful=True))


def test_only_a_stack_with_a_memory_can_be_saved_alone(base, tmp_path):
    with pytest.raises(InputError, match="The stack starts with Transformer and Pooling"):
        save_packaged(base, tmp_path, Base("", "", ""), RetrievalConfig())


def test_a_base_that_reads_no_text_is_refused(base):
    with pytest.raises(EvoembError, match="starts with Pooling, expected a Transformer"):
        PackagedModel(SHIPPED).put_on(list(base)[1:])
