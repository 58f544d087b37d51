"""Scorings joined: on one scale first, then weighted and added."""

from __future__ import annotations

import numpy as np

from evoemb.ranking import standardised, weighted_sum


def test_standardised_scores_have_mean_zero_and_deviation_one():
    found = standardised(np.array([1, 2, 3, 6], dtype=np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(found, standardised(np.array([100, 200, 300, 600])), atol=1e-12)


def test_scores_that_tell_nothing_apart_add_nothing():
    for equal in ([0.0, 0.0], [0.1, 0.1, 0.1], [0.7, 0.7 + 3e-8, 0.7]):
        assert standardised(np.array(equal)).tolist() == [0] * len(equal)
    assert standardised(np.zeros(0)).shape == (0,)
    scores = np.array([0.3, 0.1])
    assert weighted_sum([scores, np.ones(2)], [1, 5]).tolist() == standardised(scores).tolist()


def test_a_joined_score_is_the_weighted_sum_whatever_the_scales():
    first, second = np.array([0.1, 0.2, 0.4]), np.array([30.0, 10.0, 0.0])
    expected = standardised(first) + 0.5 * standardised(second)
    np.testing.assert_allclose(weighted_sum([first, second], [1, 0.5]), expected)
    np.testing.assert_allclose(weighted_sum([first, 1000 * second - 7], [1, 0.5]), expected)
    np.testing.assert_allclose(weighted_sum([first, second], [1, 0]), standardised(first))
