"""Every format of a stream file, found from content; every error names the file and the place."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoemb import evaluation
from evoemb._errors import InputError
from evoemb.data import FileStream, read_streams
from evoemb.data.streams import FORMATS

USER = {"role": "user", "content": "u"}
ASSISTANT = {"role": "assistant", "content": "a"}
EVOTRAIN = {"messages": [USER, ASSISTANT], "meta": {"turns": ["one", "two", "q?"], "evidence_turns": [0]}}
DOTTED = {"messages": [USER, ASSISTANT], "meta.turns": ["one", "two", "q?"], "meta.evidence_turns": [0]}
STREAM = {
    "stream_id": "s",
    "turns": [{"role": "user", "text": "one", "messages": [USER]}, {"text": "two"}],
    "queries": [],
}


def lines(*values: Any) -> str:
    return "\n".join(json.dumps(value) for value in values)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(content: str | bytes, name: str = "chat.txt") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


@pytest.mark.parametrize(
    ("content", "streams"),
    [
        (lines(USER, ASSISTANT, USER), [["User: u\nAssistant: a", "User: u"]]),
        (json.dumps([USER, ASSISTANT]), [["User: u\nAssistant: a"]]),
        (json.dumps([USER, ASSISTANT], indent=2), [["User: u\nAssistant: a"]]),
        (lines(USER), [["User: u"]]),
        (lines("one", "", "three"), [["one", "", "three"]]),
        (lines({"text": "one"}, "two", {"text": "three", "time": 3}), [["one", "two", "three"]]),
        (json.dumps(["one", {"text": "two"}]), [["one", "two"]]),
        (json.dumps("one"), [["one"]]),
        (lines("one\u2028still one", "two"), [["one\u2028still one", "two"]]),
        ('"one\u2028still one"\n"two"', [["one\u2028still one", "two"]]),
        (json.dumps(STREAM), [["one", "two"]]),
        (lines(STREAM, STREAM), [["one", "two"], ["one", "two"]]),
        (json.dumps({"turns": ["one", "two"]}), [["one", "two"]]),
        (json.dumps({"turns": [USER, ASSISTANT]}), [["User: u\nAssistant: a"]]),
        (json.dumps({"messages": [USER, ASSISTANT]}), [["User: u\nAssistant: a"]]),
        (json.dumps([["one", "two"], [USER]]), [["one", "two"], ["User: u"]]),
        (lines(["one", "two"], ["three"]), [["one", "two"], ["three"]]),
        ("one\n\n  \n two \r\nthree", [["one", " two ", "three"]]),
        ("[12:30] hello\n[12:31] there", [["[12:30] hello", "[12:31] there"]]),
        ('"Hello," she said.\n"Bye."', [['"Hello," she said.', '"Bye."']]),
        ("42\n43", [["42", "43"]]),
        ("null", [["null"]]),
        ("7", [["7"]]),
        ("\n\n" + lines("one", "two") + "\n\n", [["one", "two"]]),
        ("\ufeffone\ntwo", [["one", "two"]]),
    ],
)
def test_the_format_is_told_from_the_content(write: Any, content: str, streams: list[list[str]]) -> None:
    assert read_streams(write(content)) == [FileStream(turns) for turns in streams]


@pytest.mark.parametrize("row", [EVOTRAIN, DOTTED, {"meta": {"turns": ["one", "two", "q?"]}}])
def test_the_last_of_an_evotrain_rows_turns_is_its_query(write: Any, row: Any) -> None:
    assert read_streams(write(json.dumps(row, indent=1))) == [FileStream(["one", "two"], query="q?")]
    assert read_streams(write(lines(row, row))) == [FileStream(["one", "two"], query="q?")] * 2


def test_utterances_are_read_with_their_speakers_as_an_evaluation_reads_them(write: Any) -> None:
    said = [{"text": "one", "speaker": "Mia"}, {"text": "Jo: two", "speaker": "Jo"}, {"text": "three"}]
    for form, turns in {"utterances": ["Mia: one", "Jo: two", "three"], "pairs": ["one", "Jo: two", "three"]}.items():
        path = write(json.dumps({"stream_id": "s", "form": form, "turns": said, "queries": []}))
        assert read_streams(path)[0].turns == turns
        assert evaluation.read_streams(path)[0].texts == turns


def test_the_name_of_a_file_does_not_matter(write: Any) -> None:
    assert read_streams(write("plain text", "chat.jsonl")) == [FileStream(["plain text"])]
    assert read_streams(write(lines(USER), "chat.txt")) == [FileStream(["User: u"])]


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("eins\nzwei größer".encode())))
    assert read_streams("-") == [FileStream(["eins", "zwei größer"])]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match="standard input holds no turns: it is empty"):
        read_streams("-")


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("", "", "holds no turns: it is empty"),
        (" \n\n", "", "holds no turns: it is empty"),
        ("[]", "", "holds no turns: it is an empty list"),
        (b"fine\nnot \xff fine", ", line 2", "this is not UTF-8 text. Convert the file to UTF-8"),
        ("\n" + lines(USER) + "\n{", ", line 3", "this is not valid JSON"),
        (
            '[\n {"text": "one"},\n {"text" "two"}\n]',
            ", line 3",
            "this is not valid JSON (Expecting ':' delimiter, column 10",
        ),
        ('{"text": "one"', ", line 1", 'name the format "text" if it is plain text'),
        (lines(USER, {"role": "narrator", "content": "s"}), ", line 2", "has the role 'narrator', but the roles of"),
        (lines({"content": "s"}), "", 'has no "role"'),
        (lines(USER, {"role": "user"}), ", line 2", 'this object is neither a message ("role", "content")'),
        (lines({"role": "user", "content": [1]}), "", "a content part is 1, expected"),
        (lines({"text": None}), "", "a string is expected here, but null was found"),
        (lines(USER, "one"), ", line 2", "this is a turn, but {file}, line 1 is a chat message"),
        (json.dumps(["one", STREAM]), ", element 1", "this is an evoemb stream, but {file}, element 0 is a turn"),
        (lines({"a": 1}), "", 'Its keys: "a"'),
        (lines({}), "", "Its keys: none"),
        (lines("one", 3), ", line 2", "a turn, a message or a stream is expected, but a number was found"),
        (json.dumps(["one", True]), ", element 1", "but true or false was found"),
        (
            json.dumps([[["one"]]]),
            ", element 0, element 0",
            "a turn or a message is expected here, but a list was found",
        ),
        (json.dumps([["one"], []]), ", element 1", "this list of turns is empty"),
        (json.dumps({"turns": []}), ", turns", "this list of turns is empty"),
        (
            json.dumps({"turns": {"text": "one"}}),
            ", turns",
            "a list of turns is expected here, but an object was found",
        ),
        (json.dumps({"turns": ["one", {"text": 5}]}), ", turns, element 1", "but a number was found"),
        (json.dumps({"meta": {"turns": ["q?"]}}), ", meta.turns", "only the query is there"),
        (json.dumps({"meta": {"turns": ["one", {"text": "q"}]}}), ", meta.turns, element 1", "but an object was found"),
        (json.dumps({"messages": "one"}), ", messages", "a list of turns is expected here, but a string was found"),
        (lines("fine", "half \ud83d"), ", line 2", r"holds a lone surrogate, '\ud83d' at position 5"),
        ("[" * 200_000, "", "this JSON is nested too deeply"),
        ('["one", ' + "9" * 5000 + "]", "", "this JSON cannot be read"),
    ],
)
def test_an_error_names_the_file_and_the_place(write: Any, content: str | bytes, place: str, message: str) -> None:
    path = write(content)
    with pytest.raises(InputError, match=re.escape(message.replace("{file}", path))) as caught:
        read_streams(path)
    assert str(caught.value).startswith(path + place)


@pytest.mark.parametrize(
    ("content", "stream_format"),
    [
        (lines(USER), "messages"),
        (lines("one"), "turns"),
        (lines(EVOTRAIN), "evotrain"),
        (lines(STREAM), "stream"),
    ],
)
def test_a_forced_format_reads_that_format_and_no_other(write: Any, content: str, stream_format: str) -> None:
    path = write(content)
    assert read_streams(path, stream_format) == read_streams(path)
    assert read_streams(path, "text") == [FileStream([content])]
    for other in set(FORMATS) - {"auto", "text", stream_format}:
        with pytest.raises(InputError, match=f"but the format {other!r} was given"):
            read_streams(path, other)


@pytest.mark.parametrize("content", ["plain text", "42"])
def test_plain_text_is_refused_where_json_is_forced(write: Any, content: str) -> None:
    with pytest.raises(InputError, match=r"this is not valid JSON|but a number was found"):
        read_streams(write(content), "turns")


def test_a_missing_file_is_the_systems_error() -> None:
    with pytest.raises(FileNotFoundError):
        read_streams("nowhere.jsonl")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    turns=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6), as_array=st.booleans()
)
def test_json_turns_are_read_as_they_were_written(write: Any, turns: list[str], as_array: bool) -> None:
    content = json.dumps(turns, ensure_ascii=False) if as_array else lines(*turns)
    assert read_streams(write(content)) == [FileStream(turns)]
