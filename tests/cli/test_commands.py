"""The commands from end to end, with a tiny model; what they print, write and refuse."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from evoemb import EvoEmbedding, MemoryState, UnsupportedBackboneError
from evoemb.cli import main, search, session

QUESTION = "where do i live"
UTF8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}


@pytest.fixture(scope="session")
def model_folder(models: Callable[[str, str], EvoEmbedding], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli") / "tiny-evoemb"
    models("bert", "attention").save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    """``--quiet`` lowers the libraries' logging for the process, which a test must not do to the next one."""
    loggers = [logging.getLogger(name) for name in session.LIBRARIES]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def tiny(models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    return models("bert", "attention")


@pytest.fixture
def chat(tmp_path: Path, stream: list[str]) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, stream)), encoding="utf-8")
    return str(path)


@pytest.fixture
def evoemb(model_folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command line on the tiny model; gives status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(command: str, *args: str, model: str | None = model_folder) -> SimpleNamespace:
        options = ["--model", model, "--device", "cpu"] if model and command != "info" else []
        capsys.readouterr()  # a model that a test has just built may have shown its bars
        status = main([command, *options, *args])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


# --- search -----------------------------------------------------------------------------------------------------------


def test_search_ranks_as_retrieve_does(evoemb: Any, chat: str, stream: list[str], tiny: EvoEmbedding) -> None:
    done = evoemb("search", chat, QUESTION, "what has the dog lost", "--json", "--top-k", "4", "--quiet")
    assert (done.status, done.err) == (0, "")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [row["query"] for row in found] == [QUESTION, "what has the dog lost"]
    for row in found:
        expected = tiny.retrieve(stream, row["query"], top_k=4)
        assert [(hit["corpus_id"], hit["text"]) for hit in row["results"]] == [
            (hit["corpus_id"], hit["text"]) for hit in expected
        ]
        assert [hit["score"] for hit in row["results"]] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)


def test_search_with_final_memory_ranks_otherwise(
    evoemb: Any, chat: str, stream: list[str], tiny: EvoEmbedding
) -> None:
    done = evoemb("search", chat, QUESTION, "--json", "--memory", "final", "--quiet")
    scores = [hit["score"] for hit in json.loads(done.out)["results"]]
    assert scores == pytest.approx(
        [hit["score"] for hit in tiny.retrieve(stream, QUESTION, top_k=5, memory="final")], abs=1e-5
    )
    causal = evoemb("search", chat, QUESTION, "--json", "--quiet")
    assert scores != pytest.approx([hit["score"] for hit in json.loads(causal.out)["results"]], abs=1e-4)


@pytest.mark.parametrize("scoring", ["vector", "late", "hybrid"])
def test_search_scores_as_it_is_told(
    evoemb: Any, chat: str, stream: list[str], tiny: EvoEmbedding, scoring: Any
) -> None:
    pytest.importorskip("bm25s")
    done = evoemb("search", chat, QUESTION, "--scoring", scoring, "--json", "--quiet")
    found = json.loads(done.out)["results"]
    expected = tiny.retrieve(stream, QUESTION, top_k=5, scoring=scoring)
    assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-3)


def test_search_prints_an_aligned_table_cut_to_the_terminal(evoemb: Any, chat: str) -> None:
    done = evoemb("search", chat, QUESTION, "--top-k", "13")
    lines = done.out.splitlines()
    assert lines[0] == f"Query: {QUESTION}"
    assert lines[1] == "  score  turn  text"
    assert len(lines) == 2 + 13 + 1
    assert all(re.fullmatch(r" ?[ -]\d\.\d{4}  [ \d]{4}  .+", line) for line in lines[2:-1])
    assert any(line.endswith("  3  (empty)") for line in lines)
    assert max(map(len, lines)) <= 80
    assert any(line.endswith("…") for line in lines)
    assert done.err == "Read 13 turns.\n"


def test_search_shows_the_ranking_without_memory_beside_it(
    evoemb: Any, chat: str, stream: list[str], tiny: EvoEmbedding
) -> None:
    done = evoemb("search", chat, QUESTION, "--static", "--top-k", "2", "--quiet")
    lines = done.out.splitlines()
    assert lines[1].split() == ["with", "memory", "without", "memory"]
    assert lines[2].split() == ["score", "turn", "text"] * 2
    assert max(map(len, lines)) <= 80
    done = evoemb("search", chat, QUESTION, "--static", "--json", "--top-k", "13", "--quiet")
    static = json.loads(done.out)["static_results"]
    plain = tiny.similarity(tiny.encode_query(QUESTION), tiny.encode_document(stream))[0]
    assert {hit["corpus_id"]: hit["score"] for hit in static} == pytest.approx(
        dict(enumerate(plain.tolist())), abs=1e-5
    )
    assert static == sorted(static, key=lambda hit: -hit["score"])


