"""Training with the stock trainer and with ours."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from evoemb import EvoEmbedding, InputError, InputTypeError, StateError, UnsupportedBackboneError
from evoemb.losses import CachedStreamLoss, CombinedLoss, EvidenceContrastiveLoss, MemoryLanguageModelingLoss
from evoemb.modules.adapters import AdapterConfig, add_adapter
from evoemb.training import (
    EvoEmbeddingTrainer,
    EvoEmbeddingTrainingArguments,
    StreamCollator,
    TokenBudgetBatchSampler,
    load_rows,
    set_trainable,
)
from evoemb.training.arguments import paper_arguments
from tiny_models import make_model
from training import distributed_worker
from training.streams import evotrain_row, rows

KINDS = [("qwen3", "prefix"), ("bert", "attention")]
# Newer transformers name it anew and warn about the old name.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in SentenceTransformerTrainingArguments.__dataclass_fields__
)
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}

Build = Callable[..., EvoEmbedding]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def build(request: pytest.FixtureRequest, base_folder: Callable[[str], Path]) -> Build:
    """Make equal fresh models of a kind."""
    kind, reader = request.param
    return lambda **memory: make_model(base_folder(kind), reader, trained=False, **memory)


@pytest.fixture
def decoder(base_folder: Callable[[str], Path]) -> EvoEmbedding:
    return make_model(base_folder("qwen3"), "prefix", trained=False)


@pytest.fixture
def encoder(base_folder: Callable[[str], Path]) -> EvoEmbedding:
    return make_model(base_folder("bert"), "attention", trained=False)


def arguments(folder: Path, **changes: Any) -> EvoEmbeddingTrainingArguments:
    return EvoEmbeddingTrainingArguments(str(folder), **{**QUIET, "max_steps": 3, "learning_rate": 1e-2, **changes})


def logged(trainer: EvoEmbeddingTrainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_stock_trainer_trains_with_our_collator(build, tmp_path):
    model = build()
    before = parameters(model)
    data = datasets.Dataset.from_list(rows())
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(tmp_path), **QUIET, max_steps=3, learning_rate=1e-2, per_device_train_batch_size=3
        ),
        data,
        eval_dataset=data,
        loss=EvidenceContrastiveLoss(model),
        data_collator=StreamCollator(model),
    )
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    moved = {name for name, value in parameters(model).items() if not torch.equal(value, before[name])}
    assert any(".memory." in name for name in moved)
    assert any(".retriever." in name for name in moved)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name in moved)


def test_our_trainer_needs_rows_and_nothing_else(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build()
    trainer = EvoEmbeddingTrainer(model, arguments(tmp_path), rows())
    trainer.train()
    assert len(logged(trainer)) == 3
    assert all(math.isfinite(loss) for loss in logged(trainer))


def test_the_loss_falls(build, tmp_path):
    trainer = EvoEmbeddingTrainer(
        build(), arguments(tmp_path, max_steps=25, per_device_train_batch_size=4), rows(4), loss=EvidenceContrastiveLoss
    )
    trainer.train()
    losses = logged(trainer)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_both_of_the_papers_losses_are_the_default_where_answers_can_be_given(base_folder, tmp_path):
    model = make_model(base_folder("qwen3"), "prefix", trained=False)
    model[0].model.config.tie_word_embeddings = True
    trainer = EvoEmbeddingTrainer(model, arguments(tmp_path), rows())
    assert isinstance(trainer.loss, CombinedLoss)
    trainer.train()
    assert len(logged(trainer, "evidence_contrastive")) == len(logged(trainer, "memory_language_modeling")) == 3
    parts = zip(logged(trainer, "evidence_contrastive"), logged(trainer, "memory_language_modeling"), strict=True)
    assert logged(trainer) == pytest.approx([sum(part) for part in parts], abs=2e-3)


def test_the_contrastive_loss_alone_is_the_default_without_answers_or_head(decoder, encoder, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "evoemb")
    silent = [{**row, "answer": None} for row in rows()]
    assert type(EvoEmbeddingTrainer(encoder, arguments(tmp_path), rows()).loss) is EvidenceContrastiveLoss
    assert type(EvoEmbeddingTrainer(decoder, arguments(tmp_path), silent).loss) is EvidenceContrastiveLoss
    assert type(EvoEmbeddingTrainer(decoder, arguments(tmp_path), rows()).loss) is EvidenceContrastiveLoss
    assert "The memory loss is left out" in caplog.text


def test_inference_after_training_has_the_trained_weights(build, tmp_path):
    """Fused optimizers change weights without counting it, and inference keeps what it made of them."""
    model = build()
    turns = rows(1)[0]["turns"]
    before = model.encode(turns, stateful=True, convert_to_tensor=True)
    state = model.new_state()
    trainer = EvoEmbeddingTrainer(model, arguments(tmp_path), rows(), loss=EvidenceContrastiveLoss)
    trainer.train()
    after = model.encode(turns, stateful=True, convert_to_tensor=True)
    trainer.save_model(str(tmp_path / "final"))
    again = EvoEmbedding(str(tmp_path / "final"), device="cpu").encode(turns, stateful=True, convert_to_tensor=True)
    assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(after, again, rtol=0, atol=1e-5)
    with pytest.raises(StateError, match="fingerprint"):
        model.encode(turns, stateful=True, state=state)


def test_losses_that_wrap_losses_train(build, tmp_path):
    for wrap in (
        lambda model: MatryoshkaLoss(model, EvidenceContrastiveLoss(model), [32, 8]),
        lambda model: CachedStreamLoss(model, EvidenceContrastiveLoss(model, in_batch_negatives=True)),
    ):
        trainer = EvoEmbeddingTrainer(build(), arguments(tmp_path, max_steps=2), rows(), loss=wrap)
        trainer.train()
        assert all(math.isfinite(loss) for loss in logged(trainer))


def test_accumulated_batches_equal_one_large_batch(build, tmp_path):
    grown = []
    for size, steps in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = build(lora_dropout=0.0)
        trainer = EvoEmbeddingTrainer(
            model,
            arguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                optim="sgd",
                learning_rate=1e-3,
                max_grad_norm=0,
                max_steps=1,
            ),
            rows(4),
            loss=EvidenceContrastiveLoss,
        )
        without_dropout(model)
        trainer.train()
        grown.append((logged(trainer), parameters(model)))
    (first_loss, first), (second_loss, second) = grown
    assert first_loss == pytest.approx(second_loss, abs=1e-4)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=name)


def without_dropout(model: EvoEmbedding) -> None:
    model[0].model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


class StopAt(TrainerCallback):
    """End training after a step, as a crash between two checkpoints would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_resumed_run_gives_the_same_numbers(build, tmp_path):
    def run(folder: str, *, resume: str | None = None, stop: int | None = None) -> tuple[EvoEmbedding, list[float]]:
        model = build()
        args = arguments(tmp_path / folder, max_steps=6, save_strategy="steps", save_steps=3)
        callbacks = [] if stop is None else [StopAt(stop)]
        trainer = EvoEmbeddingTrainer(model, args, rows(4), loss=EvidenceContrastiveLoss, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return model, logged(trainer)

    whole, losses = run("whole")
    run("parts", stop=3)  # in the middle of the second epoch
    resumed, again = run("parts", resume=str(tmp_path / "parts" / "checkpoint-3"))
    assert len(losses) == 6
    assert again == pytest.approx(losses, abs=1e-6)
    for (name, first), (_, second) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=1e-6, msg=name)


