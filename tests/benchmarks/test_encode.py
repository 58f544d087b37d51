"""The benchmark of streams against texts alone runs on every kind of model it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tiny_models import make_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks come with the repository alone")


@pytest.fixture
def encode(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import encode

    yield encode
    sys.modules.pop("encode")


def row_of(printed: str) -> list[float]:
    return [float(number.replace(",", "")) for number in printed.splitlines()[-1].split()]


def test_a_text_model_stands_against_sentence_transformers(encode, base_folder, capsys):
    encode.main(["--model", str(base_folder("bert")), "--turns", "5", "--repeats", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "against sentence-transformers; texts: made" in printed
    assert "BertModel, 1 threads, batch 32" in printed
    turns, words, static, stream, ratio, best, growth = row_of(printed)
    assert turns == 5
    assert min(words, static, stream, ratio, best) > 0
    assert growth >= 0


@pytest.mark.parametrize("trained", [True, False])
def test_a_saved_evoemb_model_stands_against_itself(encode, models, base_folder, trained, tmp_path, capsys):
    model = models("bert", "attention") if trained else make_model(base_folder("bert"), "attention", trained=False)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    turn = {"role": "user", "speaker": "", "time": "", "text": "i live in rome"}
    texts = tmp_path / "streams.jsonl"
    texts.write_text(json.dumps({"stream_id": "one", "turns": [turn, {**turn, "text": "ok"}], "queries": []}) + "\n")
    encode.main(["--model", str(tmp_path / "saved"), "--turns", "3", "5", "--texts", str(texts), "--repeats", "1"])
    printed = capsys.readouterr().out
    assert f"against itself without memory; texts: {texts}" in printed
    turns, words, *_ = row_of(printed)
    assert (turns, words) == (5, pytest.approx(2.8))


def test_turns_of_a_file_start_again_where_there_are_too_few(encode):
    sgd = str(BENCHMARKS.parent / "examples" / "data" / "sgd_dialogue.jsonl")
    turns = encode.turns_in(sgd, 70)
    assert len(turns) == 70
    assert turns[61:] == turns[:9]
    assert turns[0].startswith("User: Can you show me the alarms")
