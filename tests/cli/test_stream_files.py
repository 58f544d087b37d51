"""One stream of a file is chosen by number or by name."""

from __future__ import annotations

import re

import pytest

from evoemb._errors import InputError
from evoemb.cli.stream_files import chosen_stream

NAMES = ["letters", "", "twice", "twice"]


@pytest.mark.parametrize(("choice", "index"), [(0, 0), (3, 3), ("letters", 0)])
def test_a_stream_is_chosen_by_number_or_name(choice, index):
    assert chosen_stream(NAMES, "f.jsonl", choice) == index


def test_the_only_stream_needs_no_choice():
    assert chosen_stream([""], "f.jsonl", None) == 0


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (None, "f.jsonl holds 4 streams, but one is expected. Choose one with --stream 0, 1, ... or a name."),
        (4, "--stream 4 was given, but f.jsonl holds the streams 0 to 3."),
        (-1, "--stream -1 was given, but f.jsonl holds the streams 0 to 3."),
        ("twice", "f.jsonl holds 2 streams of that name. Its names: letters, twice. Choose by number, 0 to 3."),
        ("nobody", "f.jsonl holds 0 streams of that name. Its names: letters, twice."),
    ],
)
def test_a_choice_that_names_no_single_stream_is_refused(choice, message):
    with pytest.raises(InputError, match=re.escape(message)):
        chosen_stream(NAMES, "f.jsonl", choice)
