"""The anchors do what their names say, and see no turn that was not yet there."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from evoemb import InputError
from evoemb.evaluation.anchors import ANCHORS, MIX_WEIGHTS, Bm25System, PositionSystem, kind_of, make_anchor
from evoemb.evaluation.systems import CrossEncoderSystem, FusedSystem, StaticVectors, reciprocal_rank_fusion
from evoemb.ranking import Bm25Index

pytest.importorskip("bm25s")


@pytest.fixture
def vectors(base_folder):
    return StaticVectors(SentenceTransformer(str(base_folder("bert")), device="cpu"))


@pytest.mark.parametrize("name", ANCHORS)
def test_an_anchor_scores_the_turns_seen_and_no_others(name, vectors, eval_streams):
    anchor = make_anchor(name, vectors)
    scored = anchor.score(eval_streams)
    assert [[len(one) for one in of_stream] for of_stream in scored] == [[8, 8, 5, 8]] * 5
    cut = [replace(s, turns=s.turns[:5], queries=(s.queries[2],)) for s in eval_streams]
    again = make_anchor(name, vectors).score(cut)
    for whole, short in zip(scored, again, strict=True):
        np.testing.assert_allclose(whole[2], short[0], atol=1e-6)


def test_an_unknown_anchor_is_refused(vectors):
    with pytest.raises(InputError, match=r"There is no anchor 'magic'. Choose among bm25, static"):
        make_anchor("magic", vectors)


def test_words_are_found_in_any_form():
    scores = Bm25Index(["my dogs moved", "the key", ""]).scores("Moving dog?")
    assert scores[0] > 0
    assert list(scores[1:]) == [0, 0]


@pytest.mark.parametrize("texts", [["", "a"], ["one key", "two"]])
def test_a_question_or_texts_without_words_score_zero(texts):
    assert list(Bm25Index(texts).scores("?")) == [0, 0]
    assert list(Bm25Index(["", "!"]).scores("key")) == [0, 0]


def test_fusion_prefers_what_both_rankings_like():
    fused = reciprocal_rank_fusion([np.array([3.0, 2.0, 1.0]), np.array([0.0, 9.0, 1.0])])
    assert np.argmax(fused) == 1
    assert fused[1] == pytest.approx(1 / 62 + 1 / 61)


def test_mixing_adds_the_two_turns_before(vectors, eval_streams):
    (turns, asked), *_ = vectors.of(eval_streams)
    mixed = turns[6] + MIX_WEIGHTS[0] * turns[5] + MIX_WEIGHTS[1] * turns[4]
    expected = mixed @ asked[0] / np.linalg.norm(mixed) / np.linalg.norm(asked[0])
    assert make_anchor("mix", vectors).score(eval_streams)[0][0][6] == pytest.approx(expected, abs=1e-6)


def test_newest3_puts_the_best_three_newest_first_and_leaves_the_rest(vectors, eval_streams):
    static, ruled = (make_anchor(name, vectors).score(eval_streams) for name in ("static", "newest3"))
    moved = 0
    for before, after in zip(chain(*static), chain(*ruled), strict=True):
        was, now = (list(np.argsort(-one, kind="stable")) for one in (before, after))
        assert now == [*sorted(was[:3], reverse=True), *was[3:]]
        moved += now != was
    assert moved


def test_the_position_rule_sorts_the_best_five(vectors, eval_streams):
    static = make_anchor("static", vectors).score(eval_streams)
    ruled = PositionSystem(vectors).score(eval_streams)
    best = np.argsort(-static[0][0], kind="stable")[:5]
    assert list(np.argsort(-ruled[0][0], kind="stable")[:5]) == sorted(best, reverse=True)  # asked for the last
    assert list(np.argsort(-ruled[0][1], kind="stable")[:5]) == sorted(np.argsort(-static[0][1], kind="stable")[:5])
    np.testing.assert_array_equal(ruled[0][3], static[0][3])  # asks for no order


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Where did I live originally?", "first"),
        ("What is my current address?", "last"),
        ("Where did I live just before my latest move?", "previous"),
        ("What came in the middle?", "middle"),
        ("Who owns a dog?", ""),
    ],
)
def test_the_kind_is_read_from_the_words_where_the_data_do_not_say_it(eval_streams, words, kind):
    assert kind_of(replace(eval_streams[0].queries[3], query=words)) == kind
    assert kind_of(replace(eval_streams[0].queries[3], query=words, kind="single")) == "single"


def test_a_cross_encoder_ranks_the_candidates_anew_and_leaves_the_rest_below(eval_streams):
    class Longest:
        def predict(self, pairs, show_progress_bar):
            return np.array([len(text) for _, text in pairs], dtype=np.float32)

    first = Bm25System()
    again = CrossEncoderSystem(FusedSystem([first]), Longest(), num_candidates=3).score(eval_streams)[0][0]
    candidates = set(np.argsort(-first.score(eval_streams)[0][0], kind="stable")[:3])
    order = np.argsort(-again, kind="stable")
    assert set(order[:3]) == candidates
    lengths = [len(eval_streams[0].texts[turn]) for turn in order[:3]]
    assert lengths == sorted(lengths, reverse=True)
