"""The controls touch the memory and nothing else, and they expose a model that only knows what time it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from evaluation_values import stream_value
from evoemb import EvoEmbedding, InputError
from evoemb.evaluation.anchors import kind_of
from evoemb.evaluation.bootstrap import interval, paired_difference
from evoemb.evaluation.controls import Control, donated_turns, parse_control, permute_ages
from evoemb.evaluation.evolving import EvolvingSystem, model_system
from evoemb.evaluation.metrics import outcome
from evoemb.evaluation.reading import StreamReader
from evoemb.evaluation.runs import run_systems
from evoemb.evaluation.schema import parse_stream
from evoemb.evaluation.systems import StaticVectors


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.fixture
def few_streams(eval_streams):
    """Enough to lie side by side and to take each other's memory."""
    return eval_streams[:3]


def whole_reading(model, stream, memory):
    """Scores as one would get them with encode alone, a fresh reading for every question."""
    found = []
    for query in stream.scored:
        state = model.new_state()
        turns = model.encode_document(stream.texts[: query.asked_at], stateful=True, state=state, memory=memory)
        asked = model.encode_query(query.query, state=state)
        found.append(turns @ asked)
    return found


@pytest.mark.parametrize("memory", ["causal", "final"])
def test_a_stream_read_once_scores_as_a_reading_for_every_question(model, few_streams, memory):
    system = EvolvingSystem(model, memory)
    close(system.score(few_streams), [whole_reading(model, stream, memory) for stream in few_streams])


def test_reading_stepwise_gives_what_reading_in_pieces_gives(model, few_streams):
    reader = StreamReader(model)
    pieces = reader._read_in_pieces(few_streams)
    steps = reader._read_stepwise(few_streams, [stream.texts for stream in few_streams], lambda state: state)
    for one, other in zip(pieces, steps, strict=True):
        np.testing.assert_allclose(one.seen(8), other.seen(8), atol=2e-5)
        assert one.queries.keys() == other.queries.keys()
        for number in one.queries:
            np.testing.assert_allclose(one.queries[number], other.queries[number], atol=2e-5)


def test_memory_off_reads_every_text_with_an_empty_memory(model, eval_streams):
    stream, empty = eval_streams[0], model.new_state()
    turns = model.encode_document(stream.texts, state=empty)
    asked = model.encode_query([query.query for query in stream.scored], state=empty)
    expected = [turns[: query.asked_at] @ one for query, one in zip(stream.scored, asked, strict=True)]
    close(EvolvingSystem(model, control=Control("off")).score([stream]), [expected])


@pytest.mark.parametrize("memory", ["causal", "final"])
def test_every_control_changes_the_scores_of_a_model_that_uses_its_memory(model, few_streams, memory):
    on = EvolvingSystem(model, memory).score(few_streams)
    for control in ("off", "shuffled", "ages", "frozen@2"):
        other = EvolvingSystem(model, memory, parse_control(control)).score(few_streams)
        apart = [np.abs(a - b).max() for one, two in zip(on, other, strict=True) for a, b in zip(one, two, strict=True)]
        assert max(apart) > 2e-4, control


def test_the_shuffled_memory_is_that_of_the_other_streams_turns(model, eval_streams):
    first, second = eval_streams[:2]
    shuffled = EvolvingSystem(model, control=Control("shuffled")).score([first, second])[0]
    state = model.new_state()
    model.encode_document(second.texts, stateful=True, state=state)
    asked = model.encode_query(first.scored[0].query, state=state)
    last = model.new_state()
    model.encode_document(second.texts[:7], stateful=True, state=last)
    turn = model.encode_document(first.texts[7], state=last)
    assert shuffled[0][7] == pytest.approx(float(turn @ asked), abs=2e-5)


def test_a_frozen_memory_holds_the_first_turns_only(model, eval_streams):
    stream, state = eval_streams[0], model.new_state()
    model.encode_document(stream.texts[:2], stateful=True, state=state)
    asked = model.encode_query(stream.scored[0].query, state=state)
    turn = model.encode_document(stream.texts[7], state=state)
    frozen = EvolvingSystem(model, control=Control("frozen", frozen_after=2)).score([stream])[0]
    assert frozen[0][7] == pytest.approx(float(turn @ asked), abs=2e-5)


def test_donors_are_other_streams_and_as_long_as_asked_for(eval_streams):
    short = replace(eval_streams[1], turns=eval_streams[1].turns[:2], queries=())
    assert donated_turns([eval_streams[0], short])[0] == short.texts * 4
    assert [len(one) for one in donated_turns(eval_streams)] == [8] * 5
    with pytest.raises(InputError, match="takes the memory of another stream, but there is only one"):
        donated_turns(eval_streams[:1])


