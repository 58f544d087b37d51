"""How a model ranks by itself: checked, saved with it, and no part of what a state belongs to."""

from __future__ import annotations

import json
import math

import pytest

from evoemb import EvoEmbedding, InputError
from evoemb._errors import CheckpointError, InputTypeError
from evoemb.ranking import RetrievalConfig
from tiny_models import make_model


def test_a_fresh_model_ranks_by_vectors(model):
    assert model.retrieval_config == RetrievalConfig("vector")


def test_a_released_checkpoint_ranks_by_vectors(released):
    assert released.retrieval_config == RetrievalConfig("vector")


def test_the_choice_is_saved_with_the_model_and_no_state_depends_on_it(base_folder, tmp_path):
    model = make_model(base_folder("bert"), "attention")
    before = model.state_spec
    model.retrieval_config = RetrievalConfig("late", previous_weight=0, vector_weight=2)
    assert model.state_spec.fingerprint == before.fingerprint
    model.save_pretrained(str(tmp_path / "model"))
    loaded = EvoEmbedding(tmp_path / "model", device="cpu")
    assert loaded.retrieval_config == model.retrieval_config
    assert loaded.describe()["scoring"] == "late"
    assert loaded.state_spec.fingerprint == before.fingerprint


def test_a_model_saved_without_the_choice_ranks_by_vectors(base_folder, tmp_path):
    model = make_model(base_folder("bert"), "attention")
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    del config["retrieval"]
    path.write_text(json.dumps(config))
    assert EvoEmbedding(tmp_path, device="cpu").retrieval_config == RetrievalConfig()


@pytest.mark.parametrize("saved", [{"scoring": "late", "colour": 1}, {"scoring": "best"}, ["late"]])
def test_a_saved_choice_that_is_not_known_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RetrievalConfig.of_saved(saved, "config.json")


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, True, "1", None])
def test_a_weight_is_a_number_of_zero_or_more(weight):
    for name in ("previous_weight", "vector_weight"):
        with pytest.raises(InputError, match=rf"{name}=.* was given\. Use a number of 0 or more"):
            RetrievalConfig(**{name: weight})


def test_hybrid_is_asked_for_in_a_call_and_no_default():
    for scoring in ("hybrid", "best"):
        with pytest.raises(InputError, match=rf"scoring='{scoring}'.*\"hybrid\" is asked for in a call of retrieve"):
            RetrievalConfig(scoring)


def test_only_a_retrieval_config_is_taken(base_folder):
    model = make_model(base_folder("bert"), "attention")
    with pytest.raises(InputTypeError, match=r"retrieval_config is str, expected a RetrievalConfig"):
        model.retrieval_config = "late"
