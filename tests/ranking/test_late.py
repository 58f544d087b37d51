"""Late interaction: MaxSim over token states, weighted by what is rare among the turns so far."""

from __future__ import annotations

import numpy as np

from evoemb.ranking import TokenStates, late_scores

EYE = np.eye(6, dtype=np.float32)


def text(*tokens: int) -> TokenStates:
    return TokenStates(np.array(tokens, dtype=np.int64), EYE[list(tokens)].reshape(-1, 6))


def test_it_is_maxsim_weighted_by_inverse_document_frequency():
    turns = [text(0, 1), text(0, 2), text(0, 3)]
    found = late_scores(text(0, 3), turns, previous_weight=0)
    common, rare = np.log1p(0.5 / 3.5), np.log1p(2.5 / 1.5)
    np.testing.assert_allclose(found, [common / (common + rare)] * 2 + [1], rtol=1e-6)


def test_the_turn_before_lends_a_share_and_never_the_turn_behind():
    turns = [text(4), text(3), text(5), text(4)]
    found = late_scores(text(3), turns, previous_weight=0.5)
    np.testing.assert_allclose(found, [0.125, 1, 0.5, 0], atol=1e-6)


def test_rarity_is_counted_among_the_turns_given_only():
    turns = [text(0, 1), text(0, 2)]
    before = late_scores(text(0, 1), turns, previous_weight=0)
    after = late_scores(text(0, 1), [*turns, text(1), text(1)], previous_weight=0)
    assert before[1] < after[1]  # once 1 is common, sharing 0 counts for more


def test_texts_without_tokens_score_nothing():
    assert late_scores(text(0), []).shape == (0,)
    assert late_scores(text(), [text(0), text()]).tolist() == [0, 0]
    assert late_scores(text(0), [text(), text(0)], previous_weight=0).tolist() == [0, 1]
