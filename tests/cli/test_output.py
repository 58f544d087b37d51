"""What is printed: aligned, cut to the terminal, and harmless to it."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoemb._errors import StateError
from evoemb.cli import output
from evoemb.ranking import Hit


def hit(turn: int, score: float, text: str) -> Hit:
    return {"corpus_id": turn, "score": score, "text": text}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_a_turn_is_shown_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_hits("q", [hit(7, 0.5, "User: hi\n\nAssistant: hello")])
    assert capsys.readouterr().out.splitlines()[2] == " 0.5000     7  User: hi / Assistant: hello"


def test_characters_that_steer_a_terminal_are_not_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_hits("\x1b]0;title\x07", [hit(0, 1.0, "\x1b[2Jgone \u202eback")])
    output.write_fields({"model": "a\x1b[31mb"})
    assert not {"\x1b", "\x07", "\u202e"} & set(capsys.readouterr().out)


def test_wide_characters_count_as_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_hits("q", [hit(0, 1.0, "東京" * 40)], [hit(0, 1.0, "e\u0301" * 9)])
    line = capsys.readouterr().out.splitlines()[3]
    left, right = line.split("…")
    assert len(left) + left.count("東") + left.count("京") <= 35
    assert right.endswith("e\u0301" * 9)


@given(st.text(max_size=80), st.integers(min_value=1, max_value=40))
def test_a_cut_text_is_never_wider_than_asked(text: str, width: int) -> None:
    cut = output._cut(text, width)
    assert output._columns(cut) <= width
    assert "\n" not in cut


def test_a_narrow_terminal_still_shows_some_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    output.write_hits("q", [hit(0, 1.0, "twenty characters ok")], [hit(1, 0.5, "twenty characters ok")])
    assert capsys.readouterr().out.count("twenty characters ok") == 2


def test_facts_are_aligned_and_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_fields({"a": 1234567, "longer": True, "b": False, "c": 0.5, "d": "x"})
    assert capsys.readouterr().out == "a       1,234,567\nlonger  yes\nb       no\nc       0.5\nd       x\n"
    output.write_fields({})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", '{"text": "größe"}'), ("ascii", r'{"text": "gr\u00f6\u00dfe"}')]
)
def test_json_can_be_written_in_any_encoding(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.write_json({"text": "größe"})
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding) == f"{shown}\n"
    assert json.loads(raw.getvalue().decode(encoding)) == {"text": "größe"}


def test_a_table_can_be_written_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.write_hits("größe", [hit(0, 1.0, "größe" * 20)])
    sys.stdout.flush()
    assert b"Query: gr?" in raw.getvalue()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (StateError("It does not fit."), "evoemb: error: It does not fit.\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            "evoemb: error: a.txt: No such file or directory\n",
        ),
        (OSError("no network"), "evoemb: error: no network\n"),
        (OSError(), "evoemb: error: OSError\n"),
    ],
)
def test_an_error_is_one_line_without_a_trace(error: Exception, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.write_error(error)
    assert capsys.readouterr().err == shown
