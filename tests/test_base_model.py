"""What wrapping a model keeps: its own embeddings without memory exactly, with an empty memory up to rounding."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from evoemb import EvoEmbedding, InputError, UnsupportedBackboneError
from evoemb.modules.adapters import MEMORY_ADAPTER, RETRIEVER_ADAPTER, adapter_parameters
from evoemb.modules.backbones.lookup import learned_positions
from kinds import CASES, DECODERS, MORE_CASES
from tiny_models import build_model, make_model

ALL = CASES + MORE_CASES
# One forward of another shape: sums in another order, in the last bits of unit vectors.
ROUNDING = 1e-6


def base_of(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def texts_with_a_base_embedding(kind: str, stream: list[str]) -> list[str]:
    """An empty turn of a decoder without special tokens has no tokens, and so no embedding of its own."""
    return [turn for turn in stream if turn or kind not in DECODERS]


@pytest.fixture(scope="module")
def bases(base_folder):
    """Give the base model of a kind; loaded once, never changed by a test."""
    return cache(lambda kind: base_of(base_folder(kind)))


@pytest.fixture(scope="module")
def untrained(base_folder):
    """Give the model with a fresh memory of a kind and reader; made once, never changed by a test."""
    return cache(lambda kind, reader: make_model(base_folder(kind), reader, trained=False))


@pytest.fixture(params=ALL, ids=lambda case: "-".join(case))
def fresh(request, untrained, bases):
    """A fresh model, its base model, and the kind of backbone."""
    kind, reader = request.param
    return untrained(kind, reader), bases(kind), kind


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 3},
        {"prompt": "who : "},
        {"normalize_embeddings": True, "truncate_dim": 8},
        {"precision": "binary"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
    ],
    ids=str,
)
def test_without_memory_a_fresh_model_is_its_base_model_bit_for_bit(fresh, stream, options):
    model, base, kind = fresh
    texts = texts_with_a_base_embedding(kind, stream)
    mine, theirs = model.encode(texts, **options), base.encode(texts, **options)
    assert type(mine) is type(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert one.dtype == other.dtype


def test_without_memory_the_other_outputs_are_those_of_the_base_model(models, bases, stream):
    model, base = models("bert", "attention"), bases("bert")
    assert np.array_equal(model.encode("i live in paris"), base.encode("i live in paris"))
    for mine, theirs in zip(
        model.encode(stream, output_value="token_embeddings"),
        base.encode(stream, output_value="token_embeddings"),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    assert model.encode([]).shape == base.encode([]).shape
    assert np.array_equal(model.encode_query(stream), base.encode_query(stream))


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_reading_streams_leaves_the_model_without_memory_bit_for_bit(base_folder, stream, case):
    model = make_model(base_folder(case[0]), case[1])
    before = model.encode(stream[:3])
    model.encode(stream, stateful=True, state=model.new_state())
    model.encode_query("where", state=model.new_state())
    assert np.array_equal(model.encode(stream[:3]), before)


def test_with_an_empty_memory_a_text_is_encoded_by_the_base_model(fresh, stream):
    model, base, kind = fresh
    texts = texts_with_a_base_embedding(kind, stream)
    expected = base.encode(texts)
    asked = model.encode(texts, state=model.new_state())
    np.testing.assert_allclose(asked, expected, rtol=0, atol=ROUNDING)
    first_turns = np.concatenate(model.encode([[text] for text in texts], stateful=True))
    np.testing.assert_allclose(first_turns, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlm-roberta", "qwen3", "llama"])
def test_training_the_attention_reader_never_moves_an_embedding_without_memory(base_folder, bases, stream, kind):
    model, base = make_model(base_folder(kind), "attention", trained=False), bases(kind)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    texts = texts_with_a_base_embedding(kind, stream)
    assert np.array_equal(model.encode(texts), base.encode(texts))
    first_turns = np.concatenate(model.encode([[text] for text in texts], stateful=True))
    np.testing.assert_allclose(first_turns, base.encode(texts), rtol=0, atol=ROUNDING)


def test_an_untrained_memory_hardly_moves_an_embedding(fresh, stream):
    model, base, kind = fresh
    asked = texts_with_a_base_embedding(kind, stream)
    state = model.new_state()
    turns = model.encode(stream * 3, stateful=True, state=state)
    with_turn = [index for index, turn in enumerate(stream * 3) if turn or kind not in DECODERS]
    expected = base.encode([(stream * 3)[index] for index in with_turn])
    assert float((turns[with_turn] * expected).sum(-1).mean()) >= 0.98
    assert float((model.encode(asked, state=state) * base.encode(asked)).sum(-1).mean()) >= 0.98


def test_an_untrained_memory_with_the_paper_s_own_start_moves_embeddings(base_folder, stream):
    """Its projections are not identity: ReLUs cut what is negative, so wrapping changes a model, as documented."""
    model = make_model(base_folder("qwen3"), "prefix", trained=False, init="paper")
    assert model[1].projection == "paper"
    assert np.isfinite(model.encode(stream, stateful=True)).all()


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max"])
def test_the_base_model_s_own_pooling_is_kept(base_folder, stream, mode):
    for kind, reader in (("bert", "attention"), ("qwen3", "prefix")):
        loaded = base_of(base_folder(kind))
        base = SentenceTransformer(modules=[loaded[0], Pooling(32, mode), Normalize()], device="cpu")
        texts = texts_with_a_base_embedding(kind, stream)
        expected = base.encode(texts)
        model = EvoEmbedding(modules=list(base), memory_reader=reader, num_latents=2, capacity_latents=8, device="cpu")
        assert np.array_equal(model.encode(texts), expected)
        np.testing.assert_allclose(model.encode(texts, state=model.new_state()), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_a_pooling_that_leaves_the_prompt_out_leaves_it_out_with_a_memory_too(base_folder, stream, mode):
    loaded = base_of(base_folder("bert"))
    pooling = Pooling(32, mode, include_prompt=False)
    base = SentenceTransformer(modules=[loaded[0], pooling, Normalize()], device="cpu")
    expected = base.encode(stream, prompt="who did what : ")
    for reader in ("attention", "prefix"):
        modules = [base_of(base_folder("bert"))[0], Pooling(32, mode, include_prompt=False), Normalize()]
        model = EvoEmbedding(modules=modules, memory_reader=reader, num_latents=2, capacity_latents=8, device="cpu")
        asked = model.encode(stream, prompt="who did what : ", state=model.new_state())
        np.testing.assert_allclose(asked, expected, rtol=0, atol=ROUNDING)


def test_the_default_reader_is_prefix_for_decoders_and_attention_for_encoders(base_folder):
    for kind, reader in (
        ("qwen3", "prefix"),
        ("qwen3_5", "prefix"),
        ("bert", "attention"),
        ("modernbert", "attention"),
    ):
        assert EvoEmbedding(str(base_folder(kind)), device="cpu").memory_config.reader == reader


def test_a_fresh_memory_is_announced(base_folder, caplog):
    model = EvoEmbedding(str(base_folder("bert")), device="cpu")
    assert "has no trained memory: a fresh one was added" in caplog.text
    assert model.describe()["memory_trained"] is False


def test_a_fresh_memory_is_the_same_in_every_build(base_folder, stream):
    first, second = (build_model(base_folder("bert"), "attention", trained=False) for _ in range(2))
    assert first.state_spec == second.state_spec
    state = first.new_state()
    first.encode(stream, stateful=True, state=state)
    assert np.array_equal(first.encode("where", state=state), second.encode("where", state=state))


def test_the_two_adapters_start_at_zero(fresh):
    model, _, _ = fresh
    for name in (MEMORY_ADAPTER, RETRIEVER_ADAPTER):
        assert list(adapter_parameters(model[0].model, name))
    ups = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert all(not up.any() for up in ups)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"memory_reader": "film"}, "memory_reader='film' is not known"),
        ({"num_latents": 0}, "num_latents=0 was given"),
        ({"num_latents": True}, "num_latents=True was given"),
        ({"num_latents": 8, "capacity_latents": 4}, "capacity_latents=4 is less than num_latents=8"),
        ({"memory_kwargs": {"ranks": 4}}, "memory_kwargs names ranks. Known names are"),
        ({"memory_kwargs": {"lora_dropout": 1.0}}, "lora_dropout=1.0 was given"),
        ({"memory_kwargs": {"memory_layers": 9}}, "memory_layers=9 was given, but the backbone has 4 layers"),
        ({"memory_kwargs": {"segment_turns": 2}}, "segment_turns=2 was given, .* one turn a segment"),
        ({"memory_reader": "prefix", "memory_kwargs": {"segment_turns": 2}}, "segment_turns=2 .* later turns"),
        ({"memory_kwargs": {"init": "paper"}}, 'init="paper" describes the prefix reader'),
    ],
    ids=str,
)
def test_a_choice_that_cannot_work_is_refused(base_folder, choices, message):
    with pytest.raises(ValueError, match=message):
        EvoEmbedding(str(base_folder("bert")), device="cpu", **choices)


def test_a_folder_may_be_given_as_a_path(base_folder, stream):
    by_path, by_name = (EvoEmbedding(kind(base_folder("bert")), device="cpu") for kind in (Path, str))
    assert by_path.state_spec == by_name.state_spec


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match=r"an empty name. Leave the name out .* or pass a Hub id, a folder"):
        EvoEmbedding("")


def test_a_model_loaded_in_inference_mode_reads_streams(base_folder, stream):
    with torch.inference_mode():
        model = build_model(base_folder("bert"), "attention", trained=False)
        state = model.new_state()
        model.encode(stream[:3], stateful=True, state=state)
    model.encode(stream[3:], stateful=True, state=state)
    assert state.num_turns == len(stream)


@pytest.mark.parametrize(("kind", "reader"), [("bert", "attention"), ("xlm-roberta", "attention")])
def test_a_window_longer_than_the_positions_of_the_backbone_is_refused(base_folder, kind, reader):
    model = make_model(base_folder(kind), reader)
    positions = learned_positions(model[0].model)
    model.max_seq_length = positions
    model.encode(["paris " * 2 * positions], stateful=True)
    with pytest.raises(InputError, match=rf"max_seq_length={positions + 1} was given.* has {positions} positions"):
        model.max_seq_length = positions + 1


def test_a_backbone_that_computes_its_positions_takes_any_window(base_folder):
    model = make_model(base_folder("qwen3"), "prefix")
    model.max_seq_length = 100_000
    assert model.max_seq_length == 100_000


def test_a_peft_adapter_that_a_saved_model_would_lose_is_refused(base_folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = make_model(base_folder("bert"), "attention")
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["dense"])
    with pytest.raises(UnsupportedBackboneError, match="A peft adapter beside the memory's own would not be saved"):
        model.add_adapter(config)
    model[0].model.add_adapter(config)
    with pytest.raises(InputError, match="carries a peft adapter, which this folder would not hold"):
        model.save_pretrained(str(tmp_path))


def test_choices_of_released_checkpoints_are_refused_by_other_models(base_folder):
    with pytest.raises(InputError, match="upstream_kwargs names token_ids, which released checkpoints take"):
        EvoEmbedding(str(base_folder("bert")), device="cpu", upstream_kwargs={"token_ids": {"user": 1}})
