"""Released checkpoints load by folder in every form they come in, and say clearly what is wrong with a broken one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoemb import CheckpointError, EvoEmbedding, InputError, load_upstream
from evoemb.released import convert

DATA = Path(__file__).parents[1] / "parity" / "data"
IDS = {"end_of_text": 678, "im_end": 680, "user": 272}
TURNS = ["User: I live in Paris.", "User: I moved to Rome.\nAssistant: ok", "User: the key is red"]
MESSAGES = [{"role": "user", "content": "I live in Paris."}, {"role": "assistant", "content": "ok"}]
MESSAGES += [{"role": "user", "content": "Where do I live?"}]
_WEIGHTS = "model.safetensors"


def load(checkpoint: Path, **choices) -> EvoEmbedding:
    choices = {"base_model": DATA / "qwen3" / "base", "tokenizer": DATA / "tokenizer", "device": "cpu"} | choices
    return load_upstream(checkpoint, **choices)


def embed(model: EvoEmbedding) -> torch.Tensor:
    return torch.as_tensor(model.encode(TURNS, stateful=True))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DATA / "qwen3" / "checkpoint", folder, copy_function=shutil.copyfile)
    return folder


def rewrite(checkpoint: Path, change) -> None:
    """Change the tensors of a checkpoint."""
    tensors = load_file(checkpoint / _WEIGHTS)
    change(tensors)
    save_file(tensors, checkpoint / _WEIGHTS)


@pytest.fixture(scope="module")
def plain() -> EvoEmbedding:
    """The checkpoint, loaded whole; not to be changed."""
    return load(DATA / "qwen3" / "checkpoint", token_ids=IDS)


def test_naming_the_folder_is_enough_where_base_and_tokenizer_are_found(plain, tmp_path):
    # "base" is looked for beside the checkpoint, and a tokenizer in the base or in the checkpoint.
    shutil.copytree(DATA / "qwen3", tmp_path / "kind", copy_function=shutil.copyfile)
    shutil.copytree(DATA / "tokenizer", tmp_path / "kind" / "base", dirs_exist_ok=True, copy_function=shutil.copyfile)
    model = EvoEmbedding(str(tmp_path / "kind" / "checkpoint"), device="cpu")
    assert torch.equal(embed(model), embed(plain))
    assert model.state_spec.fingerprint == plain.state_spec.fingerprint


def test_embeddings_do_not_read_the_native_model_or_a_head(checkpoint, plain):
    rewrite(checkpoint, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith("emb_model.")])
    model = load(checkpoint, token_ids=IDS)
    assert torch.equal(embed(model), embed(plain))
    with pytest.raises(CheckpointError, match="holds no embedding model for native=True"):
        model.encode_native(TURNS)


def test_token_ids_default_to_the_tokens_of_their_names_in_a_small_tokenizer(plain):
    model = load(DATA / "qwen3" / "checkpoint")
    assert model[0].dialogue.config == plain[0].dialogue.config


def test_token_ids_that_the_model_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"The base model has 704 tokens, so the ids \[9999\] are none of them"):
        load(DATA / "qwen3" / "checkpoint", token_ids={"im_end": 9999})


def test_unknown_names_of_token_ids_are_refused():
    with pytest.raises(InputError, match="token_ids names end"):
        load(DATA / "qwen3" / "checkpoint", token_ids={"end": 3})


def test_the_queue_and_the_segments_are_chosen_by_the_caller():
    model = load(DATA / "qwen3" / "checkpoint", capacity_latents=6, segment_turns=2, segment_tokens=50)
    assert model.memory_config.capacity_latents == model[1].capacity_latents == 6
    assert (model.memory_config.segment_turns, model.memory_config.segment_tokens) == (2, 50)
    state = model.new_state()
    model.encode(TURNS, stateful=True, state=state)
    assert state.num_latents == 6


def test_what_the_weights_fix_cannot_be_chosen():
    with pytest.raises(InputError, match=r"The checkpoint's weights fix num_latents=8 \(checkpoint: 4\)"):
        EvoEmbedding(
            str(DATA / "qwen3" / "checkpoint"),
            num_latents=8,
            upstream_kwargs={"tokenizer": str(DATA / "tokenizer")},
            device="cpu",
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto", torch.bfloat16])
def test_weights_are_read_in_the_dtype_asked_for(dtype, plain):
    model = load(DATA / "qwen3" / "checkpoint", token_ids=IDS, dtype=dtype)
    expected = torch.bfloat16 if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    # Random weights and three layers: rounding moves a unit vector by a few percent, a wrong path by far more.
    difference = (embed(model).float() - embed(plain)).norm(dim=-1).max()
    assert difference < (1e-6 if expected is torch.float32 else 0.2)


def test_on_a_cpu_weights_become_float32_unless_told_otherwise(plain):
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="dtype='float7' was given"):
        load(DATA / "qwen3" / "checkpoint", dtype="float7")


def test_attention_kernels_are_passed_on(plain):
    eager = load(DATA / "qwen3" / "checkpoint", token_ids=IDS, attn_implementation="eager")
    assert eager[0].model.config._attn_implementation == "eager"
    assert plain[0].model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(embed(eager), embed(plain), rtol=0, atol=2e-5)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_a_device_map_may_name_one_device(device_map, plain):
    model = EvoEmbedding(
        str(DATA / "qwen3" / "checkpoint"),
        upstream_kwargs={"tokenizer": str(DATA / "tokenizer")},
        model_kwargs={"device_map": device_map, "dtype": "float32"},
    )
    assert torch.equal(embed(model), embed(plain))


@pytest.mark.parametrize("device_map", ["auto", {"embed_tokens": 0, "layers": 1}])
def test_a_device_map_over_several_devices_is_refused(device_map):
    with pytest.raises(InputError, match="spreads the weights over several devices"):
        EvoEmbedding(str(DATA / "qwen3" / "checkpoint"), model_kwargs={"device_map": device_map})


def test_arguments_that_a_checkpoint_does_not_take_are_refused():
    with pytest.raises(InputError, match="model_kwargs names low_cpu"):
        EvoEmbedding(str(DATA / "qwen3" / "checkpoint"), model_kwargs={"low_cpu": True}, device="cpu")
    with pytest.raises(InputError, match="upstream_kwargs names base"):
        EvoEmbedding(str(DATA / "qwen3" / "checkpoint"), upstream_kwargs={"base": "x"}, device="cpu")


def test_a_missing_tensor_is_named(checkpoint):
    rewrite(checkpoint, lambda tensors: tensors.pop("mem_to_latent.0.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 of 128 tensors: queue\.mem_to_latent\.bias"):
        load(checkpoint)


def test_a_tensor_of_another_shape_is_named(checkpoint):
    rewrite(checkpoint, lambda tensors: tensors.update({"latent_to_mem.0.weight": torch.zeros(3, 64)}))
    with pytest.raises(CheckpointError, match=r"latent_to_mem\.0\.weight of .* has the shape \(3, 64\)"):
        load(checkpoint)


def test_tensors_without_a_place_are_reported(checkpoint, caplog):
    rewrite(checkpoint, lambda tensors: tensors.update({"mystery.weight": torch.zeros(1)}))
    model = load(checkpoint, token_ids=IDS)
    assert model.key_report.unused == ["mystery.weight"]
    assert "unused: mystery.weight" in model.key_report.lines()
    assert "mystery.weight" in caplog.text


def test_a_missing_shard_is_named(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(DATA / "qwen35" / "checkpoint", folder, copy_function=shutil.copyfile)
    (folder / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the shard model-00002-of-00004\.safetensors"):
        load(folder, base_model=DATA / "qwen35" / "base")


def test_a_cut_file_is_told(checkpoint):
    whole = (checkpoint / _WEIGHTS).read_bytes()
    (checkpoint / _WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors: .* Download it again"):
        load(checkpoint)


def test_a_folder_without_weights_is_told(checkpoint):
    (checkpoint / _WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"):
        load(checkpoint)


def test_a_missing_number_in_the_configuration_is_named(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    del config["lora_r"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lacks lora_r"):
        load(checkpoint)


def test_a_configuration_that_is_no_json_is_told(checkpoint):
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json of .* is no JSON"):
        load(checkpoint)


def test_another_kind_of_model_is_refused(base_folder):
    with pytest.raises(CheckpointError, match="has model_type 'qwen3', expected \"EvoRAG\""):
        load(base_folder("qwen3"))


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path)


def test_a_base_model_of_another_size_is_told():
    with pytest.raises(CheckpointError, match=r"lacks 66 of 128 tensors.* base_model is the one it was trained with"):
        load(DATA / "qwen3" / "checkpoint", base_model=DATA / "qwen35" / "base")


def test_a_missing_tokenizer_is_told():
    with pytest.raises(CheckpointError, match="No tokenizer was found in"):
        load(DATA / "qwen3" / "checkpoint", tokenizer=None)


def test_a_missing_base_model_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"The configuration of the base model .* was not found"):
        load(DATA / "qwen3" / "checkpoint", base_model=tmp_path)


_READ_AGAIN = """
import sys, torch
from safetensors.torch import save_file
from evoemb import EvoEmbedding
torch.set_num_threads(1)  # as the tests: other numbers of threads sum in other orders
turns, messages = eval(sys.argv[1]), eval(sys.argv[2])
for folder in sys.argv[3:]:
    model = EvoEmbedding(folder, device="cpu")
    ids = model.generate(messages, max_new_tokens=4, return_token_ids=True)
    found = {"turns": model.encode(turns, stateful=True), "messages": model.encode_messages(messages),
             "native": model.encode_native(turns), "answer": ids}
    save_file({name: torch.as_tensor(value).contiguous() for name, value in found.items()}, folder + ".found")
