"""Ranking: best first, equal scores in the order given, and nothing but numpy behind it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from evoemb import InputError, ranking
from evoemb.ranking import best_first, checked_top_k, top_hits


def test_the_best_scores_come_first_and_equal_ones_keep_their_order():
    scores = np.array([0.5, 0.9, 0.5, -1.0, 0.9])
    assert best_first(scores).tolist() == [1, 4, 0, 2, 3]
    assert best_first(scores, 2).tolist() == [1, 4]
    assert best_first(np.zeros(0)).tolist() == []


def test_a_hit_names_the_place_the_score_and_the_text():
    hits = top_hits(np.array([0.25, 0.5], dtype=np.float32), ["a", "b"], 1)
    assert hits == [{"corpus_id": 1, "score": 0.5, "text": "b"}]
    assert [type(value) for value in hits[0].values()] == [int, float, str]


@pytest.mark.parametrize("top_k", [1, 3, np.int64(2), np.uint8(7)])
def test_any_whole_number_is_a_top_k(top_k):
    assert checked_top_k(top_k) == int(top_k)
    assert type(checked_top_k(top_k)) is int


def test_none_wants_all_and_what_is_no_count_is_refused():
    assert checked_top_k(None) is None
    for wrong in (0, -3, 1.0, np.float64(2), True, np.True_, "3"):
        with pytest.raises(InputError, match=r"top_k=.* was given\. Use a whole number of 1 or more, or None for all"):
            checked_top_k(wrong)


def test_ranking_needs_numpy_only():
    allowed = {
        "__future__",
        "collections",
        "functools",
        "math",
        "numbers",
        "re",
        "typing",
        "importlib",
        "numpy",
        "evoemb",
        "dataclasses",
    }
    for path in Path(ranking.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path.name
            assert {name for name in names if name.startswith("evoemb")} <= {
                "evoemb._errors",
                "evoemb.ranking.config",
                "evoemb.ranking.fusion",
                "evoemb.ranking.hits",
                "evoemb.ranking.late",
                "evoemb.ranking.lexical",
            }, path.name
