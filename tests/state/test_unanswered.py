"""A stream of messages may come in pieces: a turn waits for its answer, and is then read again as a whole."""

from __future__ import annotations

import itertools
import pickle
from functools import cache

import numpy as np
import pytest

from evoemb import MemoryState
from evoemb._errors import StateError
from evoemb.modules.latent_memory_queue import LatentMemoryQueue
from laws import assert_same_embeddings, assert_same_states, bytes_of

CONTENTS = [
    "i live in paris",
    "ok",
    "my sister has a red key",
    "",
    "where is my brother",
    "we moved from rome to lyon then to porto",
    "i work in bern",
    "the key was red not blue",
    "last i live in porto",
]
MESSAGES = [
    {"role": {"u": "user", "a": "assistant"}[role], "content": content}
    for role, content in zip("uauuaauau", CONTENTS, strict=True)
]
# What tools are asked and say belongs to the turn, too.
MESSAGES[7:7] = [
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    {"role": "tool", "tool_call_id": "c", "content": "blue lamp"},
]
NUM_TURNS = 6


def read_in_pieces(model, pieces, state):
    """The vectors of all turns, each as of the last time it was read."""
    vectors = []
    for piece in pieces:
        if state.unanswered is not None and piece[0]["role"] != "user":
            vectors.pop()
        vectors += [*np.atleast_2d(model.encode(piece, stateful=True, state=state))]
    return np.stack(vectors)


@pytest.fixture(scope="module")
def read_whole():
    """The vectors and the state of all messages read at once; read once a model."""

    @cache
    def read(model):
        state = model.new_state()
        return model.encode(MESSAGES, stateful=True, state=state), state

    return read


def assert_same_to_the_end(first: MemoryState, second: MemoryState) -> None:
    assert first.unanswered == second.unanswered
    assert_same_states(first, second)
    for mine, theirs in zip(first.snapshot(), second.snapshot(), strict=True):
        if mine.unanswered is not None:
            before = [MemoryState(first.spec, [one.unanswered.before]) for one in (mine, theirs)]
            assert_same_to_the_end(*before)


@pytest.mark.parametrize("cut", range(1, len(MESSAGES)))
def test_every_cut_of_a_stream_of_messages_gives_the_turns_of_one_reading(model, read_whole, cut):
    expected, whole = read_whole(model)
    state = model.new_state()
    assert_same_embeddings(read_in_pieces(model, [MESSAGES[:cut], MESSAGES[cut:]], state), expected)
    assert_same_to_the_end(state, whole)


def test_a_state_that_waits_changes_no_number(model, read_whole):
    assert_same_embeddings(read_whole(model)[0], model.encode(MESSAGES, stateful=True))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_messages_one_by_one_are_the_same_stream(any_model, read_whole, size):
    state, (expected, whole) = any_model.new_state(), read_whole(any_model)
    pieces = [MESSAGES[start : start + size] for start in range(0, len(MESSAGES), size)]
    assert_same_embeddings(read_in_pieces(any_model, pieces, state), expected)
    assert_same_to_the_end(state, whole)
    assert state.num_turns == whole.num_turns == NUM_TURNS


def test_a_message_given_by_itself_is_a_piece_too(model, read_whole):
    state = model.new_state()
    for message in MESSAGES:
        assert model.encode(message, stateful=True, state=state).shape == (model.get_embedding_dimension(),)
    assert_same_to_the_end(state, read_whole(model)[1])


def test_a_question_sees_the_turn_that_waits_and_leaves_it_waiting(model):
    waiting, strings = model.new_state(), model.new_state()
    model.encode(MESSAGES[:3], stateful=True, state=waiting)
    model.encode(["User: i live in paris\nAssistant: ok", f"User: {CONTENTS[2]}"], stateful=True, state=strings)
    before = bytes_of(waiting)
    assert_same_embeddings(model.encode("where", state=waiting), model.encode("where", state=strings))
    model.encode([MESSAGES[1]], state=waiting)  # only read: an answer that is no part of the stream
    assert bytes_of(waiting) == before
    assert (waiting.unanswered, strings.unanswered) == (f"User: {CONTENTS[2]}", None)


