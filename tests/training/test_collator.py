"""StreamCollator: options are checked at once, and nothing is cut or left out without a word."""

from __future__ import annotations

import logging

import pytest

from evoemb import InputError
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments, StreamCollator
from training.streams import rows


@pytest.fixture
def encoder(models):
    return models("bert", "attention")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("[{time}] {turn}", r"cannot be filled in \(KeyError: 'time'\)"),
        ("{} {turn}", "cannot be filled in"),
        ("{turn", "cannot be filled in"),
        ("{turn.text}", "cannot be filled in"),
        ("{timestamp}", r'has no "\{turn\}"'),
        ("{{turn}}", r'has no "\{turn\}"'),
    ],
)
def test_a_template_that_no_turn_can_be_written_with_is_refused_at_once(encoder, template, reason):
    with pytest.raises(InputError, match=reason):
        StreamCollator(encoder, timestamps=template)


def test_a_text_that_training_cuts_is_named_once(encoder, caplog):
    collator = StreamCollator(encoder)
    long = "i moved from rome to lyon " * 30
    batch = [{"turns": ["i live in paris", long, long], "query": "where", "evidence": [0]}]
    with caplog.at_level(logging.WARNING, "evoemb"):
        collator(batch)
        collator(batch)
    assert len(caplog.messages) == 1
    assert "A text of the training data ('i moved from rome" in caplog.messages[0]
    assert "but the model reads 64. The rest was cut" in caplog.messages[0]


@pytest.mark.parametrize(("name", "value"), [("prompts", "where : "), ("router_mapping", {"turns": "document"})])
def test_training_arguments_that_streams_do_not_use_are_refused(encoder, tmp_path, name, value):
    args = EvoEmbeddingTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **{name: value})
    with pytest.raises(InputError, match=rf"{name} of the training arguments has no effect on streams. Set model.prom"):
        EvoEmbeddingTrainer(encoder, args, rows(2))


def test_an_argument_that_a_collator_or_sampler_of_ones_own_overrules_is_refused(encoder, tmp_path):
    def arguments(**given):
        return EvoEmbeddingTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **given)

    with pytest.raises(InputError, match="bptt_turns=2 of the training arguments has no effect beside data_collator"):
        EvoEmbeddingTrainer(encoder, arguments(bptt_turns=2), rows(2), data_collator=StreamCollator(encoder))
    EvoEmbeddingTrainer(encoder, arguments(bptt_turns=2), rows(2), data_collator=StreamCollator(encoder, bptt_turns=2))
    with pytest.raises(InputError, match=r"batch_sampler=.*no_duplicates.* was given with max_batch_tokens=64"):
        EvoEmbeddingTrainer(encoder, arguments(batch_sampler="no_duplicates", max_batch_tokens=64), rows(2))
