"""A stream at other moments: as of then, back to then, another way from there; each equals reading only so far."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from evoemb import InputError, InputTypeError
from laws import assert_same_states
from store_laws import assert_holds

START = datetime(2026, 11, 1, 9, tzinfo=timezone.utc)


def test_the_state_of_any_moment_is_that_of_reading_only_so_far(any_model, stream, open_store):
    chat, plain = open_store(any_model).stream("chat-1"), any_model.new_state()
    chat.add(stream[:5])
    chat.add(stream[5:])
    assert chat.state(as_of=0).num_turns == 0
    for number, turn in enumerate(stream, 1):
        any_model.encode_document([turn], stateful=True, state=plain)
        assert_same_states(chat.state(as_of=number), plain)


def test_a_question_as_of_then_is_answered_as_it_was_then(model, stream, open_store):
    store, asked = open_store(model), "where do i live"
    chat, found = store.stream("chat-1"), []
    for turn in stream:
        chat.add(turn)
        found.append(
            [(hit.seq, hit.text, pytest.approx(hit.score, abs=1e-5)) for hit in chat.search(asked, top_k=None)]
        )
    for number, before in enumerate(found, 1):
        later = chat.search(asked, as_of=number, top_k=None)
        assert sorted((hit.seq, hit.text, hit.score) for hit in later) == sorted(before, key=lambda one: one[0])


def test_a_time_stands_for_the_turns_before_anything_later(bert, stream, open_store):
    chat = open_store(bert).stream("chat-1")
    for number, turn in enumerate(stream):
        chat.add(turn, time=START + timedelta(days=number))
    for moment, count in [(START, 1), (START + timedelta(days=3, hours=1), 4), ("2026-11-03", 2), ("2027-01-01", 13)]:
        assert len(chat.turns(as_of=moment)) == count
        assert_same_states(chat.state(as_of=moment), chat.state(as_of=count))
    assert chat.search("where", as_of="2026-10-01") == []


def test_a_late_report_of_something_early_hides_nothing_and_shows_nothing_later(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    for day, text in [(1, "a"), (5, "b"), (2, "c")]:
        chat.add(text, time=START + timedelta(days=day))
    assert [turn.text for turn in chat.turns(as_of=START + timedelta(days=3))] == ["a"]


def test_rewinding_equals_having_read_only_so_far_and_no_number_is_given_twice(model, stream, open_store):
    chat = open_store(model).stream("chat-1")
    chat.add(stream[:9])
    assert chat.rewind(to=4) == 5
    assert_holds(chat, stream[:4], model)
    assert chat.add(stream[9:]) == [10, 11, 12, 13]
    assert_holds(chat, stream[:4] + stream[9:], model)
    assert chat.rewind(to=0) == 8
    assert chat.turns() == chat.search("where") == []
    chat.add(stream)
    assert_holds(chat, stream, model)


def test_a_fork_goes_its_own_way(model, stream, open_store):
    chat = open_store(model).stream("chat-1", user="alice")
    chat.add(stream[:8], key=[f"k{n}" for n in range(8)])
    trial = chat.fork("what-if", at=5)
    trial.add(stream[8:])
    assert_holds(trial, stream[:5] + stream[8:], model)
    assert trial.add(["again"], key="k2") == [3]
    assert_holds(chat, stream[:8], model)
    assert_holds(chat.fork("whole"), stream[:8], model)
    with pytest.raises(InputError, match="There is a stream 'whole' already"):
        chat.fork("whole")


def test_a_fork_keeps_what_took_whose_place_to_itself(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    chat.add("i live in paris")
    chat.add("i live in rome", replaces=1)
    trial = chat.fork("what-if")
    trial.add("i live in oslo", replaces=1)
    assert [one.replaced_by for one in chat.turns()] == [(("chat-1", 2),), ()]
    assert [one.replaced_by for one in trial.turns()] == [(("what-if", 2), ("what-if", 3)), (), ()]


def test_a_question_that_waits_still_waits_after_going_back(model, open_store):
    chat = open_store(model).stream("chat-1")
    chat.add([{"role": "user", "content": "i live in paris"}, {"role": "user", "content": "ok"}])
    chat.rewind(to=1)
    chat.add({"role": "assistant", "content": "noted"})
    assert_holds(chat, ["User: i live in paris\nAssistant: noted"], model)


def test_a_snapshot_names_a_moment(bert, stream, open_store):
    chat = open_store(bert).stream("chat-1")
    chat.add(stream[:3])
    assert chat.snapshot("v1") == 3
    chat.add(stream[3:6])
    chat.snapshot("v2")
    chat.add(stream[6:])
    assert len(chat.turns(as_of="v2")) == 6
    found = chat.diff("v1", "v2")
    assert ([turn.text for turn in found.added], found.removed) == (stream[3:6], [])
    assert [turn.text for turn in chat.diff("v2", "v1").removed] == stream[3:6]
    chat.rewind(to="v1")
    with pytest.raises(InputError, match="as_of='v2' is no snapshot of the stream 'chat-1' and no time"):
        chat.turns(as_of="v2")
    assert_holds(chat.fork("second", at="v1"), stream[:3], bert)


@pytest.mark.parametrize(
    ("moment", "error", "words"),
    [
        (9, InputError, "as_of=9 was given, but the last turn of the stream 'chat-1' is 1"),
        (-1, InputError, "as_of=-1 was given"),
        (True, InputTypeError, "as_of is bool, expected a turn's number"),
        (1.5, InputTypeError, "as_of is float, expected a turn's number"),
        ("2026-11-20T09:00", InputError, "as_of is a time without a zone, but this stream's times are with a zone"),
    ],
)
def test_a_moment_that_cannot_be_is_refused(bert, open_store, moment, error, words):
    chat = open_store(bert).stream("chat-1")
    chat.add("i live in paris")
    with pytest.raises(error, match=words):
        chat.search("where", as_of=moment)


def test_an_unknown_stream_has_no_past(bert, open_store):
    store = open_store(bert)
    chat = store.stream("chat-1")
    calls = [chat.turns, chat.state, lambda: chat.rewind(to=0), lambda: chat.fork("b"), lambda: chat.snapshot("v")]
    for call in [*calls, lambda: chat.diff(0, 1), lambda: chat.search("where")]:
        with pytest.raises(InputError, match="There is no stream 'chat-1'"):
            call()
    assert store.streams() == []


def test_times_without_a_zone_stay_without(bert, open_store):
    chat = open_store(bert).stream("chat-1")
    chat.add("i live in paris", time="2026-11-20 09:00")
    chat.add({"role": "user", "content": "i live in rome", "time": "1:56 pm on 8 May, 2023"})
    first, second = chat.turns()
    assert first.time == datetime(2026, 11, 20, 9)
    assert second.metadata == {"time": "1:56 pm on 8 May, 2023"}
    assert len(chat.turns(as_of="2026-11-20 10:00")) == 1
