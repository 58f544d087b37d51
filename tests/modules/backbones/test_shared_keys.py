"""Query heads that share keys read them in place: no copy a head, and the same numbers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Qwen2Config, Qwen2Model

from evoemb.modules.backbones import shared_keys
from evoemb.modules.backbones.shared_keys import share_keys
from laws import assert_same_states
from tiny_models import make_model, tiny_backbone

pytestmark = pytest.mark.skipif(not shared_keys._TORCH_READS_SHARED_KEYS, reason="this torch copies shared keys itself")

ATTENDING_LAYERS = {"qwen3": 2, "llama": 2, "qwen3_5": 1, "qwen2": 2}


def backbone_of(kind: str) -> PreTrainedModel:
    """A tiny decoder of four query heads and two of keys."""
    if kind != "qwen2":
        return tiny_backbone(kind)
    torch.manual_seed(7)
    size = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return Qwen2Model(Qwen2Config(**size, num_attention_heads=4, num_key_value_heads=2)).eval()


@pytest.fixture(params=ATTENDING_LAYERS)
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A backbone as transformers runs it, and the same one sharing keys."""
    plain = backbone_of(request.param)
    sharing = copy.deepcopy(plain)
    assert share_keys(sharing) == ATTENDING_LAYERS[request.param]
    return plain, sharing


@pytest.fixture
def key_heads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """How many key heads torch's attention gets, and whether a mask, call by call."""
    seen: list[tuple[int, bool]] = []
    attend = F.scaled_dot_product_attention

    def spying(query, key, value, attn_mask=None, *args, **kwargs):
        seen.append((key.shape[1], attn_mask is not None))
        return attend(query, key, value, attn_mask, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spying)
    return seen


def padded() -> dict[str, torch.Tensor]:
    """Three rows of 9, 4 and 6 tokens."""
    mask = torch.stack([torch.tensor([0] * (9 - count) + [1] * count) for count in (9, 4, 6)])
    return {"input_ids": torch.arange(27).reshape(3, 9) % 50 + 5, "attention_mask": mask}


def test_the_numbers_are_those_of_copied_keys_to_the_last_bit(pair, key_heads):
    plain, sharing = pair
    with torch.no_grad():
        expected = plain(**padded(), use_cache=False).last_hidden_state
        copied = list(key_heads)
        found = sharing(**padded(), use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert set(copied) == {(4, True)}
    assert set(key_heads[len(copied) :]) == {(2, True)}


def test_gradients_are_those_of_copied_keys(pair):
    gradients = []
    for backbone in pair:
        backbone(**padded(), use_cache=False).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)


def test_another_attention_chosen_later_is_the_one_that_runs(pair, key_heads):
    plain, sharing = pair
    for backbone in pair:
        backbone.set_attn_implementation("eager")
    with torch.no_grad():
        found = [backbone(**padded(), use_cache=False).last_hidden_state for backbone in pair]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert key_heads == []
    assert sharing.config._attn_implementation == "eager"
    assert plain.config.to_dict() == sharing.config.to_dict()


def test_copies_and_pickles_go_on_sharing_with_a_configuration_of_their_own(pair, key_heads):
    _, sharing = pair
    for other in (copy.deepcopy(sharing), pickle.loads(pickle.dumps(sharing))):
        assert share_keys(other) == share_keys(sharing)
        sharing.set_attn_implementation("eager")
        with torch.no_grad():
            other(**padded(), use_cache=False)
        assert key_heads.pop() == (2, True)
        sharing.set_attn_implementation("sdpa")


def test_layers_whose_heads_have_keys_of_their_own_stay_as_they_are():
    assert share_keys(tiny_backbone("bert")) == 0
    torch.manual_seed(7)
    size = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    assert share_keys(Qwen2Model(Qwen2Config(**size, num_attention_heads=4, num_key_value_heads=4))) == 0


def test_a_memory_is_read_and_written_without_a_copy_of_shared_keys(base_folder, stream, key_heads):
    found = []
    for sharing in (True, False):
        model = make_model(base_folder("qwen3"), "prefix")
        if not sharing:
            for layer in model[0].model.layers:
                layer.self_attn.config = model[0].model.config
        state = model.new_state()
        key_heads.clear()
        turns = model.encode(stream, stateful=True, state=state)
        more = model.encode(stream[:1], stateful=True, state=state)
        asked = model.encode(["where", "what is red"], state=state)
        found.append((np.concatenate([turns, more, asked]), state))
        assert (4 in {heads for heads, _ in key_heads}) is not sharing
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert_same_states(found[0][1], found[1][1], tolerance=0)
