"""Searching: exact with every filter, one scale over all of a user's streams, and what took whose place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evoemb import InputError, InputTypeError
from laws import EMBEDDING_TOLERANCE
from store_laws import assert_holds

CITIES = "paris rome lyon porto oslo bern".split()
ASKED = "where do i live"


@pytest.fixture
def facts(bert, open_store):
    """Twelve turns on twelve days by two speakers, of three kinds."""
    chat = open_store(bert).stream("chat-1", user="alice")
    for number, city in enumerate(CITIES * 2):
        message = {"role": "user", "name": "Ann" if number % 2 else "Bob", "content": f"i live in {city}"}
        about = {"kind": "abc"[number % 3], "even": number % 2 == 0, "n": number, "tags": ["x", city]}
        chat.add(message, time=f"2026-11-{number + 1:02}T09:00Z", metadata=about)
    return chat


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({}, lambda n: True),
        ({"where": {"kind": "b"}}, lambda n: n % 3 == 1),
        ({"where": {"kind": ["a", "c"]}}, lambda n: n % 3 != 1),
        ({"where": {"kind": {"a"}, "even": True}}, lambda n: n % 6 == 0),
        ({"where": {"n": 1}}, lambda n: n == 1),
        ({"where": {"even": 1}}, lambda n: False),
        ({"where": {"other": "a"}}, lambda n: False),
        ({"after": "2026-11-05"}, lambda n: n >= 4),
        ({"before": "2026-11-05T09:00Z"}, lambda n: n < 4),
        ({"after": "2026-11-05T09:00Z", "before": "2026-11-06T09:00Z"}, lambda n: n == 4),
        ({"speaker": "Ann"}, lambda n: n % 2),
        ({"speaker": "Ann", "where": {"kind": "a"}, "after": "2026-11-05"}, lambda n: n == 9),
    ],
    ids=lambda one: "" if callable(one) else str(one),
)
def test_the_best_of_every_filter_are_the_best_of_all_that_pass_it(facts, filters, allowed):
    everything = facts.search(ASKED, top_k=None)
    passing = [(hit.seq, hit.score) for hit in everything if allowed(hit.seq - 1)]
    for top_k in (1, 3, None):
        found = [
            (hit.seq, pytest.approx(hit.score, abs=EMBEDDING_TOLERANCE))
            for hit in facts.search(ASKED, top_k=top_k, **filters)
        ]
        assert found == passing[:top_k]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"top_k": 0}, InputError, "top_k=0 was given"),
        ({"after": "soon"}, InputError, "after='soon' is no time"),
        ({"before": "2026-11-05T09:00"}, InputError, "before is a time without a zone"),
        ({"where": {1: 2}}, InputTypeError, "expected a dict with texts as keys"),
        ({"where": "kind"}, InputTypeError, "where is 'kind', expected a dict"),
        ({"speaker": 3}, InputTypeError, "speaker is int, expected a name"),
    ],
)
def test_a_filter_that_cannot_be_read_is_told(facts, given, error, words):
    with pytest.raises(error, match=words):
        facts.search(ASKED, **given)
    with pytest.raises(InputTypeError, match="The query is int, expected a text"):
        facts.search(3)


def test_all_streams_of_a_user_are_ranked_on_one_scale(bert, stream, open_store):
    store = open_store(bert)
    store.stream("chat-1", user="alice").add(stream[:6])
    store.stream("chat-2", user="alice").add(stream[6:])
    store.stream("chat-3", user="bob").add(stream)
    found = store.search(ASKED, user="alice", top_k=None)
    query = bert.encode_query(ASKED, state=bert.new_state())
    parts = [bert.encode_document(part, stateful=True, state=bert.new_state()) for part in (stream[:6], stream[6:])]
    expected = np.concatenate(parts) @ query
    assert [hit.score for hit in found] == pytest.approx(sorted(expected, reverse=True), abs=EMBEDDING_TOLERANCE)
    assert found[0].text == stream[int(np.argmax(expected))]
    assert {hit.stream for hit in found} == {"chat-1", "chat-2"}
    assert len(store.search(ASKED, top_k=None)) == 2 * len(stream)
    with pytest.raises(InputError, match=r"as_of=2 was given, but turns are numbered in each stream by itself"):
        store.search(ASKED, as_of=2)


def test_a_turn_says_what_it_replaces_and_what_replaced_it(bert, open_store):
    store = open_store(bert)
    chat, other = store.stream("chat-1", user="alice"), store.stream("chat-2", user="alice")
    chat.add("i live in paris")
    chat.add("i moved to rome", replaces=1, metadata={"why": "work"})
    other.add("i moved to oslo", replaces=chat.turns()[1])
    assert [hit.seq for hit in chat.search(ASKED, current_only=True)] == []
    assert [(hit.stream, hit.seq) for hit in store.search(ASKED, user="alice", current_only=True)] == [("chat-2", 1)]
    assert [hit.seq for hit in chat.search(ASKED, as_of=1, current_only=True)] == [1]
    (then,) = chat.search(ASKED, as_of=1)
    assert then.replaced_by == ()
    now = {hit.seq: (hit.replaces, hit.replaced_by) for hit in chat.search(ASKED)}
    assert now == {1: (None, (("chat-1", 2),)), 2: (("chat-1", 1), (("chat-2", 1),))}
    for start, number in [(chat, 1), (chat, 2), (other, 1)]:
        assert [turn.text for turn in start.history(number)] == [
            "i live in paris",
            "i moved to rome",
            "i moved to oslo",
        ]
    with pytest.raises(InputError, match="The stream 'chat-2' has no turn 7"):
        other.history(7)
    store.forget(stream="chat-2")
    assert [hit.seq for hit in chat.search(ASKED, current_only=True)] == [2]


def test_an_answer_that_comes_later_keeps_what_its_question_replaced(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    chat.add({"role": "user", "content": "i live in paris"})
    chat.add({"role": "user", "content": "i live in rome"}, replaces=1, metadata={"a": 1})
    chat.add({"role": "assistant", "content": "noted"}, metadata={"b": 2})
    assert [(turn.replaces, turn.metadata) for turn in chat.turns()] == [(None, {}), (("chat-1", 1), {"a": 1, "b": 2})]


def test_many_streams_read_side_by_side_are_as_each_by_itself(model, stream, open_store):
    store = open_store(model)
    store.stream("b", user="bob").add(stream[:2])
    given = {"a": stream[:1], "b": stream[2:], "c": stream, "d": [{"role": "user", "content": "i live in paris"}]}
    found = store.add_many(given, user="bob", metadata={"via": "web"})
    assert {name: len(numbers) for name, numbers in found.items()} == {"a": 1, "b": 11, "c": 13, "d": 1}
    for name, texts in {"a": stream[:1], "b": stream, "c": stream, "d": ["User: i live in paris"]}.items():
        assert_holds(store.stream(name), texts, model)
    assert store.stream("d").turns()[0].metadata == {"via": "web"}


def test_a_fault_in_one_of_many_streams_keeps_nothing_of_any(bert, open_store):
    store = open_store(bert)
    with pytest.raises(InputError, match="the stream is empty"):
        store.add_many({"a": ["ok"], "b": []})
    assert store.streams() == []
    assert store.add_many({}) == {}


def test_search_sees_what_another_store_has_just_written(bert, open_store):
    writer, reader = open_store(bert).stream("s"), open_store(bert).stream("s")
    for number, city in enumerate(itertools.islice(itertools.cycle(CITIES), 8), 1):
        writer.add({"role": "user", "content": f"i live in {city}"})
        assert len(reader.search(ASKED, top_k=None)) == number
        writer.add({"role": "assistant", "content": "noted"})
        assert all(hit.text.endswith("noted") for hit in reader.search(ASKED, top_k=None))
    writer.forget(3)
    assert sorted(hit.seq for hit in reader.search(ASKED, top_k=None)) == [1, 2, 4, 5, 6, 7, 8]
