"""The figures, by hand on small rankings and by the baselines that others measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_values import stream_value
from evoemb.evaluation.anchors import make_anchor
from evoemb.evaluation.metrics import (
    averages,
    evolving_groups,
    hit,
    joint_first_and_last,
    ndcg,
    outcome,
    recall,
    reciprocal_rank,
    summary,
)
from evoemb.evaluation.schema import parse_stream
from evoemb.evaluation.streams import read_streams
from evoemb.evaluation.systems import StaticVectors

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_figures_by_hand():
    ranks = (2, 12)
    assert (recall(ranks, 1), recall(ranks, 5), recall(ranks, 12)) == (0, 0.5, 1)
    assert (hit(ranks, 1), hit(ranks, 5)) == (0, 1)
    assert reciprocal_rank(ranks) == 0.5
    assert ndcg(ranks) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert ndcg((1, 2)) == 1


def test_eleven_right_turns_can_still_give_a_perfect_ndcg():
    assert ndcg(tuple(range(1, 12))) == 1


@given(st.lists(st.integers(-3, 3), min_size=8, max_size=8))
def test_ranks_are_those_of_a_stable_sort(scores):
    stream = made_streams()[0]
    found = outcome(stream, stream.queries[1], np.array(scores, dtype=float))
    better = sum(score > scores[0] for score in scores)
    assert found.ranks == (better + 1,)  # evidence is turn 0, so every equal turn comes later
    assert found.top == scores.index(max(scores))


def made_streams():
    return [parse_stream(stream_value(f"s{number}", number), "here") for number in range(3)]


def answered(stream, right_at):
    """Outcomes of a ranker that puts the last mention first ("last") or the first one ("first")."""
    found = []
    for query in stream.scored:
        scores = np.zeros(query.asked_at)
        mentions = query.mentions or query.evidence_turns
        scores[max(mentions) if right_at == "last" else min(mentions)] = 1
        found.append(outcome(stream, query, scores))
    return found


def test_order_is_right_only_if_the_right_mention_is_above_all_competing_ones():
    stream = made_streams()[0]
    by_qid = {one.query.qid: one.order for one in answered(stream, "last")}
    assert by_qid == {"last@8": 1, "first@8": 0, "last@5": 1, "lamp": None}


def test_a_tie_with_a_competing_mention_counts_half():
    stream = made_streams()[0]
    assert outcome(stream, stream.queries[0], np.zeros(8)).order == 0.5


def test_order_chance_is_what_guessing_among_the_mentions_gives():
    found = averages(answered(made_streams()[0], "last"))
    assert found["order_chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    assert found["order_acc"] == pytest.approx(2 / 3)


def test_joint_needs_first_and_last_of_one_slot():
    outcomes = [one for stream in made_streams() for one in answered(stream, "last")]
    pairs, streams = joint_first_and_last(outcomes)
    assert (pairs, streams) == ([False] * 3, ["s0", "s1", "s2"])  # last is right, first is not


def test_evolving_needs_the_same_question_right_at_both_times():
    outcomes = [one for stream in made_streams() for one in answered(stream, "last")]
    assert [[one.query.qid for one in group] for group in evolving_groups(outcomes)] == [["last@8", "last@5"]] * 3
    found = summary(outcomes)
    assert found["evolving"] == {"groups": 3, "joint_recall@1": 1, "joint_order": 1}
    assert summary([one for s in made_streams() for one in answered(s, "first")])["evolving"]["joint_order"] == 0


def test_adversarial_questions_stay_out_of_the_main_figures():
    stream = made_streams()[0]
    odd = replace(stream, queries=(*stream.queries[:3], replace(stream.queries[3], category="adversarial")))
    found = summary(answered(odd, "last"))
    assert (found["overall"]["n"], found["all_categories"]["n"]) == (3, 4)
    assert found["by_category"]["adversarial"]["n"] == 1


def measured(name, anchor):
    streams = read_streams(SHARED / f"{name}.jsonl.gz")
    scored = make_anchor(anchor, StaticVectors(None)).score(streams)  # type: ignore[arg-type]  # BM25 asks no model
    pairs = zip(streams, scored, strict=True)
    return summary([outcome(s, q, one) for s, all_of in pairs for q, one in zip(s.scored, all_of, strict=True)])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the baselines' data sets are not here")
@pytest.mark.parametrize("name", ["sgd_ku.dev", "locomo.pairs", "locomo.utterances", "covidqa", "temporal"])
def test_bm25_gives_the_published_baseline(name):
    pytest.importorskip("bm25s")
    expected = json.loads((SHARED / "baselines.json").read_text())[f"open/{name}.jsonl.gz"]["bm25"]
    assert distances(expected, measured(name, "bm25")) == []


def distances(expected, found, path=""):
    """Every figure that is off by 0.002 or more, as ``path: expected, found``."""
    if isinstance(expected, dict):
        return [text for key, value in expected.items() for text in distances(value, found[key], f"{path}/{key}")]
    return [f"{path}: {expected}, {found}"] if abs(expected - found) >= 0.002 else []