def test_permuted_ages_keep_whole_turns_and_their_content(model, stream):
    state = model.new_state()
    model.encode(stream, stateful=True, state=state)
    before, after = state.latents[0], permute_ages(state, seed=1).latents[0]
    turns_before = {tuple(turn.flatten().tolist()) for turn in before.split(state.spec.num_latents)}
    turns_after = [tuple(turn.flatten().tolist()) for turn in after.split(state.spec.num_latents)]
    assert set(turns_after) == turns_before
    assert not torch.equal(before, after)
    assert torch.equal(after, permute_ages(state, seed=1).latents[0])


@pytest.mark.parametrize("text", ["frozen", "frozen@0", "frozen@x", "Off", ""])
def test_an_unknown_control_is_refused(text):
    with pytest.raises(InputError, match=r"There is no control .* Choose among on, off, shuffled, ages and frozen@N"):
        parse_control(text)


def test_a_static_model_scores_exactly_equal_under_every_control(base_folder, eval_streams):
    static = SentenceTransformer(str(base_folder("bert")), device="cpu")
    vectors = StaticVectors(static)
    names = ("on", "off", "shuffled", "ages", "frozen@2")
    runs = run_systems([model_system(static, vectors, control=parse_control(name)) for name in names], eval_streams)
    assert [run.name for run in runs] == [f"memory {name}" for name in names]
    assert all(run.outcomes == runs[0].outcomes for run in runs)


class Clock(EvoEmbedding):
    """A cheat: behind the base model's vector stands the time of reading, and nothing of what was read.

    A turn is stamped with the number of turns before it; a question for the first or last points at that time.
    """

    def encode(self, inputs: Any, *args: Any, stateful: bool = False, state: Any = None, **kwargs: Any) -> Any:
        base = EvoEmbedding.encode(self, inputs, state=None if state is None else empty(self, state), **kwargs)
        if state is None:
            return base
        before = state.num_turns if isinstance(state.num_turns, tuple) else (state.num_turns,)
        stamped = [self._stamped(*one) for one in zip(inputs, base, before, strict=True)]
        if stateful:
            EvoEmbedding.encode(self, inputs, stateful=True, state=state, **kwargs)
        return stamped

    def _stamped(self, texts: list[str], vectors: np.ndarray, before: int) -> np.ndarray:
        found = []
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            asks = "?" in text and "where" in text
            at = 0 if "first" in text else before if asks else before + number
            angle = at / 40 * math.pi
            found.append(np.concatenate((0.1 * vector, [math.cos(angle), math.sin(angle)])))
        return np.stack(found)


def empty(model: EvoEmbedding, state: Any) -> Any:
    return model.new_state(state.batch_size)


@pytest.fixture
def clock(base_folder):
    model = Clock(str(base_folder("bert")), memory_reader="attention", device="cpu")
    return model.eval()


@pytest.fixture
def order_streams():
    """Streams in which every turn competes, so that order alone decides."""
    values = [stream_value(f"s{number}", number) for number in range(8)]
    for value in values:
        value["queries"] = value["queries"][:3]
    return [parse_stream(value, "here") for value in values]


def test_a_clock_without_content_is_exposed_by_the_shuffled_control(clock, order_streams):
    controls = [parse_control(name) for name in ("on", "off", "shuffled")]
    systems = [EvolvingSystem(clock, control=control, all_streams=order_streams) for control in controls]
    on, off, shuffled = run_systems(systems, order_streams)
    # It looks like a memory: order is right, and with the memory off it is not.
    assert interval(on.outcomes, "order_acc").mean == 1
    gain = paired_difference(on.outcomes, off.outcomes, "order_acc")
    assert gain.low > 0.2
    # It is none: another stream's memory of the same age serves as well.
    content = paired_difference(on.outcomes, shuffled.outcomes, "order_acc")
    assert (content.mean, content.low, content.high) == (0, 0, 0)
    assert all(kind_of(one.query) in ("first", "last") for one in on.outcomes)


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_more_streams(order_streams):
    rng = np.random.default_rng(1)
    several = [replace(one, stream_id=f"{one.stream_id}-{again}") for one in order_streams for again in range(20)]

    def answered(streams):
        return [outcome(s, q, rng.normal(size=q.asked_at)) for s in streams for q in s.scored]

    few, many = interval(answered(order_streams), "mrr"), interval(answered(several), "mrr")
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 2
    same = answered(order_streams)
    assert paired_difference(same, same, "mrr") == (0, 0, 0)
    assert interval([one for one in same if one.order is None], "order_acc") is None
