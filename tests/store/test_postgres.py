"""On a Postgres server a store keeps the same laws, by the same code."""

from __future__ import annotations

import itertools
import threading

import pytest
from sqlalchemy import create_engine

from evoemb import MemoryStore, StorageError
from evoemb.store import Counted, Forgotten
from store_laws import assert_holds
from store_postgres import server

pytestmark = pytest.mark.slow

_numbers = itertools.count()


@pytest.fixture(scope="module")
def url_pattern():
    with server() as pattern:
        yield pattern


@pytest.fixture
def url(url_pattern):
    """The URL of a new, empty database."""
    name = f"laws{next(_numbers)}"
    admin = create_engine(
        url_pattern.format(name="postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    admin.dispose()
    return url_pattern.format(name=name)


def test_a_store_on_a_server_keeps_the_laws(models, stream, url, tmp_path):
    model = models("qwen3", "prefix")
    with MemoryStore(url, model, precision="float32") as store:
        chat = store.stream("chat-1", user="alice")
        chat.add(stream[:4], key=list("abcd"), metadata={"via": "web"})
        chat.add(stream[4:9])
        assert chat.add(stream[:4], key=list("abcd")) == [1, 2, 3, 4]
        assert_holds(chat, stream[:9], model)
        assert chat.forget([2, 5]) == Forgotten(streams=0, turns=2, erased=False)
        left = [stream[n] for n in (0, 2, 3, 5, 6, 7, 8)]
        assert_holds(chat, left, model)
        chat.snapshot("v1")
        trial = chat.fork("what-if", at=4)
        trial.add({"role": "user", "content": "i live in paris"}, replaces=1, time="2026-11-20T09:00Z")
        trial.add({"role": "assistant", "content": "noted"})
        assert_holds(trial, [*left[:3], "User: i live in paris\nAssistant: noted"], model)
        assert chat.rewind(to=6) == 3
        assert_holds(chat, left[:4], model)
        found = store.search("where", user="alice", where={"via": "web"}, top_k=None)
        assert len(found) == 6
        assert store.stats()["bytes"] > 0
        store.add_many({"b": stream[:2], "c": stream}, user="bob")
        assert store.export(tmp_path / "all.jsonl") == Counted(streams=4, turns=4 + 4 + 2 + 13)
        assert store.forget(user="bob") == Forgotten(streams=2, turns=15, erased=False)
    with MemoryStore(tmp_path / "copy.db", model) as copy:
        copy.import_(tmp_path / "all.jsonl")
        assert_holds(copy.stream("c"), stream, model)


def test_another_model_reads_a_store_on_a_server_again(models, stream, url):
    first, second = models("bert", "attention"), models("qwen3", "prefix")
    with MemoryStore(url, first, precision="float32") as store:
        store.stream("chat-1").add(stream)
    with MemoryStore(url) as store:
        assert store.reembed(second) == 13
    with MemoryStore(url, second) as store:
        assert_holds(store.stream("chat-1"), stream, second)


def test_threads_with_stores_of_their_own_lose_nothing_on_a_server(bert, url):
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with MemoryStore(url, bert, precision="float32") as store:
                for turn in range(5):
                    store.stream("chat-1").add(f"i live in {'abcd'[number]} {turn}")
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with MemoryStore(url, bert) as store:
        texts = [turn.text for turn in store.stream("chat-1").turns()]
        assert len(texts) == 20
        assert_holds(store.stream("chat-1"), texts, bert)


def test_a_server_that_cannot_be_reached_is_told(tmp_path):
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    with pytest.raises(StorageError, match="Check that the database can be reached, and call again"):
        MemoryStore(f"postgresql://evoemb@/none?host={tmp_path}")
