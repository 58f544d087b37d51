"""The evaluators give their figures by name, fit the trainer's contract, and write what they found."""

from __future__ import annotations

import csv

import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from evoemb import EvoReranker, InputError
from evoemb.evaluation.evaluators import (
    KnowledgeUpdateEvaluator,
    StreamRerankingEvaluator,
    StreamRetrievalEvaluator,
    TemporalProbeEvaluator,
    sts_evaluator,
)
from evoemb.evaluation.streams import write_streams
from evoemb.evaluation.systems import StaticSystem, StaticVectors

EVALUATORS = (StreamRetrievalEvaluator, KnowledgeUpdateEvaluator, TemporalProbeEvaluator)


@pytest.mark.parametrize("kind", EVALUATORS)
def test_an_evaluator_names_its_primary_metric_and_keeps_to_the_contract(kind, model, eval_streams, tmp_path):
    evaluator = kind(eval_streams, name="mine")
    assert isinstance(evaluator, BaseEvaluator)
    found = evaluator(model, output_path=str(tmp_path), epoch=1, steps=7)
    assert evaluator.primary_metric in found
    assert all(name.startswith("mine_") and 0 <= value <= 1 for name, value in found.items())
    (row,) = csv.DictReader((tmp_path / "mine_results.csv").read_text().splitlines())
    assert (row["epoch"], row["steps"]) == ("1", "7")
    assert float(row[evaluator.primary_metric]) == pytest.approx(found[evaluator.primary_metric])
    evaluator(model, output_path=str(tmp_path))
    assert len((tmp_path / "mine_results.csv").read_text().splitlines()) == 3


def test_both_readings_are_scored_by_category(models, eval_streams):
    found = StreamRetrievalEvaluator(eval_streams, memory=("causal", "final"))(models("qwen3", "prefix"))
    assert found["causal_recall@10"] == found["final_recall@10"] == 1  # eight turns
    assert {"causal_ndcg@10_ku-last", "final_ndcg@10_single", "causal_mrr"} <= set(found)


def test_knowledge_updates_are_scored_in_order_jointly_and_as_they_evolve(models, eval_streams):
    found = KnowledgeUpdateEvaluator(eval_streams)(models("bert", "attention"))
    assert set(found) == {
        "order_acc", "order_chance", "recall@1", "mrr", "joint_first_and_last", "joint_recall@1", "joint_order",
        "order_acc_ku-first", "order_acc_ku-last",
    }  # fmt: skip


def test_a_model_without_memory_cannot_tell_first_from_last(base_folder, eval_streams):
    static = SentenceTransformer(str(base_folder("bert")), device="cpu")
    found = KnowledgeUpdateEvaluator(eval_streams)(static)
    assert found["joint_order"] == 0


def test_the_model_card_tells_the_figures(base_folder, eval_streams):
    from tiny_models import make_model

    model = make_model(base_folder("bert"), "attention")
    StreamRetrievalEvaluator(eval_streams, name="streams")(model)
    card = model._generate_model_card() if hasattr(model, "_generate_model_card") else str(model.model_card_data)
    assert "streams" in card
    assert "causal_recall@10" in card


def test_a_reranker_is_scored_beside_its_first_stage(models, eval_streams, base_folder):
    static = StaticSystem(StaticVectors(SentenceTransformer(str(base_folder("bert")), device="cpu")))
    found = StreamRerankingEvaluator(eval_streams, first=static, num_candidates=3)(
        EvoReranker(models("qwen3", "prefix"))
    )
    assert found["hit@5"] >= found["hit@1"]
    # Only the first three places were ranked anew, so no candidate came from below.
    assert found["recall@5"] == pytest.approx(found["first_recall@5"])
    assert "ndcg@10" in found


def test_a_file_is_as_good_as_streams(tmp_path, models, eval_streams):
    write_streams(tmp_path / "s.jsonl.gz", eval_streams)
    model = models("bert", "attention")
    assert StreamRetrievalEvaluator(tmp_path / "s.jsonl.gz")(model) == StreamRetrievalEvaluator(eval_streams)(model)


@pytest.mark.parametrize("kind", EVALUATORS[:2])
def test_streams_without_what_is_scored_are_refused(kind, eval_streams):
    from dataclasses import replace

    bare = [replace(eval_streams[0], queries=eval_streams[0].queries[-1:])]
    with pytest.raises(InputError, match="No question here has evidence"):
        kind(bare)
    single = [replace(eval_streams[0], queries=eval_streams[0].queries[3:4])]
    with pytest.raises(InputError, match="No question here has competing mentions"):
        KnowledgeUpdateEvaluator(single)


def test_unknown_choices_are_refused(eval_streams):
    with pytest.raises(InputError, match=r"memory=\('later',\) was given"):
        StreamRetrievalEvaluator(eval_streams, memory=("later",))
    with pytest.raises(InputError, match="need 3 turns or more"):
        TemporalProbeEvaluator(eval_streams, max_turns=2)


def test_stateless_similarity_is_scored_by_sentence_transformers_itself(tmp_path, models):
    path = tmp_path / "sts.csv"
    path.write_text("sentence1,sentence2,score\ni live in paris,i live in rome,4\nmy dog,the key,0.5\nok,ok,5\n")
    found = sts_evaluator(path)(models("bert", "attention"))
    assert set(found) >= {"sts_spearman_cosine"}
    path.write_text("sentence1,sentence2,score\n")
    with pytest.raises(InputError, match="holds no pairs"):
        sts_evaluator(path)
    path.write_text("a,b,1\na,b\n")
    with pytest.raises(InputError, match=r"line 2: 2 columns were found. Expected sentence1"):
        sts_evaluator(path)
    path.write_text("sentence1,sentence2,score\na,b,much\n")
    with pytest.raises(InputError, match="line 2, score: 'much' is no number"):
        sts_evaluator(path)


def test_the_trainer_takes_it(base_folder, eval_streams, tmp_path):
    pytest.importorskip("accelerate")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from tiny_models import make_model

    model = make_model(base_folder("bert"), "attention")
    pairs = Dataset.from_dict({"anchor": ["where do i live ?"] * 4, "positive": ["i live in paris", "rome", "a", "b"]})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=1, eval_strategy="steps", eval_steps=1, report_to="none", save_strategy="no",
        per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model,
        arguments,
        train_dataset=pairs,
        eval_dataset=pairs,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=StreamRetrievalEvaluator(eval_streams, name="dev"),
    )
    assert trainer.evaluate()["eval_dev_causal_recall@10"] == 1  # eight turns