def test_a_search_in_two_halves_with_a_state_scores_as_one(evoemb: Any, tmp_path: Path, stream: list[str]) -> None:
    halves, whole, state = tmp_path / "half.jsonl", tmp_path / "whole.jsonl", tmp_path / "state.safetensors"
    whole.write_text("\n".join(map(json.dumps, stream)), encoding="utf-8")
    at_once = json.loads(evoemb("search", str(whole), QUESTION, "--json", "--top-k", "13", "--quiet").out)["results"]
    scores = {hit["corpus_id"]: hit["score"] for hit in at_once}

    halves.write_text("\n".join(map(json.dumps, stream[:8])), encoding="utf-8")
    first = evoemb("search", str(halves), QUESTION, "--state", str(state))
    assert first.err.endswith(f"Read 8 turns; the memory is saved in {state}.\n")
    halves.write_text("\n".join(map(json.dumps, stream[8:])), encoding="utf-8")
    second = evoemb("search", str(halves), QUESTION, "--state", str(state), "--json")
    assert "Read 5 turns after 8 remembered from before (only the 5 of this call are ranked)" in second.err
    for hit in json.loads(second.out)["results"]:
        assert hit["score"] == pytest.approx(scores[hit["corpus_id"] + 8], abs=1e-5)
    assert MemoryState.load(state).num_turns == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.jsonl", "state.safetensors", "whole.jsonl"]


def test_a_state_behind_a_link_is_replaced_and_the_link_stays(evoemb: Any, chat: str, tmp_path: Path) -> None:
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target)
    assert evoemb("search", chat, QUESTION, "--state", str(link), "--quiet").status == 0
    assert link.is_symlink()
    assert MemoryState.load(target).num_turns == 13


def test_a_call_that_fails_leaves_the_state_file_as_it_was(
    evoemb: Any, chat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.safetensors"
    evoemb("search", chat, QUESTION, "--state", str(state), "--quiet")
    before = state.read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(state))

    monkeypatch.setattr("os.fsync", disk_full)
    done = evoemb("search", chat, QUESTION, "--state", str(state), "--quiet", "--again")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"evoemb: error: {state} cannot be written: No space left on device. The file that was")
    assert state.read_bytes() == before


def test_the_query_of_an_evotrain_file_is_asked_unless_one_is_given(evoemb: Any, tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps({"meta": {"turns": ["i live in paris", "ok", "where do i live ?"]}}), encoding="utf-8")
    done = evoemb("search", str(path), "--json", "--quiet")
    assert json.loads(done.out)["query"] == "where do i live ?"
    assert {hit["corpus_id"] for hit in json.loads(done.out)["results"]} == {0, 1}
    done = evoemb("search", str(path), "who am i", "--json", "--quiet")
    assert json.loads(done.out)["query"] == "who am i"


def test_queries_may_stand_behind_options(evoemb: Any, chat: str) -> None:
    done = evoemb("search", chat, "one", "--top-k", "1", "two", "--quiet", "--json", "three")
    assert [json.loads(line)["query"] for line in done.out.splitlines()] == ["one", "two", "three"]


def test_a_stream_can_come_from_standard_input(evoemb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"i live in paris\nok")))
    done = evoemb("search", "-", QUESTION, "--json", "--quiet")
    assert sorted(hit["text"] for hit in json.loads(done.out)["results"]) == ["i live in paris", "ok"]


