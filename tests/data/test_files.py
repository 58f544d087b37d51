"""One reader for all text files: gzip or not, found from its content; errors name file and line."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import threading

import pytest

from evoemb._errors import InputError, StorageError
from evoemb.data import read_streams as read_stream_file
from evoemb.data.files import Item, json_items, lines_of, read_json, read_text, write_json_lines
from evoemb.evaluation.benchmarks.lmeb import read_lmeb
from evoemb.evaluation.benchmarks.passages import read_evotrain
from evoemb.evaluation.streams import read_streams
from evoemb.training.datasets import load_rows

META = {"turns": ["a", "q"], "evidence_turns": [0]}  # for the reader of EvoTrain
ROW = {"stream_id": "s", "turns": [{"text": "größer"}, {"text": "two"}], "queries": [], "meta": META}
LINE = json.dumps(ROW, ensure_ascii=False).encode() + b"\n"
READERS = {
    "cli": lambda path: list(read_stream_file(str(path))),
    "evaluation": read_streams,
    "training": lambda path: load_rows(str(path)),
    "benchmarks": read_evotrain,
}


@pytest.fixture
def write(tmp_path):
    def write_file(content: bytes, name: str = "rows.jsonl"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


FORMS = {
    "plain": LINE,
    "byte order mark": b"\xef\xbb\xbf" + LINE,
    "gzip": gzip.compress(LINE),
    "gzip with a byte order mark": gzip.compress(b"\xef\xbb\xbf" + LINE),
    "Windows line ends": LINE.replace(b"\n", b"\r\n"),
    "blank lines": b"\n  \n" + LINE + b"\n",
    "one list": json.dumps([ROW]).encode(),
    "one list, indented": json.dumps([ROW], indent=1).encode(),
    "one object, indented": json.dumps(ROW, indent=1).encode(),
}
NAMES = ["rows.jsonl", "rows.JSONL", "rows.ndjson", "rows.json", "rows.jsonl.gz"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_read_alike_whatever_the_file_is_called(write, form, name):
    path = write(FORMS[form], name)
    assert [item.value for item in json_items(path)] == [ROW]
    assert load_rows(str(path)) == [ROW]
    assert [stream.stream_id for stream in read_streams(path)] == ["s"]
    assert [stream.turns for stream in read_stream_file(str(path))] == [["größer", "two"]]


BROKEN = {
    "cut gzip": (gzip.compress(LINE)[:-12], "after line ", "the gzip data is damaged"),
    "cut at once": (gzip.compress(LINE)[:12], "after line 0", "the gzip data is damaged"),
    "changed gzip": (gzip.compress(LINE)[:-6] + b"\0\0\0\0\0\0", "after line 1", "the gzip data is damaged"),
    "not UTF-8": (LINE + b'{"a": "\xff"}', "line 2", "this is not UTF-8 text"),
    "broken JSON": (LINE + b"\n{]", "line 3", "this is not valid JSON"),
    "broken JSON over lines": (b'[\n{"turns"\n 3}]', "line 3", "this is not valid JSON"),
    "deep JSON": (b'{"a":' + b"[" * 200_000, "", "nested too deeply"),
    "deep JSON, later": (LINE + b'{"a":' + b"[" * 200_000, "line 2", "nested too deeply"),
    "a number of 5000 digits": (LINE + b'{"a":' + b"9" * 5000 + b"}", "line 2", "this JSON cannot be read"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_line(write, name, reader):
    content, place, told = BROKEN[name]
    path = write(content)
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        READERS[reader](path)
    assert str(caught.value).startswith(str(path))
    assert place in str(caught.value)


def test_standard_input_is_read_for_a_dash(monkeypatch):
    for content in (LINE, gzip.compress(LINE)):
        for read in (lambda: load_rows("-"), lambda: [item.value for item in json_items("-")]):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            assert read() == [ROW]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{\n]")))
    with pytest.raises(InputError, match="standard input, line 2: this is not valid JSON"):
        read_json("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("content", [LINE, gzip.compress(LINE)])
def test_a_pipe_is_opened_once(tmp_path, content):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert [stream.stream_id for stream in read_streams(tmp_path / "pipe")] == ["s"]
    writer.join()


def test_lines_are_read_one_at_a_time_and_keep_their_numbers(write):
    path = write(b"one\n\nthr\xe2\x80\xa8ee\n\xff\n")
    lines = lines_of(path)
    assert next(lines) == ("one", f"{path}, line 1")
    assert next(lines) == ("thr\u2028ee", f"{path}, line 3")
    with pytest.raises(InputError, match="line 4: this is not UTF-8"):
        next(lines)


def test_values_are_read_one_at_a_time_with_their_places(write):
    path = write(b'{"a": 1}\n\n{"a": 2}\n{')
    items = json_items(path)
    assert [next(items), next(items)] == [Item({"a": 1}, f"{path}, line 1"), Item({"a": 2}, f"{path}, line 3")]
    with pytest.raises(InputError, match="line 4"):
        next(items)
    assert list(json_items(write(b"[3, 4]"))) == [Item(3, f"{path}, element 0"), Item(4, f"{path}, element 1")]
    assert list(json_items(write(b" \n"))) == []
    assert list(json_items(write(b""))) == []


def test_what_is_written_is_read_back_and_is_the_same_every_time(tmp_path):
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.GZ"):
        write_json_lines(tmp_path / name, [ROW, "größer"])
        before = (tmp_path / name).read_bytes()
        assert before.startswith(b"\x1f\x8b") is name.lower().endswith("gz")
        assert [item.value for item in json_items(tmp_path / name)] == [ROW, "größer"]
        write_json_lines(tmp_path / name, [ROW, "größer"])
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(StorageError, match="cannot be written"):
        write_json_lines(tmp_path, [ROW])


def test_a_text_keeps_its_lines(write):
    assert read_text(write(b"\xef\xbb\xbfone\r\n\r\ntwo")) == "one\n\ntwo"


def test_a_folder_of_benchmark_files_is_read_from_gzip_too(tmp_path):
    files = {
        "corpus.jsonl": b'{"id": "d", "text": "a"}\n',
        "queries.jsonl": b'{"id": "q", "text": "x"}\n',
        "qrels.tsv": b"q\td\t1\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
    assert [query.evidence_turns for stream in read_lmeb(tmp_path) for query in stream.queries] == [(0,)]
