"""The score that reads candidates in time order: a batch equals singles, padding counts for nothing, files keep all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evoemb import InputError
from evoemb.modules import TimeOrderedScore
from evoemb.ranking import TokenStates
from evoemb.time_ordered import CandidateSet, TextStates, answered, candidates, time_ordered

FEATURES = 12


def make_module(**choices) -> TimeOrderedScore:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "num_candidates": 4, **choices}
    return TimeOrderedScore(FEATURES, [1, 2], **sizes).eval()


def make_text(seed: int, length: int = 4) -> TextStates:
    random = np.random.default_rng(seed)
    states = random.normal(size=(length, FEATURES)).astype(np.float32)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    tokens = TokenStates(random.integers(5, 50, length), unit)
    return TextStates(torch.from_numpy(states), tokens, unit.mean(0) / np.linalg.norm(unit.mean(0)))


def asking(query: TextStates, turns: list[TextStates], chosen: list[int]) -> CandidateSet:
    scores = np.zeros((len(chosen), 2), dtype=np.float32)
    return CandidateSet(query.features, [turn.features for turn in turns], chosen, scores)


def make_stream(first: int, turns: int) -> list[TextStates]:
    return [make_text(first + number, 2 + number % 5) for number in range(turns)]


@pytest.fixture(scope="module")
def streams():
    return [(make_text(1, 3), make_stream(100, 9)), (make_text(2, 6), make_stream(200, 1)),
            (make_text(3, 1), make_stream(300, 5))]  # fmt: skip


def test_a_batch_of_questions_equals_each_by_itself(streams):
    module = make_module()
    for together, one in zip(answered(module, streams), streams, strict=True):
        (alone,) = answered(module, [one])
        torch.testing.assert_close(together.scores, alone.scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.nothing, alone.nothing, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_turn_gets_a_score_and_those_not_read_stand_below(streams):
    query, turns = streams[0]
    (found,) = answered(make_module(), [(query, turns)])
    assert found.scores.shape == (9,)
    assert float(found.probabilities.sum()) == pytest.approx(1)
    best = found.scores.argsort(descending=True).tolist()
    assert float(found.scores[best[3]] - found.scores[best[4]]) >= 10  # four candidates are read
    assert float(found.probabilities[[*best[4:]]].sum()) < 1e-3


def test_the_same_turns_in_another_order_get_other_scores(streams):
    query, turns = streams[2]
    module = make_module(num_candidates=8)
    (forward,) = answered(module, [(query, turns)])
    (backward,) = answered(module, [(query, turns[::-1])])
    assert not torch.allclose(forward.scores, backward.scores.flip(0), atol=1e-4)


def test_what_stands_before_a_candidate_is_read_with_it():
    module, query, turns = make_module(), make_text(1), make_stream(50, 4)
    other = [*turns[:2], make_text(9), turns[3]]
    changed = module.score(time_ordered([asking(query, turns, [3]), asking(query, other, [3])])).mentions[:, 0]
    assert not torch.equal(changed[0], changed[1])


def test_candidates_are_the_best_of_both_rankings_in_time_order():
    scores = np.array([[3, 0], [0, 0], [1, 9], [2, 1], [0, 8]], dtype=np.float32)
    assert candidates(scores, 2) == [0, 2]
    assert candidates(scores, 4) == [0, 2, 3, 4]
    assert candidates(scores, 99) == [0, 1, 2, 3, 4]


def test_gradients_reach_every_weight(streams):
    module = make_module(num_candidates=8).train()
    found = answered(module, streams)
    every = [asking(query, turns, list(range(len(turns)))) for query, turns in streams]
    batch = module.score(time_ordered(every))
    (sum(one.probabilities[0].log() for one in found) + batch.mentions.sum()).backward()
    assert [name for name, weight in module.named_parameters() if weight.grad is None] == []


def test_a_saved_module_scores_the_same(streams, tmp_path):
    module = make_module()
    module.save(str(tmp_path))
    loaded = TimeOrderedScore.load(str(tmp_path)).eval()
    assert loaded.get_config_dict() == module.get_config_dict()
    assert torch.equal(answered(loaded, streams)[0].scores, answered(module, streams)[0].scores)


@pytest.mark.parametrize(("wrong", "said"), [({"hidden_size": 0}, "hidden_size=0"), ({"num_heads": 3}, "no multiple"),
                                             ({"num_candidates": True}, "num_candidates=True")])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        make_module(**wrong)