def test_one_of_several_streams_is_searched(evoemb: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text('["i live in paris"]\n["i live in rome"]', encoding="utf-8")
    done = evoemb("search", str(path), QUESTION, "--stream", "1", "--json", "--quiet")
    assert [hit["text"] for hit in json.loads(done.out)["results"]] == ["i live in rome"]


# --- encode -----------------------------------------------------------------------------------------------------------


def test_encode_writes_what_the_model_gives(
    evoemb: Any, chat: str, stream: list[str], tmp_path: Path, tiny: EvoEmbedding
) -> None:
    expected = tiny.encode(stream, stateful=True)
    done = evoemb("encode", chat, "-o", str(tmp_path / "a.npy"))
    assert done.status == 0
    assert done.err == f"Wrote the embeddings of 13 turns (dimension 32) to {tmp_path / 'a.npy'}.\n"
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-5)
    evoemb("encode", chat, "-o", str(tmp_path / "a.safetensors"), "--quiet")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        np.testing.assert_allclose(file.get_tensor("embeddings"), expected, atol=1e-5)
        metadata = file.metadata()
    assert metadata.pop("fingerprint") == tiny.state_spec.fingerprint
    assert metadata.pop("model")
    assert metadata == {"memory": "causal", "num_streams": "1", "num_turns": "13"}


def test_encode_numbers_the_streams_of_a_file(evoemb: Any, tmp_path: Path, tiny: EvoEmbedding) -> None:
    streams = [["i live in paris", "i moved to rome"], ["ok"]]
    path, out = tmp_path / "many.jsonl", tmp_path / "many.safetensors"
    path.write_text("\n".join(map(json.dumps, streams)), encoding="utf-8")
    assert evoemb("encode", str(path), "-o", str(out), "--memory", "final", "--quiet").status == 0
    with safe_open(out, "np") as file:
        for index, expected in enumerate(tiny.encode(streams, stateful=True, memory="final")):
            np.testing.assert_allclose(file.get_tensor(f"embeddings.{index}"), expected, atol=1e-5)
        assert (file.metadata()["num_streams"], file.metadata()["num_turns"]) == ("2", "3")


def test_encode_goes_on_from_a_state(evoemb: Any, tmp_path: Path, stream: list[str], tiny: EvoEmbedding) -> None:
    path, state, out = tmp_path / "half.jsonl", tmp_path / "state.safetensors", tmp_path / "a.npy"
    for turns in (stream[:8], stream[8:]):
        path.write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
        evoemb("encode", str(path), "-o", str(out), "--state", str(state), "--quiet")
    np.testing.assert_allclose(np.load(out), tiny.encode(stream, stateful=True)[8:], atol=1e-5)


