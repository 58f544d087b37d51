"""The last layer of a decoder runs for the tokens that are read, and what is read does not change."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2Model
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextModel

from evoemb import EvoEmbedding
from evoemb.modules.adapters import (
    RETRIEVER_ADAPTER,
    AdapterConfig,
    add_adapter,
    merge_in_inference,
    target_names,
    using,
)
from evoemb.modules.backbones import last_layer
from evoemb.modules.backbones.last_layer import states_at
from evoemb.modules.backbones.lookup import has_recurrent_layers
from evoemb.modules.readers.features import LAST_ONLY
from evoemb.modules.readers.key_values import PastRows
from evoemb.stack import pools_last_token
from laws import assert_same_embeddings, assert_same_states
from tiny_models import make_model, tiny_backbone

KINDS = ("qwen3", "llama", "qwen3_5", "qwen2", "qwen2-eager", "qwen3_5-recurrent-end")
# Few rows and all rows go through other matrix kernels, which sum in another order.
TOLERANCE = 2e-5


def backbone_of(kind: str) -> PreTrainedModel:
    """A tiny decoder; two kinds that no other test needs are built here."""
    if kind == "qwen3_5-recurrent-end":
        config: Qwen3_5TextConfig = copy.deepcopy(tiny_backbone("qwen3_5").config)
        config.layer_types = ["full_attention", "linear_attention", "linear_attention"]
        torch.manual_seed(7)
        return Qwen3_5TextModel(config).eval()
    if not kind.startswith("qwen2"):
        return tiny_backbone(kind)
    torch.manual_seed(7)
    size = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = Qwen2Model(Qwen2Config(**size, num_attention_heads=4, num_key_value_heads=2)).eval()
    if kind.endswith("eager"):
        model.set_attn_implementation("eager")
    return model


@pytest.fixture(params=KINDS)
def backbone(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Every decoder whose last layer is known, and one whose last layer is not."""
    return backbone_of(request.param)


@pytest.fixture
def tokens_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[PreTrainedModel], list[tuple[int, ...]]]:
    """Note the shapes that a backbone's last feed-forward block gets."""

    def watch(backbone: PreTrainedModel) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        backbone.layers[-1].mlp.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:-1])))
        return seen

    return watch


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Three rows of 9, 4 and 6 tokens."""
    ids = torch.arange(27).reshape(3, 9) % 50 + 5
    mask = torch.stack([torch.tensor([1] * count + [0] * (9 - count)) for count in (9, 4, 6)])
    return ids, mask if side == "right" else mask.flip(-1)


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_states_at_some_tokens_are_those_of_the_whole_forward(backbone, side):
    ids, mask = padded(side) if side != "none" else (padded("left")[0], None)
    places = {"left": [[8, 6], [8, 5], [4, 8]], "right": [[8, 0], [3, 1], [5, 5]], "none": [[8, 0], [3, 4], [0, 0]]}
    chosen = torch.tensor(places[side])
    with torch.no_grad():
        whole = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        found = states_at(backbone, chosen, input_ids=ids, attention_mask=mask, use_cache=False)
    torch.testing.assert_close(found, whole[torch.arange(3)[:, None], chosen], rtol=0, atol=TOLERANCE)


def test_what_is_not_read_is_not_run(backbone, tokens_run):
    seen, (ids, mask) = tokens_run(backbone), padded("left")
    with torch.no_grad():
        states_at(backbone, torch.full((3, 1), 8), input_ids=ids, attention_mask=mask, use_cache=False)
    known = hasattr(backbone.layers[-1], "self_attn")
    assert seen == [(3, 1) if known else (3, 9)]


@pytest.mark.parametrize("merged", [True, False])
def test_adapters_work_merged_and_apart(backbone, merged):
    config = AdapterConfig(rank=4, alpha=8.0, dropout=0.0)
    add_adapter(backbone, RETRIEVER_ADAPTER, config, target_names(backbone), seed=1)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    backbone.eval()
    merge_in_inference(backbone, merged)
    ids, mask = padded("left")
    chosen = torch.tensor([[8], [8], [7]])
    with torch.no_grad(), using(RETRIEVER_ADAPTER):
        whole = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        found = states_at(backbone, chosen, input_ids=ids, attention_mask=mask, use_cache=False)
    torch.testing.assert_close(found, whole[torch.arange(3)[:, None], chosen], rtol=0, atol=TOLERANCE)


def test_what_is_kept_for_later_rows_is_complete(backbone):
    ids = padded("left")[0][:1]
    mask = torch.full((1, 1, 9, 9), torch.finfo(torch.float32).min).triu(1)
    recurrent = has_recurrent_layers(backbone)
    masks = {"full_attention": mask, "linear_attention": None} if recurrent else mask

    def run(places: Tensor) -> tuple[Tensor, ...]:
        record = PastRows([None], 1, keep=True)
        inputs = {"input_ids": ids, "position_ids": torch.arange(9)[None], "past_key_values": record}
        states_at(backbone, places, attention_mask=masks, use_cache=False, **inputs)
        return tuple(part for layer in record.kept([(9, 0)])[0].layers for part in layer)

    with torch.no_grad():
        torch.testing.assert_close(run(torch.tensor([[0]])), run(torch.arange(9)[None]), rtol=0, atol=TOLERANCE)


def test_training_runs_whole_layers_and_gradients_are_the_same(backbone, tokens_run):
    seen, (ids, mask) = tokens_run(backbone), padded("left")
    places = torch.full((3, 1), 8)
    gradients = []
    for chosen in (True, False):
        backbone.zero_grad()
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        last = states_at(backbone, places, **inputs)[:, 0] if chosen else backbone(**inputs).last_hidden_state[:, -1]
        last.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert seen == [(3, 9), (3, 9)]


def test_threads_and_copies_of_a_backbone_keep_apart(backbone):
    ids, mask = padded("left")
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        whole = backbone(**inputs).last_hidden_state
        wanted = states_at(backbone, torch.full((3, 1), 8), **inputs)
        other = copy.deepcopy(backbone)
        torch.testing.assert_close(states_at(other, torch.full((3, 1), 8), **inputs), wanted, rtol=0, atol=0)
        token = last_layer._WANTED.set(last_layer._Wanted(torch.zeros(3, 1, dtype=torch.long)))
        try:  # what this thread wants is not what another one wants
            found: list[Tensor] = []
            thread = threading.Thread(target=lambda: found.append(backbone(**inputs).last_hidden_state.detach()))
            thread.start()
            thread.join()
        finally:
            last_layer._WANTED.reset(token)
    torch.testing.assert_close(found[0], whole, rtol=0, atol=0)


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switch to whole last layers and back."""
    able = last_layer._can_leave_out
    return lambda plain: monkeypatch.setattr(last_layer, "_can_leave_out", (lambda _: False) if plain else able)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3_5"])
