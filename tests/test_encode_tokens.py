"""encode(output_value="token_embeddings") with a memory: the tokens of every text, as the memory lets them appear."""

from __future__ import annotations

import functools

import pytest
import torch

from evoemb import InputError
from laws import EMBEDDING_TOLERANCE, assert_same_states


@pytest.fixture
def tokens_of(model):
    """The call under test."""
    return functools.partial(model.encode, output_value="token_embeddings")


def assert_same_tokens(first, second):
    """Fail unless two lists of (T, H) agree up to rounding."""
    assert [tuple(one.shape) for one in first] == [tuple(one.shape) for one in second]
    for one, other in zip(first, second, strict=True):
        # Tokens are not of unit length; states of the tiny models have a norm of up to about 10.
        torch.testing.assert_close(one, other, rtol=0, atol=10 * EMBEDDING_TOLERANCE)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlm-roberta"])
def test_on_an_empty_memory_an_attention_reader_gives_the_plain_tokens(models, stream, kind):
    model = models(kind, "attention")
    plain = model.encode(stream, output_value="token_embeddings")
    assert_same_tokens(model.encode(stream, state=model.new_state(), output_value="token_embeddings"), plain)
    assert_same_tokens(model.encode(stream[:1], stateful=True, output_value="token_embeddings"), plain[:1])


def test_every_text_has_its_own_tokens_and_no_padding(model, tokens_of, stream):
    lengths = [len(ids) for ids in model[0].token_ids(stream)]
    assert [len(one) for one in tokens_of(stream, stateful=True)] == lengths
    state = model.new_state()
    assert [len(one) for one in tokens_of(stream, state=state)] == lengths
    assert [len(one) for one in tokens_of(stream, stateful=True, memory="final")] == lengths


def test_the_memory_changes_tokens_and_a_batch_does_not(model, tokens_of, stream):
    state = model.new_state()
    together = tokens_of(stream, stateful=True, state=state)
    alone = model.new_state()
    assert_same_tokens([tokens_of(turn, stateful=True, state=alone) for turn in stream], together)
    queries = ["where is my cat", "ok"]
    seen = tokens_of(queries, state=state)
    assert_same_tokens([tokens_of(query, state=state) for query in queries], seen)
    assert not torch.allclose(seen[0], tokens_of(queries[0], state=model.new_state()), atol=1e-2)


def test_embeddings_are_pooled_from_these_tokens(model, tokens_of, stream):
    state = model.new_state()
    for tokens, embedding in zip(
        tokens_of(stream, stateful=True, state=state), model.encode(stream, stateful=True), strict=True
    ):
        features = {"token_embeddings": tokens[None], "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
        for module in list(model)[2:]:
            features = module(features)
        torch.testing.assert_close(features["sentence_embedding"][0], torch.tensor(embedding), rtol=0, atol=1e-4)


def test_the_state_advances_as_with_sentence_embeddings(model, tokens_of, stream):
    state, expected = model.new_state(), model.new_state()
    for part in (stream[:4], stream[4:]):
        tokens_of(part, stateful=True, state=state)
        model.encode(part, stateful=True, state=expected)
    assert_same_states(state, expected)


def test_several_streams_give_a_list_each(tokens_of, stream):
    streams = [stream, stream[::-1][:5]]
    found = tokens_of(streams, stateful=True)
    assert [len(one) for one in found] == [13, 5]
    for one, turns in zip(found, streams, strict=True):
        assert_same_tokens(one, tokens_of(turns, stateful=True))
    final = tokens_of(streams, stateful=True, memory="final")
    assert [type(one) for one in final] == [list, list]


def test_tensors_stay_what_they_are_whatever_form_is_asked(tokens_of, stream):
    for form in ({"convert_to_tensor": True}, {"convert_to_numpy": False}, {}):
        found = tokens_of(stream[:2], stateful=True, **form)
        assert [type(one) for one in found] == [torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("shaping", [{"precision": "int8"}, {"truncate_dim": 8}, {"normalize_embeddings": True}])
def test_what_shapes_an_embedding_is_refused_with_tokens(model, tokens_of, stream, shaping):
    (name,) = shaping
    for call in ({"stateful": True}, {"state": model.new_state()}):
        with pytest.raises(InputError, match=rf"{name}=.* acts on sentence embeddings, .*Leave it out"):
            tokens_of(stream, **call, **shaping)


def test_a_model_s_own_truncation_leaves_tokens_whole(base_folder, stream):
    from tiny_models import make_model

    model = make_model(base_folder("bert"), "attention")
    model.truncate_dim = 8
    found = model.encode(stream, stateful=True, output_value="token_embeddings")
    assert {one.shape[1] for one in found} == {model[0].get_embedding_dimension()}


def test_an_unknown_output_value_is_refused(model, stream):
    with pytest.raises(InputError, match=r"output_value='words' was given.*sentence_embedding or token_embeddings"):
        model.encode(stream, stateful=True, output_value="words")
