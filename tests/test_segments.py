"""Packing turns into segments, against a reference that packs turn by turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoemb._errors import InputError
from evoemb.segments import Segment, SegmentPolicy

lengths = st.lists(st.integers(1, 30), max_size=40)
policies = st.builds(SegmentPolicy, st.integers(1, 8), st.integers(1, 60))


def packed(policy: SegmentPolicy, turn_lengths: list[int], opened: list[int]) -> list[list[int]]:
    """The slow way: turn by turn, a new segment where the turn does not fit; -1 stands for an opened turn."""
    segments: list[list[tuple[int, int]]] = [[(-1, length) for length in opened]] if opened else []
    for index, length in enumerate(turn_lengths):
        last = segments[-1] if segments else []
        fits = last and len(last) < policy.max_turns and sum(n for _, n in last) + length <= policy.max_tokens
        if not fits:
            segments.append([])
        segments[-1].append((index, length))
    return [[index for index, _ in segment] for segment in segments if any(index >= 0 for index, _ in segment)]


def expanded(segments: list[Segment], opened: int) -> list[list[int]]:
    return [([-1] * opened if one.continues else []) + list(range(one.start, one.stop)) for one in segments]


@given(policies, lengths, lengths)
def test_turns_are_packed_as_the_slow_way_packs_them(policy, turn_lengths, opened):
    assert expanded(policy.group(turn_lengths, opened), len(opened)) == packed(policy, turn_lengths, opened)


@given(policies, lengths)
def test_every_turn_is_in_one_segment_and_in_order(policy, turn_lengths):
    segments = policy.group(turn_lengths)
    assert [turn for one in segments for turn in range(one.start, one.stop)] == list(range(len(turn_lengths)))
    assert not any(one.continues for one in segments)


@given(policies, lengths)
def test_a_segment_passes_its_limits_only_with_a_single_turn(policy, turn_lengths):
    for one in policy.group(turn_lengths):
        assert one.stop - one.start <= policy.max_turns
        tokens = sum(turn_lengths[one.start : one.stop])
        assert tokens <= policy.max_tokens or one.stop - one.start == 1


@given(policies, lengths, st.data())
def test_reading_can_stop_and_go_on_anywhere(policy, turn_lengths, data):
    cut = data.draw(st.integers(0, len(turn_lengths)))
    whole = [list(range(one.start, one.stop)) for one in policy.group(turn_lengths)]
    first = policy.group(turn_lengths[:cut])
    opened = turn_lengths[first[-1].start : cut] if first else []
    joined = [list(range(one.start, one.stop)) for one in first]
    for one in policy.group(turn_lengths[cut:], opened):
        turns = [turn + cut for turn in range(one.start, one.stop)]
        if one.continues:
            joined[-1] += turns
        else:
            joined.append(turns)
    assert joined == whole


@given(policies, lengths, lengths)
def test_earlier_segments_do_not_depend_on_later_turns(policy, turn_lengths, more):
    alone, together = policy.group(turn_lengths), policy.group(turn_lengths + more)
    if alone:
        assert together[: len(alone) - 1] == alone[:-1]
        assert together[len(alone) - 1].start == alone[-1].start


def test_nothing_new_is_no_segment():
    assert SegmentPolicy().group([]) == []
    assert SegmentPolicy().group([], [5]) == []


def test_limits_that_no_turn_could_meet_are_refused():
    for limits in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(InputError, match=rf"max_turns={limits[0]} and max_tokens={limits[1]} were given. Use 1"):
            SegmentPolicy(*limits)
