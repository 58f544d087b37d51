"""Opening a store: a new file, a file of before, an engine; and what is refused with a remedy."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import create_engine

from evoemb import InputError, InputTypeError, MemoryStore, StateError, StorageError
from store_laws import assert_holds
from tiny_models import make_model


def test_opening_and_asking_for_a_stream_needs_no_model(open_store, monkeypatch):
    monkeypatch.setattr("evoemb.model.EvoEmbedding.__init__", lambda *_: pytest.fail("a model was loaded"))
    store = open_store()
    store.stream("chat-1", user="alice")
    assert store.streams() == []


def test_a_closed_store_says_so_and_closing_twice_is_harmless(bert, open_store):
    store = open_store(bert)
    chat = store.stream("chat-1")
    with store:
        chat.add("i live in paris")
    store.close()
    for call in (lambda: chat.add("ok"), lambda: chat.search("paris"), chat.turns, store.streams):
        with pytest.raises(StateError, match=r"This store is closed. Open it again with MemoryStore"):
            call()


@pytest.mark.parametrize("user_events", [False, True])
def test_a_programs_own_engine_is_used_and_left_open(bert, tmp_path, stream, user_events):
    engine = create_engine(f"sqlite:///{tmp_path / 'own.db'}")
    with MemoryStore(engine, bert, precision="float32") as store:
        store.stream("chat-1").add(stream)
        assert_holds(store.stream("chat-1"), stream, bert)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM evoemb_turn").scalar() == len(stream)
    engine.dispose()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no database at all", "is no store of evoemb"), (b"PK\3\4" + bytes(50), "is no store of evoemb")],
)
def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path, content, words):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=words):
        MemoryStore(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_kept(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"is a database, but no store of evoemb \(its tables: songs\)"):
        MemoryStore(path)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_evoemb_is_refused(open_store, tmp_path):
    open_store(name="new.db").close()
    with sqlite3.connect(tmp_path / "new.db") as other:
        other.execute("UPDATE evoemb_meta SET value = '99' WHERE name = 'version'")
    other.close()
    with pytest.raises(StorageError, match=r"has the schema 99, and this version of evoemb knows .* Upgrade evoemb"):
        open_store(name="new.db")


def test_a_store_of_another_model_is_refused_with_the_remedy(bert, base_folder, open_store):
    open_store(bert).stream("chat-1").add("i live in paris")
    other = make_model(base_folder("bert"), "attention", num_latents=4)
    with pytest.raises(StateError, match=r"num_latents 4 against 2 .* MemoryStore\(path\).reembed\(model\)"):
        open_store(other)


def test_a_store_of_another_vector_size_is_refused(bert, base_folder, open_store):
    open_store(bert).stream("chat-1").add("i live in paris")
    other = make_model(base_folder("bert"), "attention")
    other.truncate_dim = 16
    with pytest.raises(StateError, match="holds vectors of 32 numbers and this model gives 16"):
        open_store(other)


def test_a_store_opened_to_read_finds_and_refuses_to_write(bert, open_store):
    open_store(bert).stream("chat-1").add("i live in paris")
    chat = open_store(bert, read_only=True).stream("chat-1")
    assert [hit.text for hit in chat.search("paris")] == ["i live in paris"]
    with pytest.raises(StorageError, match=r"was opened with read_only=True. Open it without to change it"):
        chat.add("i live in rome")


def test_a_store_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(StorageError, match="does not exist, so it cannot be opened with read_only=True"):
        MemoryStore(tmp_path / "none.db", read_only=True)
    assert not (tmp_path / "none.db").exists()


def test_a_full_disk_changes_nothing(bert, open_store):
    store = open_store(bert)
    chat = store.stream("chat-1")
    chat.add("i live in paris")
    with store._core.database.engine.connect() as connection:  # stands for the disk: the file may not grow
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    store._core.database.engine.dispose()

    from sqlalchemy import event

    @event.listens_for(store._core.database.engine, "connect")
    def _(raw, _record):
        raw.execute(f"PRAGMA max_page_count={pages}")

    with pytest.raises(StorageError, match=r"database or disk is full. Nothing was changed. Free some space"):
        chat.add(["where did you live in the last " * 300] * 3)
    assert [turn.text for turn in chat.turns()] == ["i live in paris"]


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (":memory:", InputError, "A store needs a file, but a SQLite database in memory"),
        ("", InputError, "Pass the path of a file"),
        (7, InputTypeError, "A store was asked for in int. Pass a file's path"),
        ("songs://here", InputError, r"songs://... is no database that evoemb knows"),
    ],
)
def test_a_target_that_is_no_database_is_refused(target, error, words):
    with pytest.raises(error, match=words):
        MemoryStore(target)


@pytest.mark.parametrize(
    ("options", "words"), [({"precision": "int8"}, "Use one of: float16, float32"), ({"tenant": ""}, "tenant is ''")]
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        MemoryStore(tmp_path / "a.db", **options)


def test_many_may_make_the_same_file_at_once(tmp_path):
    errors: list[BaseException] = []

    def make() -> None:
        try:
            MemoryStore(tmp_path / "a.db").close()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_two_tenants_never_meet(bert, open_store):
    first, second = open_store(bert, tenant="acme"), open_store(bert, tenant="other")
    first.stream("chat-1", user="alice").add("i live in paris")
    second.stream("chat-1", user="alice").add("i live in rome")
    assert [hit.text for hit in first.search("where", user="alice")] == ["i live in paris"]
    assert [hit.text for hit in second.search("where")] == ["i live in rome"]
    assert open_store(bert).streams() == []
    with pytest.raises(InputError, match="There is no stream of user='alice'"):
        open_store(bert).search("where", user="alice")


def test_a_stream_belongs_to_one_user(bert, open_store):
    store = open_store(bert)
    early = store.stream("chat-1", user="bob")
    store.stream("chat-1", user="alice").add("i live in paris")
    for call in (lambda: store.stream("chat-1", user="bob"), lambda: early.add("i live in rome")):
        with pytest.raises(InputError, match="belongs to another user than 'bob'"):
            call()
