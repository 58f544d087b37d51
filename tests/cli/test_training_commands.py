"""``evoemb data`` and ``evoemb train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from evoemb import EvoEmbedding, InputError
from evoemb.cli import main
from evoemb.training import DataSummary, TrainingConfig, parse_row
from evoemb.training.summary import distance_bins
from training.streams import evotrain_row, rows

Command = Callable[..., SimpleNamespace]


@pytest.fixture
def evoemb(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line; gives status, stdout and stderr."""

    def run(*args: str) -> SimpleNamespace:
        capsys.readouterr()  # what the fixtures wrote
        status = main(list(args))
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


def written(path: Path, data: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in data), encoding="utf-8")
    return str(path)


@pytest.fixture
def train_file(tmp_path: Path) -> str:
    return written(tmp_path / "rows.jsonl", rows(6))


@pytest.fixture
def base(base_folder: Callable[[str], Path]) -> str:
    return str(base_folder("bert"))


def test_data_check_sums_a_file_up(evoemb, train_file, base):
    done = evoemb("data", "check", train_file, "--model", base, "--device", "cpu", "--quiet")
    assert (done.status, done.err) == (0, "")
    for told in (
        "streams                   6",
        "turns                     40",
        "tokens",
        "broken rows               0",
    ):
        assert told in done.out
    assert "turns between evidence and query" in done.out
    assert "#" in done.out.splitlines()[-1]


def test_data_check_gives_the_same_as_json(evoemb, train_file):
    found = json.loads(evoemb("data", "check", train_file, "--json").out)
    assert (found["streams"], found["turns"], found["queries_with_an_answer"]) == (6, 40, 6)
    assert (found["broken_rows"], found["errors"]) == (0, [])


def test_data_check_names_broken_rows_and_fails(evoemb, tmp_path):
    file = written(
        tmp_path / "rows.jsonl", [*rows(1), evotrain_row(), {"turns": ["a"]}, {**rows(1)[0], "evidence": [9]}]
    )
    done = evoemb("data", "check", file)
    assert done.status == 2
    assert "streams                   2" in done.out
    assert "Row 2, field 'query': nothing was given" in done.err
    assert "Row 3, field 'evidence': 9 was given, but indices from 0 to 4 are expected" in done.err
    assert "2 of 4 rows" in done.err


