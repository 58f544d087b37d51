"""``evoemb convert`` writes a model that loads, prints what became of the keys, and refuses what it cannot read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evoemb import EvoEmbedding, load_upstream
from evoemb.cli import main, session

DATA = Path(__file__).parents[1] / "parity" / "data"
CHECKPOINT, TOKENIZER = DATA / "qwen3" / "checkpoint", DATA / "tokenizer"
TURNS = ["User: I live in Paris.", "User: I moved to Rome."]


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    """``--quiet`` lowers the libraries' logging for the process, which a test must not do to the next one."""
    loggers = [logging.getLogger(name) for name in session.LIBRARIES]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def test_the_result_loads_identically_and_every_key_is_accounted_for(tmp_path, capsys):
    folder = tmp_path / "model"
    assert main(["convert", str(CHECKPOINT), str(folder), "--tokenizer", str(TOKENIZER)]) == 0
    out, err = capsys.readouterr()
    assert out == "128 keys mapped, 24 kept for generate and native, 0 unused, 0 missing\n"
    assert f'Load it with EvoEmbedding("{folder}")' in err
    expected = load_upstream(CHECKPOINT, tokenizer=TOKENIZER, device="cpu").encode(TURNS, stateful=True)
    found = EvoEmbedding(str(folder), device="cpu").encode(TURNS, stateful=True)
    assert np.array_equal(found, expected)


def test_all_keys_are_named_on_request(tmp_path, capsys):
    arguments = ["--tokenizer", str(TOKENIZER), "--all-keys", "--quiet", "--dtype", "auto"]
    assert main(["convert", str(CHECKPOINT), str(tmp_path / "model"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "mapped: memory_queries -> reader.memory_queries" in out
    assert "kept: emb_model.model.norm.weight" in out


@pytest.mark.parametrize(("source", "told"), [(TOKENIZER, "has no config.json"), (CHECKPOINT, "No tokenizer")])
def test_what_cannot_be_converted_is_told(source, told, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "model")]) == 2
    assert told in capsys.readouterr().err
