"""The arguments of ``encode`` that sentence-transformers knows keep their meaning with a memory."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from evoemb import EvoEmbedding, InputError
from laws import assert_same_embeddings
from tiny_models import make_model


def calls_of(model, stream):
    """The two calls with a memory, as functions of the options: reading a stream, and encoding on a state."""
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    return [
        lambda **options: model.encode(stream, stateful=True, **options),
        lambda **options: model.encode(stream, state=state, **options),
        lambda **options: model.encode(stream, stateful=True, memory="final", **options),
    ]


def test_truncated_embeddings_are_the_first_numbers(model, stream):
    for call in calls_of(model, stream):
        assert_same_embeddings(call(truncate_dim=8), call()[:, :8], tolerance=0)


def test_normalized_embeddings_have_length_one_after_truncation(model, stream):
    for call in calls_of(model, stream):
        cut = call()[:, :8]
        expected = cut / np.linalg.norm(cut, axis=-1, keepdims=True)
        assert_same_embeddings(call(truncate_dim=8, normalize_embeddings=True), expected, tolerance=1e-6)


def test_a_model_s_own_truncation_holds_with_a_memory(base_folder, stream):
    options = {"memory_reader": "attention", "num_latents": 2, "capacity_latents": 8, "device": "cpu"}
    cut = EvoEmbedding(str(base_folder("bert")), truncate_dim=8, **options)
    full = EvoEmbedding(str(base_folder("bert")), **options)
    assert_same_embeddings(cut.encode(stream, stateful=True), full.encode(stream, stateful=True)[:, :8], tolerance=0)
    assert cut.encode(stream, stateful=True, truncate_dim=16).shape == (len(stream), 16)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precision_quantizes_each_stream_as_sentence_transformers_does(models, stream, precision):
    model = models("bert", "attention")
    long = stream * 8  # fewer than 100 embeddings are too few to calibrate, and sentence-transformers says so
    expected = quantize_embeddings(model.encode(long, stateful=True), precision=precision)
    one = model.encode(long, stateful=True, precision=precision)
    assert one.dtype == expected.dtype
    assert np.array_equal(one, expected)
    several = model.encode([long, long[::-1]], stateful=True, precision=precision)
    if "int8" in precision:  # batched otherwise, a number may fall on the other side of a step
        assert np.abs(several[0].astype(int) - expected.astype(int)).max() <= 1
    tensor = model.encode(long, stateful=True, precision=precision, convert_to_tensor=True)
    assert np.array_equal(tensor.numpy(), expected)
    listed = model.encode(long, stateful=True, precision=precision, convert_to_numpy=False)
    assert np.array_equal(torch.stack(listed).numpy(), expected)


def test_a_prompt_is_written_before_every_turn(model, stream):
    turns = [turn for turn in stream if turn]
    state, prompted = model.new_state(), model.new_state()
    expected = model.encode([f"who : {turn}" for turn in turns], stateful=True, state=state)
    assert_same_embeddings(model.encode(turns, stateful=True, state=prompted, prompt="who : "), expected)
    assert_same_embeddings(
        model.encode(turns, state=prompted, prompt="who : "),
        model.encode([f"who : {turn}" for turn in turns], state=state),
    )


@pytest.fixture
def prompting(base_folder):
    """A model with named prompts, one of them the default."""
    return EvoEmbedding(
        str(base_folder("bert")),
        prompts={"query": "where : ", "document": "in : ", "dream": "yesterday "},
        default_prompt_name="dream",
        num_latents=2,
        capacity_latents=8,
        device="cpu",
    )


def test_named_prompts_and_the_default_prompt_hold_with_a_memory(prompting, stream):
    for options in ({"stateful": True}, {"state": prompting.new_state()}):
        for given, prompt in (({}, "yesterday "), ({"prompt_name": "query"}, "where : "), ({"prompt": ""}, "")):
            assert_same_embeddings(
                prompting.encode(stream, **given, **options),
                prompting.encode(stream, prompt=prompt, **options),
                tolerance=0,
            )
    assert (
        np.abs(prompting.encode(stream, stateful=True) - prompting.encode(stream, stateful=True, prompt="")).max()
        > 1e-3
    )


def test_queries_and_documents_take_their_prompts_with_a_memory(prompting, stream):
    state = prompting.new_state()
    prompting.encode_document(stream, stateful=True, state=state)
    for encode, prompt in ((prompting.encode_query, "where : "), (prompting.encode_document, "in : ")):
        assert_same_embeddings(
            encode(stream, state=state), prompting.encode(stream, state=state, prompt=prompt), tolerance=0
        )
    ranked = prompting.retrieve(stream, "what", None)
    turns = prompting.encode(stream, stateful=True, prompt="in : ")
    query = prompting.encode("what", state=state, prompt="where : ")
    assert_same_embeddings([hit["score"] for hit in ranked], np.sort(turns @ query)[::-1])


def test_the_form_of_results_is_that_of_sentence_transformers(model, stream, base_folder):
    base = SentenceTransformer(str(base_folder("bert")), device="cpu")
    for options in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}):
        for inputs in ("i live in paris", stream):
            wanted = base.encode(inputs, **options)
            for given in ({"stateful": True}, {"state": model.new_state()}):
                got = model.encode(inputs, **options, **given)
                assert type(got) is type(wanted)
                assert len(got) == len(wanted)
                assert type(got[0]) is type(wanted[0])
                assert got[0].dtype == wanted[0].dtype
                assert not isinstance(got[0], torch.Tensor) or not got[0].requires_grad


def test_several_streams_give_a_list_with_one_result_a_stream(model, stream):
    several = [stream, stream[:3]]
    arrays = model.encode(several, stateful=True)
    tensors = model.encode(several, stateful=True, convert_to_tensor=True)
    lists = model.encode(several, stateful=True, convert_to_numpy=False)
    for array, tensor, listed in zip(arrays, tensors, lists, strict=True):
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(listed, list)
        assert_same_embeddings(array, tensor, tolerance=0)
        assert_same_embeddings(array, torch.stack(listed), tolerance=0)
    [alone] = model.encode([stream], stateful=True)
    assert_same_embeddings(alone, arrays[0])


def test_results_can_take_part_in_training(model, stream):
    """Inference tensors could not: what leaves encode is an ordinary tensor, also inside inference mode's ST calls."""
    embeddings = model.encode(stream, stateful=True, convert_to_tensor=True)
    weight = torch.ones(32, requires_grad=True)
    (embeddings @ weight).sum().backward()
    assert weight.grad is not None


