"""Another model: it reads everything again beside the one in use, and takes its place at once or not at all."""

from __future__ import annotations

import pytest

from evoemb import InputError, StateError
from store_laws import assert_holds
from tiny_models import make_model


@pytest.fixture
def other(base_folder):
    """A model whose memory has another size."""
    return make_model(base_folder("bert"), "attention", num_latents=4, capacity_latents=16)


@pytest.fixture
def filled(bert, stream, open_store):
    store = open_store(bert)
    store.stream("chat-1", user="alice").add(stream)
    store.stream("chat-2", user="bob").add(stream[:3])
    open_store(bert, tenant="acme").stream("chat-1").add(stream[:2])
    return store


@pytest.mark.parametrize("case", [("bert", "attention"), ("qwen3", "prefix")], ids="-".join)
def test_a_store_that_another_model_read_again_is_that_models_own(models, other, filled, stream, open_store, case):
    new = other if case[0] == "bert" else models(*case)
    assert open_store().reembed(new) == 18
    assert_holds(open_store(new).stream("chat-1"), stream, new)
    assert_holds(open_store(new).stream("chat-2"), stream[:3], new)
    assert_holds(open_store(new, tenant="acme").stream("chat-1"), stream[:2], new)
    with pytest.raises(StateError, match=r"was written by .* and is opened with"):
        filled.stream("chat-1").search("where")
    assert open_store().reembed(new) == 0
    with filled._core.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM evoemb_generation").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM evoemb_reading").scalar() == 18


def test_readers_and_writers_go_on_until_the_change_and_nothing_is_lost(bert, other, filled, stream, open_store):
    chat, steps = filled.stream("chat-1"), []
    question = [{"role": "user", "content": "i live in oslo"}, {"role": "assistant", "content": "noted"}]
    changes = [
        lambda: chat.add(question[0]),
        lambda: chat.add(question[1]),
        lambda: chat.forget(2),
        lambda: filled.stream("chat-3").add(stream[:5]),
        lambda: chat.rewind(to=14),
        lambda: filled.forget(stream="chat-2"),
    ]
    read = type(other).encode_document

    def interrupted(self, *args, **kwargs):
        result = read(self, *args, **kwargs)
        if self is other and changes:
            assert chat.search("where do i live", top_k=1)[0].text
            steps.append(changes.pop(0)())
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(other), "encode_document", interrupted)
        open_store().reembed(other)
    assert len(steps) == 6
    new = open_store(other)
    left = [stream[0], *stream[2:], "User: i live in oslo\nAssistant: noted"]
    assert_holds(new.stream("chat-1"), left, other)
    assert_holds(new.stream("chat-3"), stream[:5], other)
    assert new.streams() == ["chat-1", "chat-3"]


def test_a_reading_that_was_broken_off_goes_on_where_it_was(bert, other, open_store):
    store = open_store(bert)
    for name in "abc":
        store.stream(name).add(["i live in paris", "i live in rome"])
    read, calls = type(other).encode_document, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(other), "encode_document", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store().reembed(other)
        assert_holds(open_store(bert).stream("a"), ["i live in paris", "i live in rome"], bert)
        assert open_store().reembed(other) == 4
    assert_holds(open_store(other).stream("c"), ["i live in paris", "i live in rome"], other)


def test_turns_that_waited_for_their_repair_are_read_anew(bert, other, filled, stream, open_store):
    filled.stream("chat-1").forget(4, repair="later")
    open_store().reembed(other)
    assert_holds(open_store(other).stream("chat-1"), stream[:3] + stream[4:], other)


def test_a_store_can_be_made_half_as_large_by_its_own_model(bert, filled, stream, open_store):
    before, found = filled.stats(), filled.stream("chat-2").search("my sister")
    assert open_store(precision="float16").reembed(bert) == 18
    after = open_store().stats()
    assert (before["precision"], after["precision"]) == ("float32", "float16")
    again = open_store(bert).stream("chat-2").search("my sister")
    assert [(hit.seq, pytest.approx(hit.score, abs=1e-3)) for hit in again] == [(hit.seq, hit.score) for hit in found]


def test_a_bound_store_cannot_change_the_model_of_others(other, filled, open_store):
    with pytest.raises(InputError, match="A model is changed for all tenants together"):
        open_store(tenant="acme").reembed(other)


def test_an_empty_store_takes_any_model(other, open_store):
    assert open_store().reembed(other) == 0
    open_store(other).stream("chat-1").add("ok")
