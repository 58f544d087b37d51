"""Adding turns: what was added is what a plain reading gives, whole or not at all, once for every key."""

from __future__ import annotations

import os
import stat
import threading

import numpy as np
import pytest

from evoemb import InputError, InputTypeError, StateError
from laws import assert_same_states
from store_laws import assert_holds, vectors_of

CHAT = [
    {"role": "user", "content": "i live in paris"},
    {"role": "assistant", "content": "noted"},
    {"role": "user", "content": "where do you live ?"},
]


@pytest.mark.parametrize("pieces", [[13], [1, 2, 10]], ids=str)
def test_a_stream_in_a_store_is_that_stream_read_plainly(any_model, stream, open_store, pieces):
    chat, start = open_store(any_model).stream("chat-1"), 0
    for size in pieces:
        numbers = chat.add(stream[start : start + size])
        assert numbers == list(range(start + 1, start + size + 1))
        start += size
    assert_holds(chat, stream, any_model)


def test_a_store_that_is_opened_again_goes_on(model, stream, open_store):
    for turn in stream:
        store = open_store(model)
        store.stream("chat-1").add(turn)
        store.close()
    assert_holds(open_store(model).stream("chat-1"), stream, model)


def test_half_precision_moves_a_vector_by_less_than_ranking_sees(bert, stream, open_store):
    exact = open_store(bert, "exact.db").stream("s")
    half = open_store(bert, "half.db", precision="float16").stream("s")
    for turn in stream:
        exact.add(turn)
    half.add(stream)
    np.testing.assert_allclose(vectors_of(half), vectors_of(exact), rtol=0, atol=1e-3)  # half has 11 bits
    found = [
        [(hit.seq, round(hit.score, 2)) for hit in one.search("where is my cat", top_k=3)] for one in (exact, half)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("cuts", [[1, 2, 3], [1, 3], [2, 3], [3]], ids=str)
def test_an_answer_goes_to_its_question_whenever_it_comes(model, open_store, cuts):
    chat, start = open_store(model).stream("chat-1"), 0
    for end in cuts:
        chat.add(CHAT[start:end])
        start = end
    assert_holds(chat, ["User: i live in paris\nAssistant: noted", "User: where do you live ?"], model)
    assert [(turn.seq, turn.role) for turn in chat.turns()] == [(1, "user"), (2, "user")]


def test_the_state_knows_the_question_that_waits(model, open_store):
    chat, plain = open_store(model).stream("chat-1"), model.new_state()
    chat.add(CHAT)
    model.encode_document(CHAT, stateful=True, state=plain)
    state = chat.state()
    assert state.unanswered == plain.unanswered == "User: where do you live ?"
    answer = [{"role": "assistant", "content": "in oslo"}]
    for one in (state, plain):
        model.encode_document(answer, stateful=True, state=one)
    assert_same_states(state, plain)


def test_a_repeated_key_adds_nothing(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    assert chat.add(CHAT, key=["a", "b", "c"]) == [1, 2]
    before = [chat.turns(), chat.search("paris")]
    assert chat.add(CHAT, key=["a", "b", "c"]) == [1, 2]
    assert chat.add(CHAT[1], key="b") == [1]
    assert [chat.turns(), chat.search("paris")] == before
    assert chat.add([*CHAT[1:], {"role": "assistant", "content": "ok"}], key=["b", "c", "d"]) == [1, 2]
    assert_holds(chat, ["User: i live in paris\nAssistant: noted", "User: where do you live ?\nAssistant: ok"], bert)


def test_the_same_text_twice_is_two_turns(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    assert [chat.add("ok"), chat.add("ok")] == [[1], [2]]


def test_a_query_changes_no_byte(bert, stream, open_store, tmp_path):
    store = open_store(bert)
    chat = store.stream("chat-1", user="alice")
    chat.add(stream)
    files = sorted(path for path in tmp_path.iterdir() if not path.name.endswith("-shm"))
    before = [path.read_bytes() for path in files]
    chat.search("where do i live")
    chat.search("where do i live", as_of=3)
    store.search("where do i live", user="alice")
    assert [path.read_bytes() for path in files] == before


def test_the_file_is_its_owners_alone(bert, open_store, tmp_path):
    open_store(bert, "new/agent.db").stream("s").add("i live in paris")
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (tmp_path / "new").iterdir()]
    assert set(modes) == {0o600}


def test_threads_and_stores_on_one_stream_lose_nothing(bert, open_store):
    stores = [open_store(bert) for _ in range(2)]
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for turn in range(6):
                stores[number % 2].stream("chat-1").add(f"i live in {'abcd'[number]} {turn}")
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    chat = stores[0].stream("chat-1")
    texts = [turn.text for turn in chat.turns()]
    assert len(texts) == 24
    for name in "abcd":
        assert [text for text in texts if f" {name} " in text] == [f"i live in {name} {turn}" for turn in range(6)]
    assert_holds(chat, texts, bert)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"turns": []}, InputError, "nothing to add: the stream is empty"),
        ({"turns": 7}, InputTypeError, "A stream is a list of strings"),
        ({"turns": "a\0b"}, InputError, "Turn 0 holds a NUL character"),
        ({"turns": "a" * (2**20 + 1)}, InputError, "a turn may have 1,048,576. Cut it"),
        ({"turns": "a", "time": "tuesday"}, InputError, "time='tuesday' is no time"),
        ({"turns": "a", "time": []}, InputTypeError, "time is list, expected a datetime"),
        ({"turns": "a", "metadata": {"n": float("nan")}}, InputError, "metadata cannot be kept as JSON"),
        ({"turns": "a", "metadata": {1: 2}}, InputTypeError, "expected a dict with texts as keys"),
        ({"turns": "a", "key": ""}, InputError, "key is '', expected a text of 1 to 500"),
        ({"turns": ["a", "b"], "key": "k"}, InputError, "1 keys were given for 2 turns"),
        ({"turns": ["a", "b"], "key": ["k", "k"]}, InputError, "The same key was given twice"),
        ({"turns": "a", "replaces": 9}, InputError, "names a turn that is not there"),
        ({"turns": "a", "replaces": ("other", 1)}, InputError, "There is no stream 'other'"),
        ({"turns": "a", "replaces": True}, InputTypeError, "expected a turn's number, "),
        ({"turns": ["a", "b"], "replaces": 1}, InputError, "2 turns were given with replaces"),
        ({"turns": "a", "head": 7}, StateError, "stands at turn 1, not at 7"),
        ({"turns": "a", "time": "2026-11-20T09:00"}, InputError, "time is a time without a zone, but this"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_kept_changes_nothing(bert, open_store, given, error, words):
    chat = open_store(bert).stream("chat-1")
    chat.add("i live in paris", time="2026-11-20T09:00Z")
    before = chat.turns()
    with pytest.raises(error, match=words):
        chat.add(**given)
    assert chat.turns() == before


def test_latents_that_half_precision_cannot_hold_are_refused(bert, open_store, monkeypatch):
    chat = open_store(bert, precision="float16").stream("chat-1")
    monkeypatch.setattr("evoemb.state.MemoryState.turn_latents", lambda self, turn: self.latents[0][-2:] * 1e9)
    with pytest.raises(InputError, match=r'latents is too large for float16.*precision="float32"'):
        chat.add("i live in paris")
    with pytest.raises(InputError, match=r"There is no stream 'chat-1' in this store. Only add"):
        chat.turns()
