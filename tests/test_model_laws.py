"""Laws of the recurrence: what must hold for every backbone and reader, however the stream is cut or batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoemb import EvoEmbedding, MemoryState
from laws import assert_same_embeddings, assert_same_states, bytes_of, shuffled
from tiny_models import make_model


def read(model: EvoEmbedding, turns: list[str], state: MemoryState, **options: object) -> np.ndarray:
    return model.encode(turns, stateful=True, state=state, **options)


def test_a_stream_read_in_two_halves_gives_what_one_reading_gives(any_model, stream):
    whole = any_model.new_state()
    at_once = read(any_model, stream, whole)
    # 5 and 6 fall into the middle of a segment of four turns, 4 and 8 between two.
    for cut in (1, 4, 5, 6, 8, len(stream) - 1):
        halves = any_model.new_state()
        parts = [read(any_model, stream[:cut], halves), read(any_model, stream[cut:], halves)]
        assert_same_embeddings(np.concatenate(parts), at_once)
        assert_same_states(halves, whole)


def test_turn_by_turn_gives_what_all_at_once_gives(any_model, stream):
    single, whole = any_model.new_state(), any_model.new_state()
    one_by_one = np.concatenate([read(any_model, [turn], single) for turn in stream])
    assert_same_embeddings(one_by_one, read(any_model, stream, whole))
    assert_same_states(single, whole)


def test_a_turn_given_as_a_bare_string_is_read_like_a_list_of_one(model, stream):
    bare, listed = model.new_state(), model.new_state()
    one = [model.encode(turn, stateful=True, state=bare) for turn in stream]
    assert one[0].shape == (32,)
    assert_same_embeddings(np.stack(one), np.concatenate([read(model, [turn], listed) for turn in stream]))
    assert_same_states(bare, listed)


def test_a_batch_of_streams_gives_what_each_stream_alone_gives(any_model, stream):
    streams = [stream, stream[3:5], [*stream[::-1], *stream], [""], stream[:7]]
    together = any_model.new_state(len(streams))
    batch = any_model.encode(streams, stateful=True, state=together)
    assert [len(one) for one in batch] == [len(one) for one in streams]
    for index, turns in enumerate(streams):
        alone = any_model.new_state()
        assert_same_embeddings(batch[index], read(any_model, turns, alone))
        assert_same_states(together[index], alone)


def test_a_batch_of_streams_resumes_in_the_middle_of_segments(model, stream):
    firsts, seconds = [stream[:1], stream[:6], stream[:3]], [stream[1:3], stream[6:], stream[3:4]]
    together = model.new_state(3)
    model.encode(firsts, stateful=True, state=together)
    batch = model.encode(seconds, stateful=True, state=together)
    for index, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        alone = model.new_state()
        assert_same_embeddings(batch[index], read(model, [*first, *second], alone)[len(first) :])
        assert_same_states(together[index], alone)


def test_later_turns_do_not_change_earlier_embeddings(any_model, stream):
    whole = any_model.encode(stream, stateful=True)
    for length in (1, 2, 3, 5, 9):
        assert_same_embeddings(any_model.encode(stream[:length], stateful=True), whole[:length])
        other = any_model.encode([*stream[:length], "the dog has lost my red key"], stateful=True)
        assert_same_embeddings(other[:length], whole[:length])


@pytest.mark.parametrize("memory", ["causal", "final"])
def test_without_a_state_a_stream_begins_with_an_empty_memory(model, stream, memory):
    assert_same_embeddings(
        model.encode(stream, stateful=True, memory=memory),
        read(model, stream, model.new_state(), memory=memory),
    )


def test_a_query_changes_nothing(any_model, stream):
    state = any_model.new_state()
    read(any_model, stream[:6], state)
    before, snapshot = bytes_of(state), state.snapshot()
    any_model.encode("where do i live", state=state)
    any_model.encode_query(["where do i live", "who has the key"], state=state)
    any_model.encode_document(stream, state=state, batch_size=2)
    any_model.retrieve(stream[6:], "where do i live", 3, state)
    assert bytes_of(state) == before
    assert state.snapshot() is snapshot
    untouched = any_model.new_state()
    read(any_model, stream[:6], untouched)
    assert_same_embeddings(read(any_model, stream[6:], state), read(any_model, stream[6:], untouched), tolerance=0)


def test_the_answer_to_a_query_depends_on_the_history(any_model, stream):
    empty, full = any_model.new_state(), any_model.new_state()
    read(any_model, stream, full)
    query = "where do i live"
    difference = np.abs(any_model.encode(query, state=full) - any_model.encode(query, state=empty)).max()
    # Far above rounding: a memory that nobody reads would give zero.
    assert difference > 1e-3


def test_order_matters(any_model, stream):
    there, swapped = any_model.new_state(), any_model.new_state()
    first, second = read(any_model, stream[:4], there), read(any_model, shuffled(stream[:4]), swapped)
    assert np.abs(first[2:] - second[2:]).max() > 1e-4
    query = "where do i live"
    assert np.abs(any_model.encode(query, state=there) - any_model.encode(query, state=swapped)).max() > 1e-4


def test_the_queue_holds_the_newest_latents_oldest_first(any_model, stream):
    config = any_model.memory_config
    state, pushed = any_model.new_state(), []
    for turn in stream:
        read(any_model, [turn], state)
        pushed.append(state.latents[0][-config.num_latents :])
    torch.testing.assert_close(state.latents[0], torch.cat(pushed)[-config.capacity_latents :], rtol=0, atol=0)


SIZES = [
    {"num_latents": 3, "capacity_latents": 7, "segment_turns": 3, "segment_tokens": 9},  # a turn leaves in parts
    {"num_latents": 2, "capacity_latents": 2, "segment_turns": 16, "segment_tokens": 2048},  # one turn, one segment
    {"num_latents": 1, "capacity_latents": 100, "segment_turns": 2, "segment_tokens": 1},  # never full
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("kind", "reader"), [("qwen3_5", "prefix"), ("bert", "attention"), ("qwen3", "attention")])
def test_halves_and_batches_hold_for_odd_sizes_of_the_memory(base_folder, stream, kind, reader, sizes):
    model = make_model(base_folder(kind), reader, **(sizes | ({"segment_turns": 1} if reader == "attention" else {})))
    whole = model.new_state()
    at_once = read(model, stream, whole)
    for cut in (1, 4, 8):
        halves = model.new_state()
        parts = [read(model, stream[:cut], halves), read(model, stream[cut:], halves, batch_size=3)]
        assert_same_embeddings(np.concatenate(parts), at_once)
        assert_same_states(halves, whole)
    batch = model.encode([stream[:3], stream], stateful=True)
    assert_same_embeddings(batch[1], at_once)
    assert_same_embeddings(batch[0], at_once[:3])


def test_capacity_is_never_passed_and_the_state_stays_small(model):
    config = model.memory_config
    state = model.new_state(2)
    turns = [f"i moved to {city} and the key was {colour}" for city in ("paris", "rome") for colour in ("red", "blue")]
    largest = 0
    for step in range(25):
        model.encode([turns, turns[step % 4 :] + turns[: step % 4]], stateful=True, state=state)
        assert max(state.num_latents) <= config.capacity_latents
        largest = max(largest, state.nbytes) if step < 8 else largest
        assert step < 8 or state.nbytes <= largest
    assert state.num_turns == (100, 100)
    assert all(latents.shape == (config.capacity_latents, model.state_spec.latent_size) for latents in state.latents)
    storage = sum(memory.latents.untyped_storage().nbytes() for memory in state.snapshot())
    assert storage == sum(memory.latents.nbytes for memory in state.snapshot())


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_is_invisible(any_model, stream, side):
    usual = any_model.encode([stream, stream[:3]], stateful=True)
    tokenizer = any_model.tokenizer
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        padded = any_model.encode([stream, stream[:3]], stateful=True)
        asked = any_model.encode(stream, state=any_model.new_state())
    finally:
        tokenizer.padding_side = before
    for mine, theirs in zip(usual, padded, strict=True):
        assert_same_embeddings(mine, theirs)
    assert_same_embeddings(asked, any_model.encode(stream, state=any_model.new_state()))


LIMITS = [
    {"batch_size": 1},
    {"batch_size": 2},
    {"batch_size": 5},
    {"batch_size": 10**6},
    {"max_batch_tokens": 1},
    {"max_batch_tokens": 40},
    {"max_batch_tokens": 200, "batch_size": 3},
]


def test_the_size_of_batches_is_invisible(model, stream):
    streams = [stream, stream[2:5], stream[::-1], ["ok"]]
    usual = model.new_state(4)
    first, asked = model.encode(streams, stateful=True, state=usual), model.encode(stream, state=usual[0])
    for limits in LIMITS:
        limited = model.new_state(4)
        second = model.encode(streams, stateful=True, state=limited, **limits)
        for mine, theirs in zip(first, second, strict=True):
            assert_same_embeddings(mine, theirs)
        assert_same_states(usual, limited)
        assert_same_embeddings(asked, model.encode(stream, state=usual[0], **limits))


@pytest.mark.parametrize("cut", [0, 5])
def test_final_memory_is_reading_first_and_encoding_afterwards(any_model, stream, cut):
    final, then = any_model.new_state(), any_model.new_state()
    for state in (final, then):
        if cut:
            read(any_model, stream[:cut], state)
    at_once = read(any_model, stream[cut:], final, memory="final")
    read(any_model, stream[cut:], then)
    assert_same_states(final, then)
    assert_same_embeddings(at_once, any_model.encode(stream[cut:], state=then))


def test_final_memory_differs_from_causal_memory(model, stream):
    causal = model.encode(stream, stateful=True)
    final = model.encode(stream, stateful=True, memory="final")
    # The last turn sees itself too; the first sees everything instead of nothing.
    assert np.abs(causal[0] - final[0]).max() > 1e-3


def test_final_memory_of_several_streams_is_that_of_each(model, stream):
    streams = [stream, stream[4:6], stream[:9]]
    batch = model.encode(streams, stateful=True, memory="final")
    for together, turns in zip(batch, streams, strict=True):
        assert_same_embeddings(together, model.encode(turns, stateful=True, memory="final"))


def test_retrieve_ranks_by_the_cosine_of_query_and_turns(model, stream):
    state = model.new_state()
    turns = model.encode_document(stream, stateful=True, state=state)
    query = model.encode_query("where do i live", state=state)
    expected = torch.nn.functional.cosine_similarity(torch.tensor(query)[None], torch.tensor(turns)).numpy()
    ranked = model.retrieve(stream, "where do i live", top_k=5)
    assert [hit["corpus_id"] for hit in ranked] == np.argsort(-expected, kind="stable")[:5].tolist()
    assert [hit["text"] for hit in ranked] == [stream[hit["corpus_id"]] for hit in ranked]
    assert_same_embeddings([hit["score"] for hit in ranked], np.sort(expected)[::-1][:5])


def test_retrieve_for_several_queries_gives_a_ranking_each(model, stream):
    queries = ["where do i live", "who has a red key"]
    several = model.retrieve(stream, queries, top_k=None)
    assert [len(one) for one in several] == [len(stream)] * 2
    for query, ranking in zip(queries, several, strict=True):
        alone = model.retrieve(stream, query, top_k=None)
        assert [hit["corpus_id"] for hit in ranking] == [hit["corpus_id"] for hit in alone]


def test_retrieve_continues_a_state_and_leaves_it_alone(model, stream):
    state = model.new_state()
    read(model, stream[:5], state)
    before = bytes_of(state)
    ranked = model.retrieve(stream[5:], "where do i live", 3, state)
    assert bytes_of(state) == before
    whole = model.new_state()
    turns = read(model, stream, whole)[5:]
    scores = turns @ model.encode_query("where do i live", state=whole)
    assert [hit["corpus_id"] for hit in ranked] == np.argsort(-scores)[:3].tolist()