@pytest.mark.parametrize("init", ["gated", "paper"])
def test_embeddings_and_latents_are_those_of_whole_layers(kind, init, base_folder, stream, plainly):
    model = make_model(base_folder(kind), "prefix", init=init)
    found = []
    for plain in (False, True):
        plainly(plain)
        state = model.new_state(2)
        turns = model.encode([stream, stream[:5]], stateful=True, state=state)
        more = model.encode([stream[2:4], stream[3:4]], stateful=True, state=state)
        asked = model.encode([["where is my cat"], ["what", "who has the red key"]], state=state)
        found.append((np.concatenate([*turns, *more, *asked]), state))
    assert_same_embeddings(found[0][0], found[1][0])
    assert_same_states(found[0][1], found[1][1])


@pytest.mark.parametrize("choices", [("mean",), (("lasttoken", "max"),), ("lasttoken", False)])
def test_a_pooling_over_other_tokens_gets_all_tokens(choices, base_folder: Callable[[str], Path], stream, plainly):
    model = make_model(base_folder("qwen3"), "prefix")
    model[2] = Pooling(32, *choices)
    assert not pools_last_token(list(model))
    widths: list[int] = []
    model[2].register_forward_pre_hook(lambda _, args: widths.append(args[0]["token_embeddings"].shape[1]))
    first = model.encode(stream, stateful=True, prompt="noted : ")
    assert max(widths) > 10
    plainly(True)
    assert_same_embeddings(first, model.encode(stream, stateful=True, prompt="noted : "))


def test_only_sentence_transformers_own_pooling_right_behind_the_queue_counts(
    models: Callable[[str, str], EvoEmbedding],
):
    model = models("qwen3", "prefix")

    class Other(Pooling):
        """Could do anything."""

    assert pools_last_token(list(model))
    assert model._stack().extra[LAST_ONLY]
    assert not pools_last_token([model[0], model[1], Other(32, "lasttoken"), model[3]])
    assert not pools_last_token([model[0], model[1], torch.nn.Identity(), model[2], model[3]])


def test_last_tokens_pass_the_queue_and_the_pooling_alone(models: Callable[[str, str], EvoEmbedding], stream):
    model = models("qwen3", "prefix")
    widths: list[int] = []
    handle = model[1].register_forward_pre_hook(lambda _, args: widths.append(args[0]["token_embeddings"].shape[1]))
    model.encode(stream, stateful=True)
    handle.remove()
    assert set(widths) == {1}
