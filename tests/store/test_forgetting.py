"""Forgetting: what is left is what a store holds that never read the rest, and the file holds nothing of it."""

from __future__ import annotations

import pytest

from evoemb import InputError, InputTypeError, StateError
from evoemb.store import Forgotten
from laws import assert_same_states
from store_laws import assert_holds

SECRET = "zanzibarsecret"


def everything_in(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("gone", [[1], [4], [13], [2, 3, 11], range(5, 9), range(1, 14)], ids=str)
def test_a_forgotten_turn_was_never_read(model, stream, open_store, gone):
    chat = open_store(model).stream("chat-1")
    chat.add(stream)
    assert chat.forget(gone) == Forgotten(streams=0, turns=len(gone), erased=True)
    left = [turn for number, turn in enumerate(stream, 1) if number not in gone]
    assert_holds(chat, left, model)
    assert chat.forget(gone).turns == 0
    assert chat.add(["last i live in porto"]) == [14]
    assert_holds(chat, [*left, "last i live in porto"], model)


def test_the_file_holds_nothing_of_what_was_forgotten(bert, open_store, tmp_path):
    store = open_store(bert)
    chat = store.stream("chat-1", user="alice")
    about = {"metadata": {"note": SECRET + "-note"}, "key": SECRET + "-key"}
    for turn in range(30):
        chat.add(f"i live in paris {turn} " + "and " * 40)
    chat.add({"role": "user", "name": SECRET, "content": f"my key is {SECRET} " * 300}, **about)
    chat.add("i live in rome")
    assert SECRET.encode() in everything_in(tmp_path)
    assert chat.forget(31) == Forgotten(streams=0, turns=1, erased=True)
    assert SECRET.encode() not in everything_in(tmp_path)
    assert b"i live in rome" in everything_in(tmp_path)


@pytest.mark.parametrize(
    "named", [{"stream": SECRET + "-1"}, {"user": SECRET}, {"stream": SECRET + "-1", "user": SECRET}]
)
def test_the_file_holds_nothing_of_a_stream_or_user_that_was_forgotten(bert, open_store, tmp_path, named):
    store = open_store(bert)
    for name, user in [(SECRET + "-1", SECRET), ("kept", "bob")]:
        store.stream(name, user=user).add([f"i live in {user}", f"{user} has a cat"])
        store.stream(name).snapshot(f"{user}-v1")
    assert store.forget(**named) == Forgotten(streams=1, turns=2, erased=True)
    assert SECRET.encode() not in everything_in(tmp_path)
    assert store.streams() == ["kept"]
    assert store.forget(**named) == Forgotten(streams=0, turns=0, erased=True)
    assert_holds(store.stream("kept"), ["i live in bob", "bob has a cat"], bert)


def test_rewinding_takes_the_text_out_of_the_file(bert, open_store, tmp_path):
    chat = open_store(bert).stream("chat-1")
    chat.add(["i live in paris", SECRET])
    chat.rewind(to=1)
    assert SECRET.encode() not in everything_in(tmp_path)


def test_forgetting_a_user_counts_all_of_the_users_streams(bert, open_store):
    store = open_store(bert)
    for name, count in [("a", 3), ("b", 4), ("c", 5)]:
        store.stream(name, user="bob" if name != "c" else "alice").add(["i live in paris"] * count)
    other = open_store(bert, tenant="acme")
    other.stream("a", user="bob").add("i live in rome")
    assert store.forget(user="bob") == Forgotten(streams=2, turns=7, erased=True)
    assert (store.streams(), other.streams()) == (["c"], ["a"])
    with pytest.raises(InputError, match="There is no stream of user='bob'"):
        store.search("where", user="bob")


@pytest.mark.parametrize("case", [("bert", "attention"), ("qwen3", "prefix")], ids="-".join)
def test_a_repair_may_wait_and_until_then_later_turns_are_marked(models, stream, open_store, case):
    model = models(*case)
    chat = open_store(model).stream("chat-1")
    chat.add(stream[:9])
    assert chat.forget([3, 6], repair="later").turns == 2
    assert [turn.seq for turn in chat.turns() if turn.is_stale] == [4, 5, 7, 8, 9]
    assert any(hit.is_stale for hit in chat.search("where do i live"))
    with pytest.raises(StateError, match="from 3 on were read with a turn that is forgotten now"):
        chat.state()
    assert chat.state(as_of=2).num_turns == 2
    assert chat.forget(2, repair="later").turns == 1
    left = [stream[number] for number in (0, 3, 4, 6, 7, 8)]
    copy = chat.fork("copy")
    assert chat.repair() == 5
    assert chat.repair() == 0
    assert_holds(chat, left, model)
    copy.add(stream[9:])  # reads them again by itself
    assert_holds(copy, left + stream[9:], model)


def test_a_repair_that_fails_forgets_nothing(bert, stream, open_store, monkeypatch):
    chat = open_store(bert).stream("chat-1")
    chat.add(stream)
    with monkeypatch.context() as patched:
        patched.setattr(type(bert), "encode_document", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chat.forget(3)
    assert_holds(chat, stream, bert)


def test_a_turn_whose_replacement_is_forgotten_stands_again(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    chat.add("i live in paris")
    chat.add("i live in rome", replaces=1)
    chat.forget(2)
    assert [(turn.replaces, turn.replaced_by) for turn in chat.turns()] == [(None, ())]
    chat.add("i live in oslo", replaces=1)
    chat.forget(1)
    assert [(turn.replaces, turn.replaced_by) for turn in chat.turns()] == [(None, ())]


def test_a_reader_at_work_is_told_and_does_not_hold_up_forgetting(bert, open_store, tmp_path):
    store = open_store(bert)
    chat = store.stream("chat-1")
    chat.add(["i live in paris", SECRET])
    with store._core.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM evoemb_turn").scalar()
        assert chat.forget(2) == Forgotten(streams=0, turns=1, erased=False)
    chat.forget(1)
    assert SECRET.encode() not in everything_in(tmp_path)


def test_forgetting_beside_a_writer_loses_nothing(bert, stream, open_store, monkeypatch):
    chat, other = open_store(bert).stream("chat-1"), open_store(bert).stream("chat-1")
    chat.add(stream[:6])
    read = type(bert).encode_document
    calls = []

    def interrupted(self, *args, **kwargs):
        if not calls:
            calls.append(1)
            other.add(stream[6])
        return read(self, *args, **kwargs)

    monkeypatch.setattr(type(bert), "encode_document", interrupted)
    chat.forget(2)
    monkeypatch.undo()
    assert_holds(chat, [stream[0], *stream[2:7]], bert)
    assert_same_states(other.state(), chat.state())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"turns": 0}, InputError, r"forget was asked for the turns \[0\]"),
        ({"turns": []}, InputError, r"forget was asked for the turns \[\]"),
        ({"turns": 9}, InputError, "has no turn 9: the last number it gave was 2"),
        ({"turns": True}, InputTypeError, "forget takes a turn's number, or a list"),
        ({"turns": "2"}, InputTypeError, "forget takes a turn's number, or a list"),
        ({"turns": 1, "repair": "never"}, InputError, "Use one of: now, later"),
    ],
)
def test_what_cannot_be_forgotten_is_told(bert, open_store, given, error, words):
    store = open_store(bert)
    chat = store.stream("chat-1")
    chat.add(["i live in paris", "ok"])
    with pytest.raises(error, match=words):
        chat.forget(**given)
    with pytest.raises(InputError, match="forget was called without a stream or a user"):
        store.forget()
    assert len(chat.turns()) == 2
