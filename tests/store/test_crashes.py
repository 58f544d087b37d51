"""A process that is killed at any moment loses nothing it was told is kept, and leaves nothing half done."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evoemb import MemoryStore
from store_laws import assert_holds
from tiny_models import make_model

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "store_worker.py"
KILLS = 5


def killed_after(lines, seconds, *arguments):
    """Start a worker, kill it a while after it has told so many lines, and give all that it told."""
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        found = [line.split() for line in itertools.islice(worker.stdout, lines)]
        time.sleep(seconds)
        worker.kill()
        found += [line.split() for line in worker.stdout]
    assert len(found) >= lines, "the worker ended before it was killed"
    return found


def test_what_was_acknowledged_before_a_kill_is_there_and_whole(bert, tmp_path):
    path, moments = tmp_path / "agent.db", random.Random(3)
    bert.save_pretrained(str(tmp_path / "model"))
    expected: dict[int, str] = {}
    for run in range(KILLS):
        asked: set[int] = set()
        told = killed_after(moments.randrange(1, 30), moments.random() / 10, "write", path, tmp_path / "model", run)
        for sign, number, *turn in told:
            seq = int(number)
            if sign == "+":
                expected |= {seq: f"i live in {run} {turn[0]}", seq + 1: f"i moved to {run} {turn[0]}"}
            elif sign == "?":
                asked.add(seq)
            else:
                asked.discard(seq)
                del expected[seq]
        with MemoryStore(path, bert) as store:
            turns = {turn.seq: turn.text for turn in store.stream("chat-1").turns()}
        for seq in asked - turns.keys():  # it was killed while it forgot: that is done or not, but not half
            del expected[seq]
        assert {seq: text for seq, text in expected.items() if turns.get(seq) != text} == {}
        assert len(turns.keys() - expected.keys()) in (0, 2)  # kept, but killed before it could say so
        expected = turns
    with MemoryStore(path, bert) as store:
        assert_holds(store.stream("chat-1"), list(expected.values()), bert)


def test_a_change_of_the_model_that_is_killed_is_done_or_not_and_goes_on(bert, base_folder, open_store, tmp_path):
    other = make_model(base_folder("bert"), "attention", num_latents=4, capacity_latents=16)
    texts = [f"i live in {number}" for number in range(200)]
    open_store(bert).stream("chat-1").add(texts)
    other.save_pretrained(str(tmp_path / "model"))
    moments = random.Random(5)
    for _ in range(KILLS):
        told = killed_after(1, 0.2 * moments.random(), "reembed", tmp_path / "agent.db", tmp_path / "model", "")
        current = open_store(other if is_of(other, open_store) else bert)
        assert len(current.stream("chat-1").search("where", top_k=None)) == len(texts)
        if ["done"] in told:
            break
    open_store().reembed(other)
    assert_holds(open_store(other).stream("chat-1"), texts, other)


def is_of(model, open_store):
    """Whether the store was read by this model."""
    store = open_store()
    with store._core.database.read() as connection:
        from evoemb.store.rows import current_generation

        return current_generation(connection).spec.num_latents == model.state_spec.num_latents