"""


def test_a_saved_checkpoint_gives_the_same_bits_in_a_fresh_process(tmp_path):
    models = {}
    for kind in ("qwen3", "qwen35"):
        models[kind] = load(DATA / kind / "checkpoint", base_model=DATA / kind / "base", token_ids=IDS)
        models[kind].save_pretrained(str(tmp_path / kind), create_model_card=False)
    arguments = [repr(TURNS), repr(MESSAGES), *(str(tmp_path / kind) for kind in models)]
    subprocess.run([sys.executable, "-c", _READ_AGAIN, *arguments], check=True, capture_output=True, text=True)
    for kind, model in models.items():
        found = load_file(tmp_path / f"{kind}.found")
        assert torch.equal(found["turns"], embed(model))
        assert torch.equal(found["messages"], torch.as_tensor(model.encode_messages(MESSAGES)))
        assert torch.equal(found["native"], torch.as_tensor(model.encode_native(TURNS)))
        assert found["answer"].tolist() == model.generate(MESSAGES, max_new_tokens=4, return_token_ids=True)


def test_conversion_copies_the_native_model_when_asked(checkpoint, tmp_path, plain):
    choices = {"base_model": DATA / "qwen3" / "base", "tokenizer": DATA / "tokenizer", "token_ids": IDS}
    report = convert(checkpoint, tmp_path / "with", native=True, **choices)
    assert not report.missing
    assert not report.unused
    assert len(report.mapped) == 128
    convert(checkpoint, tmp_path / "without", **choices)
    shutil.rmtree(checkpoint)
    model = EvoEmbedding(str(tmp_path / "with"), device="cpu")
    assert torch.equal(embed(model), embed(plain))
    assert torch.equal(torch.as_tensor(model.encode_native(TURNS)), torch.as_tensor(plain.encode_native(TURNS)))
    model.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    again = EvoEmbedding(str(tmp_path / "again"), device="cpu")
    assert torch.equal(torch.as_tensor(again.encode_native(TURNS)), torch.as_tensor(plain.encode_native(TURNS)))
    reference = EvoEmbedding(str(tmp_path / "without"), device="cpu")
    assert torch.equal(embed(reference), embed(plain))
    with pytest.raises(CheckpointError, match="holds neither"):
        reference.encode_native(TURNS)


def test_conversion_refuses_a_folder_in_use(checkpoint):
    with pytest.raises(InputError, match="exists and is not empty"):
        convert(checkpoint, checkpoint)


def test_saving_in_place_keeps_a_model_whole(checkpoint, tmp_path, plain):
    choices = {"base_model": DATA / "qwen3" / "base", "tokenizer": DATA / "tokenizer", "token_ids": IDS}
    convert(checkpoint, tmp_path / "model", native=True, **choices)
    EvoEmbedding(str(tmp_path / "model"), device="cpu").save_pretrained(str(tmp_path / "model"))
    model = EvoEmbedding(str(tmp_path / "model"), device="cpu")
    assert torch.equal(embed(model), embed(plain))
    assert torch.equal(torch.as_tensor(model.encode_native(TURNS)), torch.as_tensor(plain.encode_native(TURNS)))


def test_a_head_that_is_not_tied_is_used_and_kept(checkpoint, tmp_path, plain):
    # The head of the tied model with its rows turned around: the answer is the tied one's mirror image.
    tied = load_file(checkpoint / _WEIGHTS)["model.base_model.model.model.embed_tokens.weight"]
    name = "model.base_model.model.lm_head.weight"
    rewrite(checkpoint, lambda tensors: tensors.update({name: tied.flip(0).contiguous()}))
    model = load(checkpoint, token_ids=IDS)
    first = plain.generate(MESSAGES, max_new_tokens=1, return_token_ids=True)[0]
    assert model.generate(MESSAGES, max_new_tokens=1, return_token_ids=True) == [703 - first]
    assert torch.equal(embed(model), embed(plain))
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    again = EvoEmbedding(str(tmp_path / "saved"), device="cpu")
    assert again.generate(MESSAGES, max_new_tokens=1, return_token_ids=True) == [703 - first]
    again.save_pretrained(str(tmp_path / "twice"), create_model_card=False)
    shutil.rmtree(tmp_path / "saved")
    twice = EvoEmbedding(str(tmp_path / "twice"), device="cpu")
    assert twice.generate(MESSAGES, max_new_tokens=1, return_token_ids=True) == [703 - first]


def test_loading_never_reads_the_base_models_weights(checkpoint, tmp_path, plain):
    base = tmp_path / "base"
    shutil.copytree(DATA / "qwen3" / "base", base, copy_function=shutil.copyfile)
    (base / _WEIGHTS).write_bytes(b"not to be opened")
    assert torch.equal(embed(load(checkpoint, base_model=base, token_ids=IDS)), embed(plain))


def test_the_file_may_be_replaced_while_the_model_lives(checkpoint, plain):
    model = load(checkpoint, token_ids=IDS, dtype="auto")
    before = embed(model)
    size = (checkpoint / _WEIGHTS).stat().st_size
    (checkpoint / _WEIGHTS).write_bytes(b"\0" * size)
    assert torch.equal(embed(model), before)