class OneWord(BaseEvaluator):
    """Score a model by the step it is at, best at the second."""

    primary_metric = "score"
    higher_is_better = True

    def __call__(self, model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        metrics = {"score": {1: 0.1, 2: 0.9}.get(steps, 0.3)}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def test_the_best_checkpoint_is_loaded_at_the_end_and_training_stops_early(build, tmp_path):
    model = build()
    every_step = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    args = arguments(
        tmp_path, max_steps=9, load_best_model_at_end=True, metric_for_best_model="eval_score", **every_step
    )
    trainer = EvoEmbeddingTrainer(
        model, args, rows(), rows(2), evaluator=OneWord(), callbacks=[EarlyStoppingCallback(2)]
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    best = EvoEmbedding(str(tmp_path / "checkpoint-2"), device="cpu")
    for (name, first), (_, second) in zip(best.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=0, msg=name)


def test_a_trained_model_saves_with_a_card_of_data_metrics_and_losses(build, tmp_path):
    model = build()
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=3)
    trainer = EvoEmbeddingTrainer(model, args, rows(), rows(2), evaluator=OneWord())
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text(encoding="utf-8")
    for told in ("8 samples", "| Training Loss |", "| score", "- `learning_rate`: 0.01", "training loss  ", " -> "):
        assert told in card
    assert "weight_decay" not in card  # was not changed
    again = EvoEmbedding(str(tmp_path / "final"), device="cpu")
    turns = rows(1)[0]["turns"]
    torch.testing.assert_close(
        again.encode(turns, stateful=True, convert_to_tensor=True),
        model.encode(turns, stateful=True, convert_to_tensor=True),
    )


def test_bf16_and_checkpointing_train(build, tmp_path):
    trainer = EvoEmbeddingTrainer(build(), arguments(tmp_path, bf16=True, **{CHECKPOINTING: True}), rows())
    trainer.train()
    assert all(math.isfinite(loss) for loss in logged(trainer))
    assert all(math.isfinite(norm) for norm in logged(trainer, "grad_norm"))


def test_bf16_losses_are_those_of_float32_within_its_precision(build, tmp_path):
    first = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        model = build(lora_dropout=0.0)
        without_dropout(model)
        trainer = EvoEmbeddingTrainer(
            model, arguments(tmp_path, bf16=bf16, max_steps=1), rows(4), loss=EvidenceContrastiveLoss
        )
        trainer.train()
        first.append(logged(trainer)[0])
    assert first[1] == pytest.approx(first[0], rel=0.1)


def test_parameter_groups_have_learning_rates_of_their_own(decoder, tmp_path):
    args = arguments(tmp_path, learning_rate=0.0, learning_rate_mapping={"memory_queries": 1e-2})
    before = parameters(decoder)
    EvoEmbeddingTrainer(decoder, args, rows(), loss=EvidenceContrastiveLoss).train()
    moved = {name for name, value in parameters(decoder).items() if not torch.equal(value, before[name])}
    assert moved == {"0.reader.memory_queries"}


def test_parameters_are_frozen_and_thawed_by_name(decoder, tmp_path):
    args = arguments(tmp_path, unfreeze=[r"layers\.1\."], freeze=["lora_.*retriever"])
    before = parameters(decoder)
    EvoEmbeddingTrainer(decoder, args, rows(), loss=EvidenceContrastiveLoss).train()
    moved = {name for name, value in parameters(decoder).items() if not torch.equal(value, before[name])}
    assert any("layers.1." in name and "lora" not in name for name in moved)
    assert not any("retriever" in name for name in moved)
    assert not any("layers.0." in name and "lora" not in name for name in moved)


def test_the_whole_base_can_be_trained_and_is_saved(encoder, tmp_path):
    args = arguments(tmp_path, unfreeze=["."])
    before = parameters(encoder)
    trainer = EvoEmbeddingTrainer(encoder, args, rows(), loss=EvidenceContrastiveLoss)
    trainer.train()
    changed = [name for name, value in parameters(encoder).items() if not torch.equal(value, before[name])]
    assert any("embeddings.word_embeddings" in name for name in changed)
    trainer.save_model(str(tmp_path / "final"))
    plain = SentenceTransformer(str(tmp_path / "final"), device="cpu", trust_remote_code=True)
    torch.testing.assert_close(
        plain[0].model.get_input_embeddings().weight, encoder[0].model.get_input_embeddings().weight
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"freeze": ["nothing_like_it"]}, "freeze='nothing_like_it' matches no parameter"),
        ({"unfreeze": ["("]}, r"unfreeze='\(' is not a regular expression"),
        ({"freeze": ["."]}, "nothing to train"),
    ],
)
def test_names_that_cannot_be_frozen_or_thawed_are_told(base_folder, options, told):
    with pytest.raises(InputError, match=told):
        set_trainable(make_model(base_folder("qwen3"), "prefix"), **options)