def test_data_check_draws_a_picture(evoemb, train_file, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "evidence.png"
    assert evoemb("data", "check", train_file, "--picture", str(picture)).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_evidence_distances_are_counted_in_powers_of_two():
    assert distance_bins([0, 1, 2, 3, 4, 9]) == [("0", 1), ("1", 1), ("2-3", 2), ("4-7", 1), ("8-15", 1)]
    assert distance_bins([]) == []
    summary = DataSummary.of([parse_row({**rows(1)[0], "evidence": [0, 4], "asked_at": 5})])
    assert sorted(summary.distances) == [0, 4]
    assert summary.histogram()[0].split() == ["0", "#" * 40, "1"]


def test_documents_become_passages_with_evidence(evoemb, tmp_path):
    text = "Ada was born in Oslo and lives there even now. " + "She likes to walk by the sea every single day. " * 4
    questions = [{"query": "Where was she born?", "answer": "Oslo"}, {"query": "Whose?", "answer": "nobody's"}]
    source = written(tmp_path / "documents.jsonl", [{"text": text, "questions": questions}])
    done = evoemb("data", "from-documents", source, str(tmp_path / "out.jsonl"), "--chunk-words", "9")
    assert done.status == 0, done.err
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert " ".join(row["turns"]).split() == text.split()
    assert row["query"] == ["Where was she born?"]
    assert row["evidence"] == [[0]]
    assert all(turn.endswith(".") for turn in row["turns"])
    parse_row(row)


def test_documents_may_overlap_and_say_where_the_answer_starts(evoemb, tmp_path):
    words = [f"w{number}" for number in range(30)]
    text = " ".join(words)
    question = {"query": "which", "answer": "w10", "start": text.index("w10")}
    source = written(tmp_path / "d.jsonl", [{"text": text, "questions": [question]}])
    options = ("--chunk-words", "10", "--overlap-words", "2")
    assert evoemb("data", "from-documents", source, str(tmp_path / "out.jsonl"), *options).status == 0
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert [turn.split()[0] for turn in row["turns"]] == ["w0", "w8", "w16", "w24"]
    assert row["evidence"] == [[1]]


def test_chats_become_streams_with_evidence(evoemb, tmp_path):
    chat = {
        "messages": evotrain_row()["messages"][:4],
        "questions": [
            {"query": "where now", "message_ids": [2], "answer": "rome"},
            {"query": "where first", "message_ids": [0, 1], "asked_at": 1},
        ],
    }
    source = written(tmp_path / "chats.jsonl", [chat])
    done = evoemb("data", "from-chats", source, str(tmp_path / "out.jsonl"))
    assert done.status == 0, done.err
    now, first = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert now["turns"] == ["User: i live in paris\nAssistant: noted", "User: i moved to rome\nAssistant: ok"]
    assert (now["evidence"], now["asked_at"], first["evidence"], first["asked_at"]) == ([1], 2, [0], 1)
    parse_row(now)
    parse_row(first)


@pytest.mark.parametrize(
    ("action", "row", "told"),
    [
        (
            "from-chats",
            {"messages": evotrain_row()["messages"], "questions": [{"query": "q", "message_ids": [9]}]},
            "marks message 9",
        ),
        ("from-chats", {"questions": []}, "lacks a field"),
        ("from-documents", {"questions": []}, "has no text"),
    ],
)
def test_documents_and_chats_that_cannot_be_converted_are_told(evoemb, tmp_path, action, row, told):
    done = evoemb("data", action, written(tmp_path / "in.jsonl", [row]), str(tmp_path / "out.jsonl"))
    assert done.status == 2
    assert told in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_train_runs_from_options_alone(evoemb, train_file, base, tmp_path):
    folder = tmp_path / "run"
    done = evoemb(
        *("train", "--train", train_file, "--output", str(folder), "--model", base, "--device", "cpu"),
        *("--max-steps", "2", "--learning-rate", "1e-3", "--set", "training.save_strategy='no'"),
        *("--set", "training.logging_steps=1"),
    )
    assert done.status == 0, done.err
    assert "2 steps. Training loss" in done.err
    trained = EvoEmbedding(str(folder / "final"), device="cpu")
    assert trained.describe()["memory_trained"]


def test_train_runs_from_a_file_and_options_stand_above_it(evoemb, train_file, base, tmp_path):
    folder = tmp_path / "run"
    config = {
        "train": train_file,
        "eval": train_file,
        "output": "elsewhere",
        "model": base,
        "device": "cpu",
        "memory": {"num_latents": 3, "capacity_latents": 6, "lora_rank": 2},
        "loss": "evidence_contrastive",
        "loss_kwargs": {"in_batch_negatives": True},
        "cached_streams": 1,
        "recipe": "paper",
        "training": {"bf16": False, "max_steps": 9, "use_cpu": True, "save_steps": 1, "eval_strategy": "steps"},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = ("train", str(tmp_path / "train.yaml"), "--output", str(folder), "--quiet", "--max-steps")
    assert evoemb(*command, "1").status == 0
    assert (folder / "checkpoint-1").is_dir()
    assert evoemb(*command, "2", "--resume").status == 0
    assert (folder / "checkpoint-2").is_dir()
    state = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2
    assert EvoEmbedding(str(folder / "final"), device="cpu").memory_config.num_latents == 3


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"output": "x"}, "has no train"),
        ({"train": "x", "output": "y", "modle": "z"}, "'modle' in the configuration is unknown. Did you mean 'model'?"),
        ({"train": "x", "output": "y", "loss": "l2"}, "loss: 'l2' was given"),
        ({"train": "x", "output": "y", "recipe": "mine"}, "recipe: 'mine' was given"),
        ({"train": "x", "output": "y", "training": {"lr": 1}}, "'lr' in training is unknown"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(values, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        TrainingConfig.from_mapping(values)


def test_an_argument_of_the_wrong_kind_is_told(tmp_path):
    config = TrainingConfig("x", str(tmp_path), training={"eval_strategy": "sometimes"})
    with pytest.raises(InputError, match=r"training: .*sometimes"):
        config.arguments()


@pytest.mark.parametrize(("content", "told"), [("- a", "holds list, expected names"), ("a: [", "is no YAML")])
def test_a_file_that_is_no_configuration_is_told(evoemb, tmp_path, content, told):
    path = tmp_path / "train.yaml"
    path.write_text(content, encoding="utf-8")
    done = evoemb("train", str(path))
    assert done.status == 2
    assert told in done.err


def test_a_set_without_a_value_is_told(evoemb):
    done = evoemb("train", "--set", "loss")
    assert done.status == 2
    assert "--set loss was given" in done.err
