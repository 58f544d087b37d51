"""One reader of text files, whatever they are packed in; damage is told with the file's name."""

from __future__ import annotations

import gzip
import json

import pytest

from evoemb._errors import InputError
from evoemb.cli.stream_files import read_streams as read_any
from evoemb.data.files import lines_of, read_json_rows, read_text
from evoemb.evaluation.streams import read_streams
from evoemb.training.datasets import load_rows

STREAM = {"stream_id": "s", "turns": [{"text": "I live in Oslo."}], "queries": []}
ROW = {"turns": ["a", "b"], "query": "q", "evidence": [0]}
BOM = b"\xef\xbb\xbf"


def packed(content: bytes, how: str) -> bytes:
    return {"plain": content, "bom": BOM + content, "gzip": gzip.compress(content)}.get(how) or gzip.compress(
        BOM + content
    )


@pytest.mark.parametrize("how", ["plain", "bom", "gzip", "gzip and bom"])
@pytest.mark.parametrize("name", ["s.jsonl", "s.JSONL", "s.ndjson", "s.jsonl.gz", "s.txt"])
def test_every_reader_of_lines_takes_every_packing(tmp_path, how, name):
    path = tmp_path / name
    path.write_bytes(packed((json.dumps(STREAM) + "\n").encode(), how))
    assert read_text(path) == json.dumps(STREAM) + "\n"
    assert [line for _, line in lines_of(path)] == [json.dumps(STREAM) + "\n"]
    assert [stream.texts for stream in read_streams(path)] == [["I live in Oslo."]]
    assert [stream.turns for stream in read_any(str(path))] == [["I live in Oslo."]]
    path.write_bytes(packed((json.dumps(ROW) + "\n").encode(), how))
    assert read_json_rows(path) == [ROW]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.ndjson", "rows.json", "rows.jsonl.gz"])
def test_training_rows_are_found_by_any_of_their_names(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(packed((json.dumps(ROW) + "\n").encode(), "gzip and bom" if name.endswith("gz") else "bom"))
    assert load_rows(str(path)) == [ROW]


@pytest.mark.parametrize("read", [read_text, lambda path: list(lines_of(path)), read_streams, read_any, load_rows])
def test_a_cut_off_or_damaged_gzip_file_is_told_with_its_name(tmp_path, read):
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress((json.dumps(STREAM | ROW) + "\n").encode() * 50)
    for content in (whole[:40], whole[: len(whole) // 2], whole[:20] + b"\xff" * 8 + whole[28:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"rows\.jsonl\.gz.*(damaged or cut off|not UTF-8|not valid JSON)"):
            read(str(path))
