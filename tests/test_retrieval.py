"""retrieve(scoring=...): vectors, tokens and words, each alone and joined."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from evoemb import EvoembError, InputError, retrieval
from evoemb.ranking import Bm25Index, RetrievalConfig, late_scores, standardised, weighted_sum
from evoemb.retrieval import TurnScorer
from evoemb.token_states import token_ids, token_states
from tiny_models import make_model

QUERY = "where is my red key"
QUERIES = [QUERY, "my cat in oslo", ""]
MESSAGES = [{"role": "user", "content": "my cat is in oslo"}, {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "i work in bern"}, {"role": "assistant", "content": "noted"},
            {"role": "user", "content": "where is my cat"}]  # fmt: skip
TOLERANCE = 2e-4  # of standardised scores: rounding of cosines is divided by their spread


def by_turn(hits, name="score"):
    """The values of hits in the order of the stream."""
    return np.array([hit[name] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])])


def plain_late(model, turns, query, previous_weight=0.2):
    (asked,) = token_states(model, [query], "query")
    return late_scores(asked, token_states(model, turns, "document"), previous_weight=previous_weight)


def test_late_is_the_tokens_score_and_half_the_vector_s(model, stream):
    cosines = by_turn(model.retrieve(stream, QUERY, top_k=None, scoring="vector"))
    found = model.retrieve(stream, QUERY, top_k=None, scoring="late")
    expected = weighted_sum([plain_late(model, stream, QUERY), cosines], [1, 0.5])
    np.testing.assert_allclose(by_turn(found), expected, atol=TOLERANCE)
    np.testing.assert_allclose(by_turn(found, "cosine"), cosines, atol=1e-6)
    assert [hit["text"] for hit in found] == [stream[hit["corpus_id"]] for hit in found]
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)


def test_hybrid_joins_the_model_s_own_scoring_with_words_that_are_no_stop_words(base_folder, stream):
    pytest.importorskip("bm25s")
    model = make_model(base_folder("bert"), "attention")
    words = Bm25Index(stream, stop_words=False).scores(QUERY)
    for own in ("vector", "late"):
        model.retrieval_config = RetrievalConfig(own)
        alone = by_turn(model.retrieve(stream, QUERY, top_k=None, scoring=own))
        found = by_turn(model.retrieve(stream, QUERY, top_k=None, scoring="hybrid"))
        np.testing.assert_allclose(found, weighted_sum([alone, words], [1, 1]), atol=TOLERANCE)


def test_without_a_name_the_model_ranks_as_its_config_says(base_folder, stream):
    model = make_model(base_folder("bert"), "attention")
    assert model.retrieve(stream, QUERY) == model.retrieve(stream, QUERY, scoring="vector")
    model.retrieval_config = RetrievalConfig("late", previous_weight=0, vector_weight=0)
    found = model.retrieve(stream, QUERY, top_k=None)
    expected = standardised(plain_late(model, stream, QUERY, previous_weight=0))
    np.testing.assert_allclose(by_turn(found), expected, atol=TOLERANCE)


def test_several_queries_score_as_each_alone(model, stream):
    several = model.retrieve(stream, QUERIES, top_k=None, scoring="late", batch_size=2)
    for hits, query in zip(several, QUERIES, strict=True):
        alone = model.retrieve(stream, query, top_k=None, scoring="late")
        np.testing.assert_allclose(by_turn(hits), by_turn(alone), atol=TOLERANCE)
    assert model.retrieve(stream, QUERIES[:2], top_k=3, scoring="late", batch_size=2) == [
        hits[:3] for hits in several[:2]
    ]


def test_late_goes_on_from_a_state_and_ranks_the_turns_given(model, stream):
    state = model.new_state()
    model.encode_document(stream[:6], stateful=True, state=state)
    whole = by_turn(model.retrieve(stream, QUERY, top_k=None, scoring="vector"))
    found = model.retrieve(stream[6:], QUERY, top_k=None, state=state, scoring="late")
    assert state.num_turns == 6
    np.testing.assert_allclose(by_turn(found, "cosine"), whole[6:], atol=1e-4)
    expected = weighted_sum([plain_late(model, stream[6:], QUERY), whole[6:]], [1, 0.5])
    np.testing.assert_allclose(by_turn(found), expected, atol=1e-3)


def test_late_takes_the_final_memory(model, stream):
    final = by_turn(model.retrieve(stream, QUERY, top_k=None, memory="final", scoring="vector"))
    found = model.retrieve(stream, QUERY, top_k=None, memory="final", scoring="late")
    np.testing.assert_allclose(by_turn(found, "cosine"), final, atol=1e-6)


def test_an_answer_that_comes_first_is_scored_with_the_turn_it_completes(models):
    model = models("bert", "attention")
    state = model.new_state()
    model.encode(MESSAGES[:1], stateful=True, state=state)
    found = model.retrieve(MESSAGES[1:4], QUERY, state=state, scoring="late")
    assert {hit["text"] for hit in found} == {hit["text"] for hit in model.retrieve(MESSAGES[:4], QUERY)}


def test_a_dialogue_is_ranked_by_vectors_or_with_words(base_folder):
    pytest.importorskip("bm25s")
    model = make_model(base_folder("qwen3"), "prefix")
    model.retrieval_config = RetrievalConfig("late")
    plain = model.retrieve(MESSAGES)
    assert plain == model.retrieve(MESSAGES, scoring="vector")
    assert [sorted(hit) for hit in plain] == [["corpus_id", "score", "text"]] * 2
    hits = model.retrieve(MESSAGES, scoring="hybrid")
    words = Bm25Index([hit["text"] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])], stop_words=False)
    expected = weighted_sum([by_turn(plain), words.scores("where is my cat")], [1, 1])
    np.testing.assert_allclose(by_turn(hits), expected, atol=TOLERANCE)


def test_a_query_that_sees_a_beginning_knows_nothing_of_later_turns(models, stream):
    model = models("bert", "attention")
    cosines = np.linspace(0, 1, len(stream))
    for scoring in ("late", "hybrid"):
        scorer = TurnScorer(model, scoring, RetrievalConfig("late"))
        both = scorer.scores(stream, [QUERY, QUERY], [cosines[:5], cosines])
        (alone,) = scorer.scores(stream[:5], [QUERY], [cosines[:5]])
        np.testing.assert_allclose(both[0], alone, atol=TOLERANCE)
        assert len(both[1]) == len(stream)


def test_of_a_long_stream_the_best_are_rescored_and_the_others_follow(monkeypatch, models, stream):
    model = models("bert", "attention")
    monkeypatch.setattr(retrieval, "LONG_STREAM_TURNS", 12)
    monkeypatch.setattr(retrieval, "RESCORED_TURNS", 4)
    cosines = np.random.default_rng(0).random(len(stream))
    (found,) = TurnScorer(model, "late", RetrievalConfig("late")).scores(stream, [QUERY], [cosines])
    best, rest = np.argsort(-cosines)[:4], np.argsort(-cosines)[4:]
    assert found[best].min() > found[rest].max()
    assert list(rest) == list(rest[np.argsort(-found[rest])])
    # A chosen turn has the score of its own tokens and of the turn before it, though that was not chosen.
    (asked,) = token_states(model, [QUERY], "query")
    own = late_scores(asked, token_states(model, stream, "document"), previous_weight=0)
    mine = np.sort(best)
    before = np.array([own[turn - 1] if turn else own[mine].mean() for turn in mine])
    expected = weighted_sum([own[mine] + 0.2 * before, cosines[mine]], [1, 0.5])
    np.testing.assert_allclose(found[mine], expected, atol=TOLERANCE)


def test_no_more_token_states_are_held_than_a_few_batches_have(monkeypatch, models, stream):
    held = []

    def counted(model, texts, kind, **options):
        held.append(len(texts))
        return token_states(model, texts, kind, **options)

    monkeypatch.setattr(retrieval, "token_states", counted)
    scorer = TurnScorer(models("bert", "attention"), "late", RetrievalConfig(), batch_size=1)
    scorer.scores(stream * 3, [QUERY], [np.arange(len(stream) * 3)])
    assert max(held) <= 4
    assert sum(held) == len(stream) * 3 + 1


def test_token_ids_are_those_of_the_states(model, stream):
    found = token_states(model, [*stream, ""], "document")
    for ids, states in zip(token_ids(model, [*stream, ""], "document"), found, strict=True):
        assert ids.tolist() == states.ids.tolist()
        assert len(states.states) == len(ids)


def test_what_a_scoring_cannot_do_is_refused(model, stream):
    with pytest.raises(InputError, match=r"scoring='early' is not known. Use one of \"vector\", \"late\", \"hybrid\""):
        model.retrieve(stream, "q", scoring="early")
    with pytest.raises(
        InputError, match=r'scoring="late" needs a query. Pass retrieve\(stream, query, scoring="late"\)'
    ):
        model.retrieve(MESSAGES, scoring="late")


def test_hybrid_says_what_to_install(monkeypatch, models, stream):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(EvoembError, match=r"BM25 needs the package 'bm25s'.*pip install \"evoemb\[eval\]\""):
        models("bert", "attention").retrieve(stream, "my cat", scoring="hybrid")


def test_late_scoring_needs_the_tokens_of_an_evoemb_model(base_folder, stream):
    plain = SentenceTransformer(str(base_folder("bert")), device="cpu")
    with pytest.raises(InputError, match=r"starts with Transformer. Load it with EvoEmbedding\(name\)"):
        TurnScorer(plain, "late", RetrievalConfig()).scores(stream, [QUERY], [np.arange(len(stream))])
