"""The memory on the command line: no turn is read into a state twice by mistake."""

from __future__ import annotations

import json

import pytest

from evoemb import MemoryState, StateError
from evoemb.cli import main, reading_log
from evoemb.cli.reading_log import ReadingLog
from evoemb.state.file import read_state, write_state
from laws import assert_same_states

QUESTION = "where do i live ?"


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "tiny-evoemb"
    models("bert", "attention").save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Write turns to a file and run a command on it with one state; gives status, standard output and errors."""
    (state := tmp_path / "s.safetensors").unlink(missing_ok=True)

    def run(turns, *args, command=("search",)):
        (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
        words = [str(tmp_path / "chat.jsonl"), *([QUESTION] if command == ("search",) else [])]
        common = ["--model", folder, "--device", "cpu", "--quiet", "--state", str(state)]
        status = main([*command, *words, *common, *args])
        return status, *capsys.readouterr()

    return run


def test_turns_that_a_state_has_read_are_refused_and_the_state_stays(run, stream, tmp_path):
    assert run(stream)[0] == 0
    before = (tmp_path / "s.safetensors").read_bytes()
    status, out, error = run(stream)
    assert (status, out) == (2, "")
    assert "chat.jsonl: these turns were already read into" in error
    assert "pass --again" in error
    assert (tmp_path / "s.safetensors").read_bytes() == before


def test_the_other_command_and_a_file_that_has_grown_are_refused_too(run, stream, tmp_path):
    assert run(stream[:8])[0] == 0
    status, _, error = run(stream, "-o", str(tmp_path / "a.npy"), command=("encode",))
    assert status == 2
    assert "the first 8 of these 13 turns were already read" in error
    assert not (tmp_path / "a.npy").exists()


def test_turns_of_an_earlier_call_are_known_behind_later_ones(run, stream):
    assert [run(stream[:4])[0], run(stream[4:])[0], run(stream[:4])[0]] == [0, 0, 2]


def test_turns_are_read_again_when_told(run, stream, tmp_path):
    run(stream[:4])
    assert run(stream[:4], "--again")[0] == 0
    assert MemoryState.load(tmp_path / "s.safetensors").num_turns == 8
    assert run(stream[:4])[0] == 2


def test_a_greeting_that_begins_two_files_is_no_repetition(run, stream):
    assert run(["ok"])[0] == 0
    assert run(["ok", *stream[:2]])[0] == 0
    assert run(["ok"])[0] == 2


def test_a_state_from_elsewhere_has_read_nothing_of_note(run, stream, tmp_path):
    run(stream)
    path = tmp_path / "s.safetensors"
    MemoryState.load(path).save(path)
    assert run(stream)[0] == 0


def test_the_log_stays_small(monkeypatch):
    monkeypatch.setattr(reading_log, "_MAX_CALLS", 3)
    log = ReadingLog()
    for number in range(9):
        log = log.with_turns([f"turn {number}"])
    assert len(ReadingLog.of_notes(log.notes).calls) == 3


def test_turns_are_told_apart_by_where_they_end():
    log = ReadingLog().with_turns(["ab", "c"])
    log.check(["a", "bc"], "chat", "state")


def test_a_damaged_note_is_refused(models, tmp_path):
    state = models("bert", "attention").new_state()
    for note in ("no list", "[[1]]", "5", '[["many", "x"]]'):
        write_state(tmp_path / "s", state.spec, state.snapshot(), {"evoemb.cli.read": note})
        with pytest.raises(StateError, match="of the turns it has read is damaged"):
            ReadingLog.of_notes(read_state(tmp_path / "s").notes)


def test_a_chat_may_go_on_in_another_file_between_a_message_and_its_answer(folder, stream, tmp_path, capsys):
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(stream[:6])]

    def read(number, messages, command, *args):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join(map(json.dumps, messages)), encoding="utf-8")
        assert main([*command, str(path), *args, "--model", folder, "--device", "cpu", "--quiet"]) == 0
        return capsys.readouterr().out

    states = {name: str(tmp_path / name) for name in ("pieces", "encoded", "whole")}
    read(0, messages, ["search"], QUESTION, "--state", states["whole"])
    read(1, messages[:3], ["search"], QUESTION, "--state", states["pieces"])
    found = read(2, messages[3:], ["search"], QUESTION, "--state", states["pieces"], "--json")
    for number, part in enumerate((messages[:3], messages[3:]), 3):
        read(number, part, ["encode"], "-o", str(tmp_path / "a.npy"), "--state", states["encoded"])
    hits = {hit["corpus_id"]: hit["text"] for hit in json.loads(found)["results"]}
    assert hits[0] == f"User: {stream[2]}"  # the answer, which stands in the second file, is empty
    for name in ("pieces", "encoded"):
        assert_same_states(MemoryState.load(states[name]), MemoryState.load(states["whole"]))
