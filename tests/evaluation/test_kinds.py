"""First hits by kind of question, by hand on small rankings and on the chats that come with the repository."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation_values import stream_value
from evoemb.evaluation.comparison import Plan, evaluate
from evoemb.evaluation.kinds import differences_by_kind, figures_by_kind, shown_kind
from evoemb.evaluation.metrics import evolving_groups, outcome
from evoemb.evaluation.runs import SystemRun
from evoemb.evaluation.schema import StreamQuery, parse_stream
from evoemb.evaluation.streams import read_streams
from evoemb.evaluation.tables import to_markdown

CHATS = Path(__file__).parents[2] / "examples" / "data" / "evochat.dev.jsonl.gz"


def query(**values):
    return StreamQuery("q", "where ?", **{"evidence_turns": (4,), "asked_at": 6, "kind": "last", **values})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"mentions": (1, 4)}, "updated"),
        ({"mentions": (4,)}, "no rival"),
        ({"mentions": (1, 4), "same_value_turns": (1,)}, "no rival"),
        ({"mentions": (1, 2, 4), "same_value_turns": (1,)}, "updated"),
        ({"mentions": (4, 5)}, "updated"),  # an old value, named once more after the new one
        ({"mentions": (1, 4), "kind": "first"}, "first"),
        ({"mentions": (1, 4), "kind": "", "category": "last"}, "updated"),
        ({"kind": "", "category": "coref"}, "coref"),
    ],
)
def test_a_last_value_is_updated_where_a_turn_states_another_value(values, kind):
    assert shown_kind(query(**values)) == kind


def ranked(streams, orders):
    """Outcomes where the turns named in ``orders[qid]`` are the best, in this order."""
    found = []
    for stream in streams:
        for asked in stream.scored:
            scores = np.zeros(asked.asked_at)
            for place, turn in enumerate(orders[asked.qid]):
                scores[turn] = 9 - place
            found.append(outcome(stream, asked, scores))
    return found


RIGHT = {"last@8": [6], "first@8": [0], "last@5": [3], "lamp": [5]}


def test_hits_count_among_the_first_one_three_and_ten():
    streams = [parse_stream(stream_value(), "here")]
    found = figures_by_kind(ranked(streams, {**RIGHT, "last@8": [1, 2, 6], "first@8": [1, 2, 3, 0]}))
    assert list(found) == ["updated", "first", "single", "all", "evolving"]
    assert found["updated"] == {"n": 2, "hit@1": 0.5, "hit@3": 1, "hit@10": 1}
    assert found["first"] == {"n": 1, "hit@1": 0, "hit@3": 0, "hit@10": 1}
    assert found["all"] == {"n": 4, "hit@1": 0.5, "hit@3": 0.75, "hit@10": 1}


def test_a_question_with_changing_answers_is_right_only_if_it_is_right_every_time():
    streams = [parse_stream(stream_value("a"), "here"), parse_stream(stream_value("b"), "here")]
    whole, half = ranked(streams[:1], RIGHT), ranked(streams[1:], {**RIGHT, "last@5": [4]})
    assert figures_by_kind([*whole, *half])["evolving"] == {"n": 2, "hit@1": 0.5}


def test_adversarial_questions_are_a_kind_of_their_own_and_not_among_all():
    stream = parse_stream(stream_value(), "here")
    odd = replace(stream, queries=(*stream.queries[:3], replace(stream.queries[3], category="adversarial")))
    found = figures_by_kind(ranked([odd], RIGHT))
    assert (found["adversarial"]["n"], found["all"]["n"]) == (1, 3)


def test_differences_by_kind_are_those_of_the_figures():
    streams = [parse_stream(stream_value(name), "here") for name in "abc"]
    runs = [
        SystemRun("memory on", ranked(streams, RIGHT), 0.0),
        SystemRun("bm25", ranked(streams, {**RIGHT, "last@5": [1]}), 0.0),
    ]
    found = {one["kind"]: (one["minus"], one["mean"], one["low"], one["high"]) for one in differences_by_kind(runs)}
    assert found["updated"] == ("bm25", 0.5, 0.5, 0.5)
    assert found["first"] == ("bm25", 0, 0, 0)
    assert found["evolving"] == ("bm25", 1, 1, 1)


def test_results_have_the_kinds_as_values_and_as_tables(models, eval_streams):
    pytest.importorskip("bm25s")
    plan = Plan(against=("bm25", "newest3"), probe_streams=0)
    results = evaluate(eval_streams, models("bert", "attention"), plan, name="made")
    page = to_markdown(results)
    assert {"updated", "first", "single", "all", "evolving"} == set(results["systems"][0]["kinds"])
    for figure in ("hit@1", "hit@3", "hit@10"):
        table = page.split(f"## {figure} by kind of question\n\n")[1].split("\n\n")[0]
        row = next(line for line in table.splitlines() if line.startswith("| newest3 |"))
        assert row.split(" | ")[1] == f"{100 * results['systems'][2]['kinds']['updated'][figure]:.1f}"
    assert "## hit@1 by kind, memory on minus the others" in page


def test_questions_without_kind_and_mentions_get_no_such_table(models, eval_streams):
    bare = [
        replace(stream, queries=tuple(replace(one, kind="", mentions=()) for one in stream.queries))
        for stream in eval_streams
    ]
    results = evaluate(bare, models("bert", "attention"), Plan(against=("static",), probe_streams=0), name="made")
    assert (results["systems"][0]["kinds"], results["differences_by_kind"]) == ({}, [])
    assert "by kind" not in to_markdown(results)


def test_the_chats_of_the_repository_have_the_questions_that_their_page_names():
    streams = read_streams(CHATS)
    kinds = Counter(shown_kind(one) for stream in streams for one in stream.scored)
    assert (len(streams), sum(len(stream.turns) for stream in streams), sum(kinds.values())) == (18, 761, 535)
    assert (kinds["updated"], kinds["no rival"]) == (298, 82)
    outcomes = [outcome(s, one, np.zeros(one.asked_at)) for s in streams for one in s.scored]
    assert len(evolving_groups(outcomes)) == 130
    # The two group chats write the names into the text: no model reads them twice.
    assert all(stream.texts == [turn.text for turn in stream.turns] for stream in streams)
