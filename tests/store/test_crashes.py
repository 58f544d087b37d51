"""A process that is killed at any moment loses nothing it was told is kept, and leaves nothing half done."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from evoemb import MemoryStore
from store_laws import assert_holds
from tiny_models import make_model

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
KILLS = 8


def killed_after(seconds, work):
    """Run ``work(tell)`` in a process of its own, kill it, and give the lines that it told before."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            work(lambda line: os.write(writing, f"{line}\n".encode()))
        finally:
            os._exit(0)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        return told.read().decode().splitlines()


def test_what_was_acknowledged_before_a_kill_is_there_and_whole(bert, tmp_path):
    path, moments = tmp_path / "agent.db", random.Random(3)
    expected: dict[int, str] = {}

    for run in range(KILLS):

        def work(tell, run=run):
            with MemoryStore(path, bert, precision="float32") as store:
                chat = store.stream("chat-1")
                for turn in range(10_000):
                    seqs = chat.add([f"i live in {run} {turn}", f"i moved to {run} {turn}"])
                    tell(f"+ {seqs[0]} {turn}")
                    if turn % 3 == 2:
                        tell(f"? {seqs[0]}")
                        chat.forget(seqs[0])
                        tell(f"- {seqs[0]}")

        asked: set[int] = set()
        for line in killed_after(0.3 + moments.random(), work):
            sign, seq, *turn = line.split()
            if sign == "+":
                expected |= {int(seq): f"i live in {run} {turn[0]}", int(seq) + 1: f"i moved to {run} {turn[0]}"}
            elif sign == "?":
                asked.add(int(seq))
            else:
                asked.discard(int(seq))
                del expected[int(seq)]
        with MemoryStore(path, bert, precision="float32") as store:
            if "chat-1" not in store.streams():
                assert expected == {}
                continue
            turns = {turn.seq: turn.text for turn in store.stream("chat-1").turns()}
            for seq in asked:  # it was killed while it forgot: done or not, but not half
                if seq not in turns:
                    del expected[seq]
            lost = {seq: text for seq, text in expected.items() if turns.get(seq) != text}
            assert lost == {}
            more = sorted(turns.keys() - expected.keys())  # kept, but killed before it could say so
            assert len(more) in (0, 2)
            expected = turns
    with MemoryStore(path, bert, precision="float32") as store:
        assert len(expected) > KILLS
        assert_holds(store.stream("chat-1"), list(expected.values()), bert)


def test_a_change_of_the_model_that_is_killed_is_done_or_not_and_goes_on(bert, base_folder, open_store, tmp_path):
    other = make_model(base_folder("bert"), "attention", num_latents=4, capacity_latents=16)
    texts = [f"i live in {number}" for number in range(60)]
    open_store(bert).stream("chat-1").add(texts)

    def work(tell):
        with MemoryStore(tmp_path / "agent.db") as store:
            store.reembed(other)
            tell("done")

    moments = random.Random(5)
    for _ in range(KILLS):
        if killed_after(0.05 + 0.3 * moments.random(), work) == ["done"]:
            break
        model = other if is_of(other, open_store) else bert
        assert len(open_store(model).stream("chat-1").search("where", top_k=None)) == 60
    open_store().reembed(other)
    assert_holds(open_store(other).stream("chat-1"), texts, other)


def is_of(model, open_store):
    """Whether the store was read by this model."""
    store = open_store()
    with store._core.database.read() as connection:
        from evoemb.store.rows import current_generation

        return current_generation(connection).spec.num_latents == model.state_spec.num_latents