def test_only_a_turn_without_an_answer_waits(model):
    expected = ["User: i live in paris", None, f"User: {CONTENTS[2]}", "", None, None, "User: i work in bern"]
    expected += ["User: i work in bern", "User: i work in bern\nTool: blue lamp", None]
    for end, said in enumerate(expected, 1):
        state = model.new_state()
        model.encode(MESSAGES[:end], stateful=True, state=state)
        assert state.unanswered == said
    model.encode(MESSAGES[0], stateful=True, state=state)
    model.encode(["User: i live in paris"], stateful=True, state=state)
    assert state.unanswered is None


def test_a_string_or_a_user_message_closes_the_turn_that_waits(model):
    for closing in ("ok", {"role": "user", "content": "ok"}):
        state, whole = model.new_state(), model.new_state()
        model.encode(MESSAGES[0], stateful=True, state=state)
        model.encode([closing], stateful=True, state=state)
        text = closing if isinstance(closing, str) else "User: ok"
        model.encode(["User: i live in paris", text], stateful=True, state=whole)
        assert_same_states(state, whole)
        model.encode({"role": "assistant", "content": "noted"}, stateful=True, state=state)
        assert state.num_turns == (3 if isinstance(closing, str) else 2)


def test_streams_side_by_side_wait_each_for_their_own_answer(model):
    streams = [MESSAGES, MESSAGES[2:], MESSAGES[1:6]]
    state, alone = model.new_state(3), [model.new_state() for _ in streams]
    for one, turns in zip(alone, streams, strict=True):
        model.encode(turns, stateful=True, state=one)
    for step in range(5):
        parts = [turns[step * len(turns) // 5 : (step + 1) * len(turns) // 5] for turns in streams]
        model.encode(parts, stateful=True, state=state)
    assert state.unanswered == tuple(one.unanswered for one in alone)
    for place, one in enumerate(alone):
        assert_same_to_the_end(state[place], one)
    assert_same_to_the_end(MemoryState.stack([state[0], alone[1]]), MemoryState.stack([alone[0], state[1]]))


def test_one_message_for_each_stream_of_a_state(model):
    state = model.new_state(2)
    model.encode([MESSAGES[0], MESSAGES[2]], stateful=True, state=state)
    assert state.unanswered == (f"User: {CONTENTS[0]}", f"User: {CONTENTS[2]}")
    model.encode([MESSAGES[1], MESSAGES[1]], stateful=True, state=state)
    whole = model.new_state(2)
    model.encode([MESSAGES[0:2], [MESSAGES[2], MESSAGES[1]]], stateful=True, state=whole)
    assert_same_to_the_end(state, whole)


WAYS = {
    "bytes": lambda state: MemoryState.from_bytes(state.to_bytes()),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "clone": MemoryState.clone,
    "index": lambda state: state[0],
    "stack": lambda state: MemoryState.stack([state]),
    "moved": lambda state: state.clone().to("cpu"),
}


def test_a_turn_that_waits_travels_with_its_state(model, read_whole):
    state = model.new_state()
    for message in MESSAGES:
        model.encode(message, stateful=True, state=state)
        before = bytes_of(state)
        for way, travel in WAYS.items():
            other = travel(state)
            model.encode({"role": "assistant", "content": "noted"}, stateful=True, state=other)
            assert bytes_of(state) == before, way
            state = travel(state)
            assert bytes_of(state) == before, way
    assert_same_to_the_end(state, read_whole(model)[1])


def test_a_state_with_a_turn_that_waits_is_built_of_its_turns(model):
    state, rows, opened = model.new_state(), [], []
    past = [model.new_state()]
    for message in MESSAGES:
        model.encode(message, stateful=True, state=state)
        del rows[state.num_turns - 1 :], opened[state.num_turns - 1 :], past[state.num_turns :]
        rows.append(state.turn_latents(state.num_turns - 1))
        opened.append(state.open_turns[0])
        waiting = None if state.unanswered is None else past[-1]
        built = MemoryState.of_turns(
            state.spec,
            rows,
            num_turns=state.num_turns,
            open_turns=opened[-1],
            unanswered=state.unanswered,
            before=waiting,
        )
        past.append(built)
        assert_same_to_the_end(built, state)


def test_parts_of_a_waiting_turn_that_contradict_each_other_are_refused(model):
    state = model.new_state()
    model.encode(MESSAGES[0], stateful=True, state=state)
    latents = [state.turn_latents(0)]
    known = {"num_turns": 1, "open_turns": state.open_turns[0]}
    for extra in ({"unanswered": "x"}, {"before": model.new_state()}):
        with pytest.raises(StateError, match=r"belong together. Pass both, or neither"):
            MemoryState.of_turns(state.spec, latents, **known, **extra)
    for before in (state, model.new_state(2)):
        with pytest.raises(StateError, match="expected one stream and 0 turns"):
            MemoryState.of_turns(state.spec, latents, **known, unanswered="x", before=before)


def test_what_a_waiting_turn_keeps_is_bounded(model):
    """Only one turn waits, whatever came before: memories before memories would grow with the stream."""
    state, sizes = model.new_state(), []
    for number in range(30):
        model.encode({"role": "user", "content": CONTENTS[number % 3]}, stateful=True, state=state)
        sizes.append(state.nbytes)
        assert state.snapshot()[0].unanswered.before.unanswered is None
    assert max(sizes[20:]) <= max(sizes[:20])
    assert model.new_state().nbytes < state[0].nbytes
    state.trim()
    assert state.cache_nbytes == 0
    state.reset()
    assert (state.nbytes, state.unanswered) == (0, None)


def test_an_answer_that_cannot_be_read_leaves_the_turn_waiting(model, monkeypatch):
    state = model.new_state()
    model.encode(MESSAGES[:3], stateful=True, state=state)
    before = bytes_of(state)
    with monkeypatch.context() as patch:
        patch.setattr(LatentMemoryQueue, "write", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            model.encode(MESSAGES[1], stateful=True, state=state)
    assert (bytes_of(state), state.unanswered) == (before, f"User: {CONTENTS[2]}")


def test_retrieve_joins_the_answer_with_the_turn_that_waits(model):
    state = model.new_state()
    model.encode(MESSAGES[0], stateful=True, state=state)
    hits = model.retrieve(MESSAGES[1:3], "where", state=state, top_k=None)
    assert {hit["corpus_id"]: hit["text"] for hit in hits} == {
        0: "User: i live in paris\nAssistant: ok",
        1: "User: my sister has a red key",
    }
    expected = model.retrieve(MESSAGES[:3], "where", top_k=None)
    assert [hit["text"] for hit in hits] == [hit["text"] for hit in expected]
    assert_same_embeddings([hit["score"] for hit in hits], [hit["score"] for hit in expected])
    assert state.unanswered == f"User: {CONTENTS[0]}"


@pytest.mark.parametrize("memory", ["causal", "final"])
def test_cuts_do_not_change_what_a_final_reading_sees(model, memory):
    """With the final memory a piece sees the memory at its own end; the last piece sees that of the whole stream."""
    whole = model.encode(MESSAGES, stateful=True, memory=memory)
    for cut in (6, 7, 9, 10):
        state = model.new_state()
        model.encode(MESSAGES[:cut], stateful=True, state=state, memory=memory)
        last = model.encode(MESSAGES[cut:], stateful=True, state=state, memory=memory)
        assert_same_embeddings(last, whole[-len(last) :])


def test_long_pieces_of_several_streams_keep_their_order(model):
    roles = itertools.cycle(["user", "assistant", "user"])
    long = [{"role": role, "content": content} for role, content in zip(roles, CONTENTS * 12, strict=False)]
    state = model.new_state(2)
    found = model.encode([long, long[:1]], stateful=True, state=state)
    assert_same_embeddings(found[0], model.encode(long, stateful=True))
    assert_same_embeddings(found[1], model.encode(long[:1], stateful=True))