def test_a_streaming_data_set_trains(encoder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(8)))
    source = load_rows(str(path), streaming=True)
    trainer = EvoEmbeddingTrainer(encoder, arguments(tmp_path), source)
    trainer.train()
    assert len(logged(trainer)) == 3
    with pytest.raises(InputError, match="max_batch_tokens=40 was given with a streaming data set"):
        EvoEmbeddingTrainer(encoder, arguments(tmp_path, max_batch_tokens=40), source)


def test_several_data_sets_train_with_a_loss_each(encoder, tmp_path):
    named = {"chat": rows(4), "documents": rows(6)}
    losses = {name: EvidenceContrastiveLoss(encoder, temperature=0.05 * (1 + len(name))) for name in named}
    trainer = EvoEmbeddingTrainer(encoder, arguments(tmp_path), named, loss=losses)
    trainer.train()
    assert len(logged(trainer)) == 3


def test_evotrain_rows_train(decoder, tmp_path):
    trainer = EvoEmbeddingTrainer(
        decoder, arguments(tmp_path), [evotrain_row()] * 4, loss=lambda model: memory_loss(model)
    )
    trainer.train()
    assert logged(trainer)[0] > 0


def memory_loss(model: EvoEmbedding) -> MemoryLanguageModelingLoss:
    return MemoryLanguageModelingLoss(model, model[0].model.get_input_embeddings().weight.clone())


