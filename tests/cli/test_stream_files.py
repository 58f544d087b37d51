"""One stream of a file is chosen by number or by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evoemb._errors import InputError
from evoemb.cli.stream_files import read_one_stream
from evoemb.data import FileStream


def test_one_of_several_streams_is_chosen_by_number(tmp_path: Path) -> None:
    path = str(tmp_path / "two.jsonl")
    Path(path).write_text(f"{json.dumps(['one'])}\n{json.dumps(['two'])}")
    assert read_one_stream(path, choice=1) == FileStream(["two"])
    with pytest.raises(InputError, match=r"holds 2 streams, but one is expected[.] Choose one with --stream"):
        read_one_stream(path)
    for wrong in (2, -1):
        with pytest.raises(InputError, match=f"--stream {wrong} was given, but .* holds the streams 0 to 1"):
            read_one_stream(path, choice=wrong)