def test_the_progress_bar_counts_turns(models, stream, capsys):
    model = models("bert", "attention")
    state = model.new_state(2)
    capsys.readouterr()
    model.encode([stream, stream[:4]], stateful=True, state=state, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "Turns" in shown
    assert re.search(rf"{len(stream) + 4}/{len(stream) + 4} .*turn", shown)
    model.encode(stream, stateful=True, memory="final", show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "Reading turns" in shown
    assert shown.count(f"{len(stream)}/{len(stream)}") == 2
    model.encode(stream, stateful=True, show_progress_bar=False)
    assert capsys.readouterr().err == ""


def test_a_progress_bar_is_shown_where_sentence_transformers_would_show_one(models, stream, capsys, caplog):
    model = models("bert", "attention")
    model.encode(stream, stateful=True)
    assert capsys.readouterr().err == ""
    with caplog.at_level(logging.INFO, "sentence_transformers"):
        model.encode(stream, stateful=True)
    assert "Turns" in capsys.readouterr().err


def test_a_device_is_taken(model, stream):
    expected = model.encode(stream, stateful=True)
    assert_same_embeddings(model.encode(stream, stateful=True, device="cpu"), expected, tolerance=0)
    assert_same_embeddings(model.encode(stream, stateful=True, device=torch.device("cpu")), expected, tolerance=0)


def test_a_process_pool_is_refused_with_the_remedy(model, stream):
    for options in ({"pool": {"processes": []}}, {"device": ["cpu", "cpu"]}):
        for memory in ({"stateful": True}, {"state": model.new_state()}):
            with pytest.raises(ValueError, match=r"read in order.* give each process streams of its own"):
                model.encode(stream, **options, **memory)


@pytest.mark.parametrize(
    "options", [{"memory": "final"}, {"max_batch_tokens": 10}, {"truncate": False}, {"memory": "later"}], ids=str
)
def test_what_needs_a_memory_is_refused_without_one(model, stream, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=.* needs a memory. Pass stateful=True"):
        model.encode(stream, **options)


@pytest.mark.parametrize("precision", ["float16", "int4", ""])
def test_an_unknown_precision_is_refused_before_anything_is_read(models, stream, monkeypatch, precision):
    model = models("bert", "attention")
    monkeypatch.setattr(model[0], "forward", lambda *_: pytest.fail("a text was read"))
    with pytest.raises(InputError, match=rf"precision={precision!r} was given. Use one of float32, int8, uint8"):
        model.encode(stream, stateful=True, precision=precision)


def test_a_way_of_reading_is_refused_where_nothing_is_read(models, stream):
    model = models("bert", "attention")
    with pytest.raises(InputError, match="memory='final' says what turns read with stateful=True see"):
        model.encode(stream, state=model.new_state(), memory="final")


def test_a_chunk_size_is_refused_with_a_memory(models, stream):
    with pytest.raises(InputError, match="Leave pool and chunk_size out"):
        models("bert", "attention").encode(stream, stateful=True, chunk_size=2)


def test_a_dialogue_with_a_text_that_is_cut_names_it(models, caplog):
    messages = [{"role": "user", "content": "i moved from rome to lyon " * 30}, {"role": "user", "content": "where"}]
    with caplog.at_level(logging.WARNING, "evoemb"):
        models("bert", "attention").retrieve(messages)
    assert len(caplog.messages) == 1
    assert "Turn 0 has 18" in caplog.messages[0]


def test_a_turn_longer_than_the_window_is_cut_with_one_warning_that_names_it(model, stream, caplog):
    long = "i moved from rome to lyon " * 30
    with caplog.at_level(logging.WARNING, "evoemb"):
        cut = model.encode([*stream, long, long], stateful=True)
    ours = [record for record in caplog.records if record.name.startswith("evoemb")]
    warnings = [record.getMessage() for record in ours if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert re.search(rf"Turn {len(stream)} has 18\d tokens, but the model reads 64\.", warnings[0])
    words = long.split()
    for kept in (62, 64):  # encoders spend two places on special tokens
        short = model.encode([*stream, " ".join(words[:kept])], stateful=True)
        if np.abs(short[-1] - cut[-2]).max() < 1e-4:
            break
    else:
        pytest.fail("the turn was not cut to the first tokens")


def test_a_turn_longer_than_the_window_is_named_with_its_stream(model, stream, caplog):
    long = "i moved from rome to lyon " * 30
    with pytest.raises(ValueError, match=r"Turn 1 of stream 1 has 18\d tokens.*pass truncate=True"):
        model.encode([stream, ["ok", long]], stateful=True, truncate=False)
    with pytest.raises(ValueError, match=r"Turn 0 has 18\d tokens"):
        model.encode(long, state=model.new_state(), truncate=False)
    with caplog.at_level(logging.WARNING, "evoemb"):
        model.encode([stream, ["ok", long]], stateful=True)
    assert "Turn 1 of stream 1 has" in caplog.text


def test_a_turn_that_just_fits_is_not_reported(model, caplog):
    fits = " ".join(["key"] * (62 if model.memory_config.segment_turns == 1 else 64))
    with caplog.at_level(logging.WARNING, "evoemb"):
        model.encode([fits], stateful=True, truncate=False)
    assert caplog.text == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "reader"), [("qwen3", "prefix"), ("bert", "attention"), ("qwen3_5", "prefix")])
def test_half_precision_models_read_streams(base_folder, stream, dtype, kind, reader):
    full = make_model(base_folder(kind), reader)
    half = make_model(base_folder(kind), reader).to(dtype)
    state = half.new_state()
    turns = half.encode(stream, stateful=True, state=state, convert_to_tensor=True)
    assert turns.dtype == dtype
    assert state.latents[0].dtype == dtype
    # Eight bits of mantissa and weights twice as large as usual: single angles grow, their mean stays small.
    cosine = (turns.float().numpy() * full.encode(stream, stateful=True)).sum(-1)
    assert cosine.mean() > 0.98
    assert cosine.min() > 0.9
    array = half.encode(stream, state=state)
    assert array.dtype == (np.float32 if dtype == torch.bfloat16 else np.float16)
    parts = half.new_state()
    half.encode(stream[:6], stateful=True, state=parts)
    resumed = half.encode(stream[6:], stateful=True, state=parts, convert_to_tensor=True)
    assert (resumed * turns[6:]).float().sum(-1).mean() > 0.98


def test_a_float32_state_goes_on_in_a_half_precision_model_and_back(base_folder, stream):
    full, half = (make_model(base_folder("bert"), "attention") for _ in range(2))
    half = half.to(torch.bfloat16)
    assert full.state_spec == half.state_spec
    state = full.new_state()
    full.encode(stream[:5], stateful=True, state=state)
    half.encode(stream[5:8], stateful=True, state=state)
    full.encode(stream[8:], stateful=True, state=state)
    assert state.num_turns == len(stream)