def test_broken_rows_are_told_before_the_first_step(encoder, tmp_path):
    with pytest.raises(InputError, match="1 of 9 rows are broken:\n- Row 8, field 'evidence': 99 was given"):
        EvoEmbeddingTrainer(encoder, arguments(tmp_path), [*rows(8), {**rows(1)[0], "evidence": [99]}])
    trainer = EvoEmbeddingTrainer(encoder, arguments(tmp_path, bad_rows="skip"), [*rows(8), {}])
    assert len(trainer.train_dataset) == 8


def test_another_model_or_several_gpus_in_one_process_are_refused(encoder, base_folder, tmp_path):
    with pytest.raises(InputTypeError, match="expected EvoEmbedding"):
        EvoEmbeddingTrainer(SentenceTransformer(str(base_folder("bert")), device="cpu"), arguments(tmp_path), rows())
    args = arguments(tmp_path)
    args._n_gpu = 4
    with pytest.raises(InputError, match="torchrun"):
        EvoEmbeddingTrainer(encoder, args, rows())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bad_rows": "ignore"}, "bad_rows='ignore'"),
        ({"max_batch_tokens": 0}, "max_batch_tokens=0"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        arguments(tmp_path, **options)


@pytest.mark.parametrize(("options", "told"), [({"row_limit": 0}, "row_limit=0")])
def test_collator_options_out_of_range_are_refused(encoder, options, told):
    with pytest.raises(InputError, match=told):
        StreamCollator(encoder, **options)


def test_timestamps_are_written_into_turns_where_asked(encoder):
    row = {"turns": ["i live in paris"], "timestamps": ["2024-05-01"], "query": "where", "evidence": [0]}
    plain = StreamCollator(encoder)([row])["stream_input_ids"]
    dated = StreamCollator(encoder, timestamps="yesterday : {turn}")([row])["stream_input_ids"]
    assert dated.shape[1] == plain.shape[1] + 2


def test_quantised_weights_are_refused_by_name():
    layer = nn.Linear(4, 4)
    del layer.weight
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    base = nn.Sequential(nn.Sequential(layer))
    with pytest.raises(UnsupportedBackboneError, match=r"0\.0 holds torch\.uint8 weights.* bfloat16"):
        add_adapter(base, "memory", AdapterConfig(rank=2), ["0.0"])


def test_the_papers_arguments_keep_its_global_batch():
    assert paper_arguments(8)["gradient_accumulation_steps"] == 2
    assert paper_arguments(1)["gradient_accumulation_steps"] == 16
    assert paper_arguments(1, learning_rate=1e-4)["learning_rate"] == 1e-4


def test_batches_keep_their_token_budget_and_every_row():
    lengths = [5, 100, 7, 30, 30, 30, 8, 6]
    sampler = TokenBudgetBatchSampler(lengths, 4, lengths=lengths, max_tokens=60, num_processes=1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert all(len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= 60 for batch in batches)
    assert list(sampler) == batches
    sampler.set_epoch(1)
    assert list(sampler) != batches
    assert sorted(map(sorted, sampler)) == sorted(map(sorted, batches))


def test_processes_get_as_many_batches_of_like_length():
    lengths = list(range(1, 12))
    sampler = TokenBudgetBatchSampler(lengths, 2, lengths=lengths, max_tokens=1000, num_processes=2)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert abs(max(first) - max(second)) <= 2


def test_one_length_a_row_is_asked_for():
    with pytest.raises(InputError, match="1 lengths were given for 2 rows"):
        TokenBudgetBatchSampler([1, 2], 2, lengths=[1], max_tokens=10)


def test_a_token_budget_trains(encoder, tmp_path):
    trainer = EvoEmbeddingTrainer(encoder, arguments(tmp_path, max_batch_tokens=40), rows(8))
    trainer.train()
    assert len(logged(trainer)) == 3


WORKER = Path(distributed_worker.__file__)


def run_in_two(folder: Path, bases: list[str]) -> None:
    """Train on every base in one launch of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(WORKER), str(folder), *bases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(base_folder, tmp_path):
    bases = [part for kind, reader in KINDS for part in (str(base_folder(kind)), reader)]
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    distributed_worker.main(tmp_path / "1", *bases)
    run_in_two(tmp_path / "2", bases)
    alone, shared = (json.loads((tmp_path / name / "result.json").read_text("utf-8")) for name in ("1", "2"))
    for one, two in zip(alone, shared, strict=True):
        assert (one["processes"], two["processes"]) == (1, 2)
        assert len(one["losses"]) == 4
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert two["sums"].keys() == one["sums"].keys()
        assert two["sums"] != one["start"]
        for name, value in one["sums"].items():
            assert two["sums"][name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
