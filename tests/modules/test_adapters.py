"""LoRA adapters: off they are nothing, on they are what PEFT computes, and each thread has its own switch."""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evoemb._errors import EvoembError, UnsupportedBackboneError
from evoemb.modules import adapters
from evoemb.modules.adapter_files import load_adapter, save_adapter
from evoemb.modules.adapters import (
    AdapterConfig,
    LoraLinear,
    adapter_parameters,
    add_adapter,
    is_adapter_parameter,
    lora_layers,
    merge_in_inference,
    target_names,
    using,
)
from tiny_models import make_model, tiny_backbone

# transformers 5.23 renames what PEFT 0.21 still asks for by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CONFIG = AdapterConfig(rank=4, alpha=8.0, dropout=0.0)


@pytest.fixture
def adapted():
    """A tiny decoder with two adapters whose updates matter."""
    model = tiny_backbone("qwen3")
    for seed, name in enumerate(("memory", "retriever")):
        add_adapter(model, name, CONFIG, target_names(model), seed=seed)
        for parameter in adapter_parameters(model, name):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
    return model


IDS = torch.tensor([[5, 6, 7, 8, 9]])


def states(model: nn.Module, name: str | None) -> torch.Tensor:
    with using(name), torch.no_grad():
        return model(IDS).last_hidden_state


def test_without_an_adapter_in_use_the_backbone_is_bare(adapted):
    assert torch.equal(states(adapted, None), states(tiny_backbone("qwen3"), None))


