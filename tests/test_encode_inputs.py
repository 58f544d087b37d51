"""What counts as one stream, several streams or texts on a state, and in which form results go back."""

from __future__ import annotations

import json
from collections import UserList

import numpy as np
import pytest

from evoemb._errors import StateError
from laws import assert_same_embeddings, assert_same_states

MESSAGES = [
    {"role": "user", "content": "i live in paris"},
    {"role": "assistant", "content": "ok noted"},
    {"role": "user", "content": "where is my dog"},
    {"role": "user", "content": "i moved to rome"},
    {"role": "assistant", "content": "ok"},
]
TURNS = ["User: i live in paris\nAssistant: ok noted", "User: where is my dog", "User: i moved to rome\nAssistant: ok"]


def test_messages_are_read_as_the_turns_they_pair_into(model):
    assert_same_embeddings(model.encode(MESSAGES, stateful=True), model.encode(TURNS, stateful=True), tolerance=0)
    several = model.encode([MESSAGES, TURNS[:2]], stateful=True)
    assert_same_embeddings(several[0], model.encode(TURNS, stateful=True))
    ranked = model.retrieve(MESSAGES, "where do i live", top_k=1)
    assert ranked[0]["text"] in TURNS


def test_one_message_is_one_turn(model):
    one = model.encode({"role": "user", "content": "i live in paris"}, stateful=True)
    assert one.shape == (32,)
    assert_same_embeddings(one, model.encode("User: i live in paris", stateful=True), tolerance=0)


@pytest.mark.parametrize("kind", [tuple, np.array, UserList, lambda turns: np.array(turns, dtype=object)])
def test_any_sequence_of_strings_is_a_stream(models, stream, kind):
    model = models("bert", "attention")
    assert_same_embeddings(model.encode(kind(stream), stateful=True), model.encode(stream, stateful=True), tolerance=0)


def test_a_column_of_a_dataset_is_a_stream(models, stream):
    datasets = pytest.importorskip("datasets", reason="comes with the train extra")
    model = models("bert", "attention")
    column = datasets.Dataset.from_dict({"turn": stream})["turn"]
    assert_same_embeddings(model.encode(column, stateful=True), model.encode(stream, stateful=True), tolerance=0)


@pytest.mark.parametrize(
    "turn",
    [
        "",
        " ",
        "\n\n",
        "\x00",
        "日本語 🦊 \u200d",
        "<s>",
        "</s>",
        "<pad> key <mask>",
        "e\u0301",
        "\ufeffkey",
        "a" * 10_000,
    ],
    ids=ascii,
)
def test_any_text_is_a_turn(any_model, stream, turn):
    state = any_model.new_state()
    embeddings = any_model.encode([*stream[:3], turn, *stream[3:5]], stateful=True, state=state)
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-5)
    assert state.num_turns == 6
    assert np.isfinite(any_model.encode(turn, state=state)).all()


def test_a_stream_of_empty_turns_is_read(any_model):
    state = any_model.new_state()
    assert np.isfinite(any_model.encode([""] * 7, stateful=True, state=state)).all()
    assert state.num_turns == 7


def test_texts_on_a_state_of_several_streams_keep_their_order(any_model, stream):
    state = any_model.new_state(3)
    any_model.encode([stream[:2], stream[2:9], stream[9:]], stateful=True, state=state)
    # Longest last, so that sorting by length would mix them up.
    queries = ["key", "where is my brother", "the dog lost the blue lamp yesterday and we found the book"]
    flat = any_model.encode(queries, state=state)
    nested = any_model.encode([[query] for query in queries], state=state)
    assert flat.shape == (3, 32)
    for index, query in enumerate(queries):
        alone = any_model.encode(query, state=state[index])
        assert_same_embeddings(flat[index], alone)
        assert_same_embeddings(nested[index][0], alone)
    assert_same_embeddings(any_model.encode_query(queries, state=state), flat, tolerance=0)


def test_one_turn_for_each_of_several_streams_is_read_into_its_own(any_model, stream):
    flat, nested = any_model.new_state(3), any_model.new_state(3)
    turns = [stream[4], stream[0], stream[2]]
    for step in range(3):
        given = turns[step:] + turns[:step]
        first = any_model.encode(given, stateful=True, state=flat)
        second = any_model.encode([[turn] for turn in given], stateful=True, state=nested)
        assert first.shape == (3, 32)
        assert_same_embeddings(first, np.concatenate(second), tolerance=0)
    assert_same_states(flat, nested, tolerance=0)


def test_different_numbers_of_queries_on_several_streams_are_taken_nested(model, stream):
    state = model.new_state(2)
    model.encode([stream[:4], stream[4:]], stateful=True, state=state)
    first, second = model.encode([stream[:1], stream[:5]], state=state)
    assert_same_embeddings(first, model.encode(stream[:1], state=state[0]))
    assert_same_embeddings(second, model.encode(stream[:5], state=state[1]))


@pytest.mark.parametrize("stateful", [True, False])
@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ("where", "1 texts in one list"),
        (["where", "who"], "2 texts in one list"),
        ([["where"], ["who"]], "2 streams"),
        ([["a"], ["b"], ["c"], ["d"]], "4 streams"),
    ],
    ids=str,
)
def test_a_number_of_inputs_that_fits_no_stream_is_refused(model, inputs, given, stateful):
    state = model.new_state(3)
    with pytest.raises(StateError, match=rf"holds 3 streams, but {given} were given. .*state\[i\]"):
        model.encode(inputs, state=state, stateful=stateful)


def test_a_state_of_one_stream_takes_many_texts(model, stream):
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    assert model.encode(stream[:5], state=state).shape == (5, 32)
    [nested] = model.encode([stream[:5]], state=state)
    assert_same_embeddings(nested, model.encode(stream[:5], state=state), tolerance=0)


def test_results_of_retrieve_are_plain_json(model, stream):
    ranked = model.retrieve(stream, ["where", "who"], 2)
    assert json.loads(json.dumps(ranked)) == ranked
    assert [hit["score"] for hit in ranked[0]] == sorted((hit["score"] for hit in ranked[0]), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "who"), "stream is empty"),
        ((["ok"], []), "is empty"),
        ((["ok"], "who", 0), "top_k=0 was given"),
        ((["ok"], None), "Element 0 is a str, but messages are expected here"),
        (("ok", "who"), "wrap it in a list"),
        (([["ok"], ["ok"]], "who"), "For several streams"),
    ],
    ids=str,
)
def test_a_retrieval_that_cannot_be_is_refused(models, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        models("bert", "attention").retrieve(*arguments)


def test_retrieve_takes_a_state_of_one_stream_only(model):
    with pytest.raises(StateError, match=r"one stream, but .* state holds 2. Pass state\[i\]"):
        model.retrieve(["ok"], "who", state=model.new_state(2))


def test_a_ranking_longer_than_the_stream_is_the_whole_stream(model, stream):
    assert len(model.retrieve(stream, "who", 1000)) == len(stream)
