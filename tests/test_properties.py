"""Properties over streams of any text, any roles, cut into calls and saved anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoemb import MemoryState
from laws import assert_same_embeddings, assert_same_states, bytes_of
from tiny_models import WORDS

words = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
# Characters of any plane, controls and combining marks; surrogates are no text and have a test of their own.
wild = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
long = st.integers(60, 400).flatmap(lambda count: st.sampled_from(WORDS).map(lambda word: f"{word} " * count))
turns = st.one_of(words, words, wild, long, st.sampled_from(["", " ", "</s>", "<pad>", "\n"]))
streams = st.lists(turns, min_size=1, max_size=10)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.one_of(words, wild)}),
    min_size=1,
    max_size=10,
)


@pytest.fixture(params=[8, pytest.param(25, marks=pytest.mark.slow)], ids=lambda count: f"{count} examples")
def law(request):
    """Run a law on examples drawn anew in every run: a few among the quick tests, more in CI."""
    limits = settings(max_examples=request.param, deadline=None, suppress_health_check=[HealthCheck.too_slow])

    def run(check, **drawn):
        limits(given(**drawn)(check))()

    return run


@st.composite
def split(draw, length: int) -> list[slice]:
    """Cuts of a sequence into consecutive calls of at least one turn."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)), max_size=4))) if length > 1 else []
    return [slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, length], strict=True)]


def test_any_stream_in_any_calls_reads_as_a_whole(model, law):
    def check(stream, data):
        whole, parts = model.new_state(), model.new_state()
        at_once = model.encode(stream, stateful=True, state=whole)
        calls = [
            model.encode(stream[part], stateful=True, state=parts, batch_size=data.draw(st.sampled_from([1, 3, 32])))
            for part in data.draw(split(len(stream)))
        ]
        assert at_once.shape == (len(stream), 32)
        assert np.isfinite(at_once).all()
        assert_same_embeddings(np.concatenate(calls), at_once)
        assert_same_states(parts, whole)

    law(check, stream=streams, data=st.data())


def test_any_streams_side_by_side_read_as_each_alone(model, law):
    def check(several):
        together = model.new_state(len(several))
        batch = model.encode(several, stateful=True, state=together)
        for index, stream in enumerate(several):
            alone = model.new_state()
            assert_same_embeddings(batch[index], model.encode(stream, stateful=True, state=alone))
            assert_same_states(together[index], alone)

    law(check, several=st.lists(streams, min_size=1, max_size=4))


def test_any_later_turns_leave_any_earlier_embeddings(model, law):
    def check(stream, more):
        assert_same_embeddings(
            model.encode([*stream, *more], stateful=True)[: len(stream)], model.encode(stream, stateful=True)
        )

    law(check, stream=streams, more=streams)


def test_any_queries_leave_any_state(model, law):
    def check(stream, queries):
        state = model.new_state()
        model.encode(stream, stateful=True, state=state)
        before = bytes_of(state)
        first = model.encode_query(queries, state=state)
        assert_same_embeddings(model.encode_query(queries, state=state, batch_size=1), first)
        assert bytes_of(state) == before

    law(check, stream=streams, queries=streams)


def test_a_state_may_be_saved_and_loaded_between_any_two_turns(model, tmp_path_factory, law):
    def check(stream, data):
        path = tmp_path_factory.mktemp("states") / "chat.safetensors"
        state, whole = model.new_state(), model.new_state()
        model.encode(stream, stateful=True, state=whole)
        for part in data.draw(split(len(stream))):
            model.encode(stream[part], stateful=True, state=state)
            state.save(path)
            loaded = MemoryState.load(path)
            assert bytes_of(loaded) == bytes_of(state)
            state = loaded
        assert_same_states(state, whole)

    law(check, stream=streams, data=st.data())


def test_any_roles_in_any_order_make_turns(models, law):
    def check(dialogue):
        model = models("bert", "attention")
        state = model.new_state()
        embeddings = model.encode(dialogue, stateful=True, state=state)
        users = sum(message["role"] == "user" for message in dialogue)
        assert state.num_turns == len(embeddings)
        assert max(users, len(dialogue) - users) <= len(embeddings) <= len(dialogue)

    law(check, dialogue=messages)


def test_any_query_ranks_any_stream(models, law):
    def check(stream, top_k, query):
        ranked = models("bert", "attention").retrieve(stream, query, top_k=top_k)
        assert len(ranked) == min(len(stream), top_k or len(stream))
        assert len({hit["corpus_id"] for hit in ranked}) == len(ranked)
        assert all(-1.001 <= hit["score"] <= 1.001 for hit in ranked)
        assert all(hit["text"] == stream[hit["corpus_id"]] for hit in ranked)

    law(check, stream=streams, top_k=st.one_of(st.none(), st.integers(1, 20)), query=turns)


def test_any_string_at_all_is_read_or_refused_with_a_reason(models, law):
    def check(text):
        model = models("qwen3", "prefix")
        state = model.new_state()
        try:
            text.encode()
        except UnicodeEncodeError:
            with pytest.raises(ValueError, match="lone surrogate"):
                model.encode([text], stateful=True, state=state)
            assert state.num_turns == 0
        else:
            assert np.isfinite(model.encode([text], stateful=True, state=state)).all()

    law(check, text=st.text(st.characters(), max_size=20))
