"""Whatever is done to a stream, it holds what a fresh store holds that only ever read what is left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoemb import MemoryStore
from store_laws import assert_holds

WORDS = "i we live in paris rome lyon porto moved to the red blue key cat dog lost found".split()
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.lists(TEXTS, min_size=1, max_size=7)),
    st.tuples(st.just("forget"), st.integers(1, 20)),
    st.tuples(st.just("forget later"), st.integers(1, 20)),
    st.tuples(st.just("rewind"), st.integers(0, 20)),
    st.tuples(st.just("fork"), st.integers(0, 20)),
    st.tuples(st.just("reopen"), st.none()),
)


@pytest.mark.parametrize("case", [("bert", "attention"), ("qwen3", "prefix")], ids="-".join)
def test_any_sequence_of_steps_equals_reading_what_is_left(models, case):
    model = models(*case)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st.lists(STEPS, min_size=3, max_size=9))
    def run(steps):
        with tempfile.TemporaryDirectory() as folder:
            follow(Path(folder, "laws.db"), model, [("add", ["i live in paris"]), *steps])

    run()


def follow(path, model, steps):
    """Do the steps to a store and to a plain list, and compare the two at the end."""
    store, name, left, given_out = MemoryStore(path, model, precision="float32"), "s", {}, 0
    for number, (step, value) in enumerate(steps):
        chat = store.stream(name)
        if step == "add":
            seqs = chat.add(value)
            assert seqs == list(range(given_out + 1, given_out + len(value) + 1))
            left |= dict(zip(seqs, value, strict=True))
            given_out = seqs[-1]
        elif step == "reopen":
            store.close()
            store = MemoryStore(path, model)
        elif value <= given_out and step.startswith("forget"):
            count = chat.forget(max(value, 1), repair="later" if "later" in step else "now").turns
            assert count == (left.pop(max(value, 1), None) is not None)
        elif value <= given_out and step == "rewind":
            assert chat.rewind(to=value) == len([seq for seq in left if seq > value])
            left = {seq: text for seq, text in left.items() if seq <= value}
        elif value <= given_out and step == "fork":
            name = f"s{number}"
            chat.fork(name, at=value)
            left, given_out = {seq: text for seq, text in left.items() if seq <= value}, value
    chat = store.stream(name)
    chat.repair()
    assert_holds(chat, list(left.values()), model)
    store.close()
