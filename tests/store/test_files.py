"""A store as a file: export and import are each other's opposite, and a damaged file changes nothing."""

from __future__ import annotations

import gzip
import stat

import pytest

from evoemb import InputError, StateError, StorageError
from evoemb.store import Counted
from store_laws import assert_holds
from tiny_models import make_model


@pytest.fixture
def filled(bert, stream, open_store):
    """A store with two users, snapshots, keys, replaced turns, times and a question that waits."""
    store = open_store(bert)
    chat = store.stream("chat-1", user="alice")
    chat.add(stream[:4], key=list("abcd"), metadata={"line": "a\u2028b", "via": ["web"]})
    chat.add("i moved to oslo", replaces=1, time="2026-11-20T09:00Z")
    chat.forget(2)
    chat.snapshot("v1")
    store.stream("chat-2", user="bob").add({"role": "user", "content": "i live in paris"}, key="k")
    store.stream("chat-2").add({"role": "user", "name": "Bob", "content": "ok"}, replaces=("chat-1", 3))
    return store


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_what_was_exported_is_imported_and_goes_on(bert, filled, stream, open_store, tmp_path, name):
    assert filled.export(tmp_path / name) == Counted(streams=2, turns=6)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    copy = open_store(name="copy.db")
    assert copy.import_(tmp_path / name) == Counted(streams=2, turns=6)
    for one in ("chat-1", "chat-2"):
        assert copy.stream(one).turns() == filled.stream(one).turns()
    copy.export(tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()
    copy.close()
    opened = open_store(bert, "copy.db")
    assert opened.stream("chat-1").add("x", key="c") == [3]
    opened.stream("chat-2").add({"role": "assistant", "content": "noted"})
    assert_holds(opened.stream("chat-1"), [stream[0], *stream[2:4], "i moved to oslo"], bert)
    assert_holds(opened.stream("chat-2"), ["User: i live in paris", "Bob: ok\nAssistant: noted"], bert)


def test_a_users_streams_are_exported_alone(filled, tmp_path):
    assert filled.export(tmp_path / "bob.jsonl", user="bob") == Counted(streams=1, turns=2)
    assert "chat-1" not in [line[12:18] for line in (tmp_path / "bob.jsonl").read_text().splitlines()[:2]]


def test_a_stream_that_is_here_already_is_not_imported_again(filled, tmp_path):
    filled.export(tmp_path / "all.jsonl")
    before = filled.stats()
    with pytest.raises(InputError, match="There is a stream 'chat-1' already, so nothing was taken"):
        filled.import_(tmp_path / "all.jsonl")
    assert filled.stats() == before
    assert before == before | {"streams": 2, "users": 2, "turns": 6, "precision": "float32"}


def cut(text):
    return text[: len(text) // 2]


def without_end(text):
    return text[: text.rindex('{"end"')]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "is no export of a store, or it is cut off"),
        (without_end, "is cut off, so nothing was taken from it"),
        (lambda text: '{"a": 1}', "is no export of a store. Pass"),
        (lambda text: "[1]", "is no export of a store. Pass"),
        (lambda text: "", "is no export of a store. Pass"),
        (lambda text: text.replace('"vector"', '"vektor"'), "is damaged"),
        (lambda text: text.replace('"vector": "', '"vector": "AAAA'), "has another size than 32"),
        (lambda text: text.replace('"evoemb_store": 1', '"evoemb_store": 9'), "is no export of a store. Pass"),
    ],
)
def test_a_damaged_export_changes_nothing(filled, open_store, tmp_path, change, words):
    filled.export(tmp_path / "all.jsonl")
    text = change((tmp_path / "all.jsonl").read_text(encoding="utf-8"))
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    copy = open_store(name="copy.db")
    with pytest.raises((InputError, StateError), match=words):
        copy.import_(tmp_path / "bad.jsonl")
    assert (copy.streams(), copy.stats()["turns"]) == ([], 0)


def test_an_export_that_is_cut_off_within_its_packing_is_told(filled, open_store, tmp_path):
    filled.export(tmp_path / "all.jsonl.gz")
    (tmp_path / "bad.gz").write_bytes((tmp_path / "all.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(InputError, match="or it is cut off"):
        open_store(name="copy.db").import_(tmp_path / "bad.gz")
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        filled.import_(tmp_path / "none.jsonl")
    assert gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes())


def test_an_export_of_another_model_is_refused_with_the_remedy(base_folder, filled, open_store, tmp_path):
    filled.export(tmp_path / "all.jsonl")
    other = open_store(make_model(base_folder("bert"), "attention", num_latents=4), "other.db")
    other.stream("own").add("ok")
    with pytest.raises(StateError, match=r"num_latents 2|num_latents 4 against 2.*Import it into a new store"):
        other.import_(tmp_path / "all.jsonl")
    assert other.streams() == ["own"]