def test_encode_leaves_no_half_written_file(
    evoemb: Any, chat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.npy"
    out.write_bytes(b"old")

    def fail(handle: int) -> None:
        os.write(handle, b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    assert evoemb("encode", chat, "-o", str(out), "--quiet").status == 2
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "chat.jsonl"]


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_shows_what_the_model_says_of_itself(evoemb: Any, model_folder: str, tiny: EvoEmbedding) -> None:
    done = evoemb("info", model_folder, "--json")
    facts = json.loads(done.out)
    assert set(facts) == set(tiny.describe())
    assert facts["memory_reader"] == "attention"
    lines = evoemb("info", model_folder).out.splitlines()
    assert len(lines) == len(facts)
    assert len({re.match(r"[a-z ]+?  +", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    assert any(re.fullmatch("memory trained +(yes|no)", line) for line in lines)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["search", "{chat}"], "No QUERY was given, and {chat} carries none. Add a question"),
        (["search", "{chat}", " "], "An empty QUERY was given"),
        (["search", "{chat}", "half \udce4"], "QUERY holds a lone surrogate"),
        (["search", "nowhere.jsonl", "q"], "nowhere.jsonl: No such file or directory"),
        (["search", "{folder}", "q"], "{folder} is a folder, but no unpacked export"),
        (["search", "{bad}", "q"], "{bad}, line 2 has the role"),
        (["search", "{many}"], "{many} holds 2 streams, but one is expected"),
        (["search", "{chat}", "q", "--state", "{folder}/no/s"], "--state {folder}/no/s: no file can be written there"),
        (["search", "{chat}", "q", "--state", "{folder}"], "--state {folder}: no file can be written there"),
        (["search", "{chat}", "q", "--state", "{bad}"], "{bad} cannot be read as a memory state"),
        (["search", "{chat}", "q", "--state", "{two}"], "{two} holds the memory of 2 streams"),
        (["search", "{chat}", "q", "--state", "{other}"], "This state was made by"),
        (["search", "{chat}", "q", "--device", "nonsense"], "--device nonsense cannot be used"),
        (["encode", "{chat}", "-o", "{folder}/a.txt"], "-o {folder}/a.txt: this name ends in neither"),
        (["encode", "{chat}", "-o", "{folder}/no/a.npy"], "-o {folder}/no/a.npy: no file can be written there"),
        (["encode", "{many}", "-o", "{folder}/a.npy"], "holds 2 streams, but a .npy file takes one"),
        (
            ["encode", "{many}", "-o", "{folder}/a.safetensors", "--state", "{folder}/s"],
            "but --state is the memory of one",
        ),
        (["info", "{folder}/nowhere"], "{folder}/nowhere"),
        (["info", "{folder}"], "{folder} cannot be loaded"),
    ],
)
def test_a_refused_request_says_why_on_standard_error(
    evoemb: Any, models: Any, chat: str, tmp_path: Path, args: list[str], message: str
) -> None:
    names = {"chat": chat, "folder": str(tmp_path)}
    names |= {name: str(tmp_path / f"{name}.file") for name in ("bad", "many", "two", "other")}
    Path(names["bad"]).write_text('{"role": "user", "content": "u"}\n{"role": "narrator", "content": "s"}')
    Path(names["many"]).write_text('["one"]\n["two"]')
    models("bert", "attention").new_state(2).save(names["two"])
    models("bert", "prefix").new_state().save(names["other"])
    done = evoemb(*(arg.format(**names) for arg in args))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("evoemb: error: ")
    assert message.format(**names) in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["find"], "invalid choice: 'find'"),
        (["search", "f", "q", "--top-k", "0"], "0 was given, but at least 1 is expected"),
        (["search", "f", "q", "--top-k", "many"], "invalid positive_int value: 'many'"),
        (["search", "f", "q", "--topics", "q"], "unrecognized arguments: --topics"),
        (["search", "f", "q", "--memory", "all"], "invalid choice: 'all'"),
        (["search", "f", "q", "--scoring", "best"], "invalid choice: 'best'"),
        (["encode", "f"], "the following arguments are required: -o/--output"),
        (["encode", "f", "g", "-o", "a.npy"], "unrecognized arguments: g"),
    ],
)
def test_unknown_arguments_are_refused_by_argparse(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unsuitable_model_is_refused_in_its_own_words(
    evoemb: Any, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedBackboneError("No memory fits into this one.")

    monkeypatch.setattr("evoemb.model.EvoEmbedding", refuse)
    done = evoemb("search", chat, "q")
    assert (done.status, done.err) == (2, "evoemb: error: No memory fits into this one.\n")


def test_a_terminal_sees_progress_unless_quiet(evoemb: Any, chat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "13/13" in evoemb("search", chat, "q").err
    assert evoemb("search", chat, "q", "--quiet").err == ""


def test_help_names_the_formats_and_what_a_state_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Only the turns of this call are embedded and ranked" in shown
    assert "Its format is found from its content, not from its name" in shown
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"evoemb \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "active"])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["info", str(tmp_path / "nowhere")])
    assert os.environ["OMP_WAIT_POLICY"] == (given or "passive")


def test_the_command_line_is_there_before_torch_reads_how_threads_wait() -> None:
    source = "import sys, evoemb.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_an_interrupt_ends_quietly(evoemb: Any, chat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "load_model", interrupted)
    done = evoemb("search", chat, "q")
    assert (done.status, done.out, done.err) == (130, "", "")


def test_a_defect_is_not_hidden(evoemb: Any, chat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(search, "_rank_with_memory", broken)
    with pytest.raises(ZeroDivisionError):
        evoemb("search", chat, "q")


def test_a_reader_that_leaves_early_is_no_error(model_folder: str, tmp_path: Path) -> None:
    state, chat = tmp_path / "state.safetensors", tmp_path / "long.jsonl"
    chat.write_text("\n".join([json.dumps("i live in rome " * 1000)] * 13), encoding="utf-8")
    options = ["--model", model_folder, "--device", "cpu", "--quiet", "--state", str(state), "--json", "--top-k", "13"]
    # Each line of the answer is longer than what a pipe takes in before it is read.
    command = [sys.executable, "-m", "evoemb.cli", "search", str(chat), "q", "where", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=UTF8)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), complaints) == (141, b"")
    assert MemoryState.load(state).num_turns == 13  # what was read is kept, whatever became of the output


def test_cuda_is_refused_where_there_is_none(evoemb: Any, chat: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = evoemb("search", chat, "q", "--device", "cuda")
    assert done.status == 2
    assert "--device cuda cannot be used" in done.err
