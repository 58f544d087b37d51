"""How rows fall into batches: within the limits, with little padding, and smaller once memory has run out."""

from __future__ import annotations

import logging
import random

import pytest
import torch

from evoemb.streaming import limits as limits_module
from evoemb.streaming.limits import Limits
from laws import assert_same_embeddings, assert_same_states

CPU = torch.device("cpu")
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


def mixed_lengths(count: int, longest: int) -> list[int]:
    chance = random.Random(0)
    return [chance.randint(1, longest) for _ in range(count)]


@pytest.mark.parametrize("device", [None, CPU])
@pytest.mark.parametrize(("batch_size", "max_tokens"), [(1, None), (7, None), (7, 900), (1000, 5000), (1000, 1)])
def test_batches_cover_every_row_once_within_the_limits(device, batch_size, max_tokens):
    lengths = mixed_lengths(300, 400)
    batches = list(Limits(batch_size, max_tokens).batches(lengths, device))
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) <= batch_size
        longest = max(lengths[index] for index in batch)
        assert max_tokens is None or len(batch) == 1 or len(batch) * longest <= max_tokens


def test_padding_stays_under_a_tenth_for_mixed_lengths():
    lengths = mixed_lengths(64, 500)
    area = sum(len(batch) * max(lengths[index] for index in batch) for batch in Limits(32, None).batches(lengths, CPU))
    assert sum(lengths) / area > 0.9
    # Cut by number alone, as lengths without a device are, the same rows are padded by more.
    plain = sum(len(batch) * max(lengths[index] for index in batch) for batch in Limits(32, None).batches(lengths))
    assert sum(lengths) / plain < 0.8


def test_short_rows_stay_together_as_another_forward_costs_more_than_their_padding():
    assert len(list(Limits(32, None).batches([1, 2, 3, 4, 5, 6, 7, 8], CPU))) == 1


def test_results_come_in_the_order_of_the_rows():
    lengths = mixed_lengths(50, 90)
    assert Limits(8).run(lengths, lambda batch: [(index, lengths[index]) for index in batch], CPU) == [
        *enumerate(lengths)
    ]


def failing_above(rows: int, sizes: list[int]):
    """A forward that gives its row numbers, and runs out of memory with more than ``rows`` rows."""

    def forward(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > rows:
            raise OUT_OF_MEMORY("fake")
        return batch

    return forward


def test_a_batch_that_does_not_fit_is_halved_for_the_rest_of_the_call_with_one_warning(caplog):
    limits, sizes = Limits(16), []
    with caplog.at_level(logging.WARNING):
        assert limits.run([5] * 40, failing_above(3, sizes), CPU) == list(range(40))
        assert limits.run([5] * 4, failing_above(3, sizes), CPU) == list(range(4))
    assert sizes == [16, 8, 4, *[2] * 20, 2, 2]
    assert len([record for record in caplog.records if "did not fit" in record.message]) == 1


def test_a_single_row_that_does_not_fit_is_told():
    with pytest.raises(OUT_OF_MEMORY, match="fake"):
        Limits(4).run([5] * 4, failing_above(0, []), CPU)


@pytest.mark.parametrize(("kind", "reader"), [("qwen3", "prefix"), ("bert", "attention")])
def test_encode_goes_on_with_smaller_batches_and_gives_the_same(models, stream, monkeypatch, caplog, kind, reader):
    model = models(kind, reader)
    streams = [stream, stream[::-1], stream[:5]]
    usual, limited = model.new_state(3), model.new_state(3)
    expected = model.encode(streams, stateful=True, state=usual)
    transformer, failures = model[0], []
    forward, write = transformer.forward, getattr(transformer.reader, "write", None)

    def small(features, **kwargs):
        if len(features["input_ids"]) > 4:  # one row a batch: a block of four
            failures.append("forward")
            raise OUT_OF_MEMORY("fake")
        return forward(features, **kwargs)

    def small_write(segments, **kwargs):
        if len(segments) > 1:
            failures.append("write")
            raise OUT_OF_MEMORY("fake")
        return write(segments, **kwargs)

    monkeypatch.setattr(transformer, "forward", small)
    if write is not None:
        monkeypatch.setattr(transformer.reader, "write", small_write)
    with caplog.at_level(logging.WARNING, logger=limits_module.__name__):
        found = model.encode(streams, stateful=True, state=limited)
    assert failures
    assert len([record for record in caplog.records if record.name == limits_module.__name__]) == 1
    for mine, theirs in zip(found, expected, strict=True):
        assert_same_embeddings(mine, theirs)
    assert_same_states(limited, usual)