def test_a_fresh_adapter_changes_nothing_and_two_differ_once_trained(adapted):
    fresh = tiny_backbone("qwen3")
    add_adapter(fresh, "memory", CONFIG, target_names(fresh))
    assert torch.equal(states(fresh, "memory"), states(fresh, None))
    outputs = [states(adapted, name) for name in (None, "memory", "retriever")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (outputs[first] - outputs[second]).abs().max() > 1e-2


def test_an_adapter_that_a_layer_does_not_carry_is_nothing_to_it(adapted):
    assert torch.equal(states(adapted, "other"), states(adapted, None))


def test_using_is_undone_on_leaving_also_by_an_error(adapted):
    bare, memory = states(adapted, None), states(adapted, "memory")
    with using("retriever"):
        with pytest.raises(KeyError), using("memory"):
            raise KeyError
        with using(None), torch.no_grad():
            assert torch.equal(adapted(IDS).last_hidden_state, bare)
        assert torch.equal(states(adapted, "memory"), memory)
    with torch.no_grad():
        assert torch.equal(adapted(IDS).last_hidden_state, bare)


def test_a_new_thread_starts_without_an_adapter(adapted):
    found = []
    with using("memory"):
        thread = threading.Thread(target=lambda: found.append(adapted(IDS).last_hidden_state.detach()))
        thread.start()
        thread.join()
    # One path merges weights where no gradient is asked for, the other does not: equal up to rounding.
    torch.testing.assert_close(found[0], states(adapted, None))


def test_merged_inference_is_the_sum_that_training_computes(adapted):
    for name in ("memory", "retriever"):
        merge_in_inference(adapted, True)
        merged = states(adapted, name)
        merge_in_inference(adapted, False)
        torch.testing.assert_close(merged, states(adapted, name), rtol=0, atol=2e-5)


def test_without_kept_copies_many_rows_are_merged_in_passing_and_few_run_beside(adapted):
    layers = [layer for _, layer in lora_layers(adapted)]
    many = torch.randint(0, 20, (4, 30), generator=torch.Generator().manual_seed(0))

    def output(ids: torch.Tensor) -> torch.Tensor:
        with using("memory"), torch.no_grad():
            return adapted(ids).last_hidden_state

    assert merge_in_inference(adapted, True) == 2 * sum(layer.weight.nbytes for layer in layers)
    merged_many, merged_few = output(many), output(IDS)
    for layer in layers:
        layer.keeps.clear()
        layer._merged.clear()
    assert torch.equal(output(many), merged_many)
    torch.testing.assert_close(output(IDS), merged_few, rtol=0, atol=2e-5)
    assert not any(layer._merged for layer in layers)
    with using("memory"), torch.no_grad():
        assert all(layer.weight_in_use(IDS.numel()) is None for layer in layers)
        assert all(layer.weight_in_use(many.numel()) is not None for layer in layers)


def test_copies_are_kept_within_a_budget_and_the_retriever_s_first(adapted, monkeypatch):
    layers = [layer for _, layer in lora_layers(adapted)]
    one_role = sum(layer.weight.nbytes for layer in layers)
    assert merge_in_inference(adapted) == 2 * one_role
    monkeypatch.setattr(adapters, "_KEPT_COPIES_BYTES", one_role + layers[0].weight.nbytes)
    assert merge_in_inference(adapted) == one_role + layers[0].weight.nbytes
    assert all("retriever" in layer.keeps for layer in layers)
    assert [layer for layer in layers if "memory" in layer.keeps] == layers[:1]
    assert merge_in_inference(adapted, False) == 0


def test_merging_leaves_the_base_weights_alone_and_follows_every_change(adapted):
    merge_in_inference(adapted, True)
    base = {name: p.clone() for name, p in adapted.named_parameters()}
    before = states(adapted, "memory")
    assert all(torch.equal(p, base[name]) for name, p in adapted.named_parameters())
    for change in ("lora_B", "lora_A", "weight"):
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if change in name and ("lora" in name or change == "weight"):
                    parameter.mul_(1.1)
        after = states(adapted, "memory")
        assert (after - before).abs().max() > 1e-4, change
        before = after


@pytest.mark.parametrize("fused", [False, True])
def test_merging_follows_every_step_of_an_optimizer(adapted, fused):
    """Fused optimizers, the default of the trainer, do not count their changes on the tensors."""
    merge_in_inference(adapted, True)
    optimizer = torch.optim.AdamW(adapter_parameters(adapted, "memory"), lr=0.05, fused=fused)
    before = states(adapted, "memory")
    with using("memory"):
        adapted(IDS).last_hidden_state[..., 0].sum().backward()
    optimizer.step()
    after = states(adapted, "memory")
    assert (after - before).abs().max() > 1e-3
    merge_in_inference(adapted, False)
    torch.testing.assert_close(after, states(adapted, "memory"), rtol=0, atol=5e-5)


def test_a_copy_of_an_adapted_model_is_independent(adapted):
    twin = copy.deepcopy(adapted)
    before = states(adapted, "memory")
    with torch.no_grad():
        for parameter in adapter_parameters(twin, "memory"):
            parameter.add_(1)
    assert torch.equal(states(adapted, "memory"), before)
    assert not torch.equal(states(twin, "memory"), before)


def test_dropout_acts_in_training_on_the_update_only():
    layer = LoraLinear(nn.Linear(64, 64))
    layer.add_adapter("memory", AdapterConfig(4, 8.0, 0.5), torch.Generator().manual_seed(0))
    nn.init.normal_(layer.lora_B["memory"].weight)
    inputs = torch.ones(1, 64)
    layer.train()
    with using("memory"):
        assert not torch.equal(layer(inputs), layer(inputs))
        layer.eval()
        assert torch.equal(layer(inputs), layer(inputs))
    layer.train()
    assert torch.equal(layer(inputs), layer(inputs))


def test_the_paper_s_projections_are_targeted_where_there_are_any():
    names = target_names(tiny_backbone("qwen3"))
    assert len(names) == 2 * 7
    assert {name.rsplit(".", 1)[-1] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    bert = target_names(tiny_backbone("bert"), within=["encoder.layer.3."])
    assert len(bert) == 6
    assert all(name.startswith("encoder.layer.3.") for name in bert)


def test_a_backbone_without_linear_blocks_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="Linear has no linear layer in numbered blocks"):
        target_names(nn.Linear(2, 2))


def test_adapter_parameters_are_told_by_their_names(adapted):
    told = {name for name, _ in adapted.named_parameters() if is_adapter_parameter(name)}
    assert len(told) == 2 * 2 * len(list(lora_layers(adapted)))


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_5", "bert", "modernbert"])
def test_saved_adapters_load_in_peft_with_equal_outputs(kind, tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_backbone(kind)
    for seed, name in enumerate(("memory", "retriever")):
        add_adapter(model, name, CONFIG, target_names(model), seed=seed)
        for parameter in adapter_parameters(model, name):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
        save_adapter(model, name, tmp_path / name)
    merge_in_inference(model, False)
    for name in ("memory", "retriever"):
        theirs = peft.PeftModel.from_pretrained(tiny_backbone(kind), str(tmp_path / name)).eval()
        with torch.no_grad():
            expected = theirs(input_ids=IDS).last_hidden_state
        assert torch.equal(states(model, name), expected)
        assert (expected - states(model, None)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["qwen3", "bert"])
def test_adapters_that_peft_saved_load_with_equal_outputs(kind, tmp_path):
    peft = pytest.importorskip("peft")
    targets = target_names(tiny_backbone(kind))
    theirs = peft.get_peft_model(
        tiny_backbone(kind), peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    ).eval()
    theirs.save_pretrained(tmp_path)
    model = tiny_backbone(kind)
    load_adapter(model, "memory", tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json")
    merge_in_inference(model, False)
    with torch.no_grad():
        assert torch.equal(states(model, "memory"), theirs(input_ids=IDS).last_hidden_state)


def test_an_adapter_of_another_backbone_is_refused(adapted, tmp_path):
    save_adapter(adapted, "memory", tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    tensors = load_file(weights)
    name = next(iter(tensors))
    for changed in ({name: tensors[name][:, 1:].contiguous()}, {}):
        save_file({**{k: t for k, t in tensors.items() if k != name}, **changed}, weights)
        with pytest.raises(EvoembError, match=r"Adapter 'memory' .* belongs to another backbone"):
            load_adapter(tiny_backbone("qwen3"), "memory", weights, config)


def test_an_adapter_for_layers_that_are_not_there_is_refused(adapted, tmp_path):
    save_adapter(adapted, "memory", tmp_path)
    with pytest.raises(EvoembError, match=r"layers that the backbone does not have: 'layers.0.* and 13 more"):
        load_adapter(
            tiny_backbone("bert"), "memory", tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
        )


def test_the_description_names_its_base_and_targets(adapted, tmp_path):
    save_adapter(adapted, "memory", tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (told["peft_type"], told["r"], told["lora_alpha"], told["bias"]) == ("LORA", 4, 8.0, "none")
    assert sorted(told["target_modules"]) == sorted(target_names(tiny_backbone("qwen3")))


def test_the_adapters_of_a_saved_model_load_in_peft(base_folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = make_model(base_folder("bert"), "attention")
    model.save_pretrained(str(tmp_path))
    merge_in_inference(model[0].model, False)
    for name in ("memory", "retriever"):
        theirs = peft.PeftModel.from_pretrained(tiny_backbone("bert"), str(tmp_path / "adapters" / name)).eval()
        with torch.no_grad():
            assert torch.equal(states(model[0].model, name), theirs(input_ids=IDS).last_hidden_state)
