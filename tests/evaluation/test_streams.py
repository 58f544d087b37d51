"""Files of streams: what is read, what is written back, and what is refused with line and field."""

from __future__ import annotations

import gzip
import json

import pytest

from evaluation_values import stream_value
from evoemb import InputError
from evoemb.evaluation.schema import parse_stream
from evoemb.evaluation.streams import read_streams, write_streams


def written(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
def test_streams_survive_writing_and_reading(tmp_path, eval_streams, name):
    write_streams(tmp_path / name, eval_streams)
    assert read_streams(tmp_path / name) == eval_streams


def test_gzip_is_told_by_content(tmp_path):
    (tmp_path / "plain.jsonl").write_bytes(gzip.compress(json.dumps(stream_value()).encode()))
    assert read_streams(tmp_path / "plain.jsonl")[0].stream_id == "s0"


def test_the_same_streams_give_the_same_file(tmp_path, eval_streams):
    for name in ("a.gz", "b.gz"):
        write_streams(tmp_path / name, eval_streams)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_speaker_is_read_where_a_turn_is_one_utterance():
    turns = [{"text": "hello", "speaker": "Ann"}, {"text": "hi"}]
    utterances = parse_stream({"stream_id": "u", "form": "utterances", "turns": turns}, "here")
    pairs = parse_stream({"stream_id": "u", "form": "pairs", "turns": turns}, "here")
    assert (utterances.texts, pairs.texts) == (["Ann: hello", "hi"], ["hello", "hi"])


def test_a_speaker_who_stands_in_the_text_already_is_not_named_twice():
    turns = [{"text": "Ann: hello", "speaker": "Ann"}, {"text": "Ann: is here", "speaker": "Bo"}]
    stream = parse_stream({"stream_id": "u", "form": "utterances", "turns": turns}, "here")
    assert stream.texts == ["Ann: hello", "Bo: Ann: is here"]


def test_a_value_that_has_come_back_is_no_rival_where_it_stood_before():
    value = changed_query(evidence_turns=[6], mentions=[0, 3, 6], same_value_turns=[0])
    stream = parse_stream(value, "here")
    assert stream.queries[1].rivals == (3,)
    assert parse_stream(stream.to_json(), "here") == stream


def test_a_question_without_evidence_is_kept_but_not_scored(eval_streams):
    stream = eval_streams[0]
    assert len(stream.queries) == 5
    assert [query.qid for query in stream.scored] == ["last@8", "first@8", "last@5", "lamp"]


def changed_query(**changes):
    value = stream_value()
    value["queries"][1] = {**value["queries"][1], **changes}
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed_query(evidence_turns=[8]), r"line 2, queries\[1\].evidence_turns: 8 is not among the turns seen"),
        (changed_query(evidence_turns=[-1]), r"line 2, queries\[1\].evidence_turns: -1 is not among"),
        (changed_query(evidence_turns=[0, 0]), r"line 2, queries\[1\].evidence_turns: \[0, 0\] names a turn twice"),
        (changed_query(evidence_turns="0"), r"line 2, queries\[1\].evidence_turns: a list is expected"),
        (changed_query(asked_at=9), r"line 2, queries\[1\].asked_at: 9 was found, but the stream has 8 turns"),
        (changed_query(asked_at=True), r"line 2, queries\[1\].asked_at: True was found"),
        (changed_query(query="  "), r"line 2, queries\[1\].query: it is empty"),
        (changed_query(query=None), r"line 2, queries\[1\]: there is no 'query'"),
        (changed_query(qid="last@8"), r"line 2, queries\[1\].qid: 'last@8' stands twice"),
        (changed_query(mentions=[99]), r"line 2, queries\[1\].mentions: 99 is not among"),
        (changed_query(same_value_turns=[8]), r"line 2, queries\[1\].same_value_turns: 8 is not among"),
        (stream_value("s1", turns=[]), r"line 2, turns: this list is empty"),
        (stream_value("s1", turns=[{"text": 3}]), r"line 2, turns\[0\].text: a string is expected here, but int"),
        (stream_value("s1", turns=[{"text": "a\ud800"}]), r"turns\[0\].text: character 1 is half of a surrogate"),
        (stream_value("s1", turns=["hello"]), r"line 2, turns\[0\]: an object is expected here, but str"),
        (stream_value("s1", turns=[{"text": "a", "messages": [{"role": "user"}]}]),
         r"messages\[0\]: there is no 'content'"),
        (stream_value("", turns=[{"text": "a"}], queries=[]), r"line 2, stream_id: it is empty"),
        (stream_value("other"), r"line 2, stream_id: 'other' stands in line 1 already"),
        ({"turns": []}, r"line 2, turns: this list is empty"),
        ([1], r"line 2: an object is expected here, but list"),
    ],
)  # fmt: skip
def test_a_malformed_stream_is_told_with_line_and_field(tmp_path, value, message):
    path = written(tmp_path / "bad.jsonl", stream_value("other"), value)
    with pytest.raises(InputError, match=message):
        read_streams(path)


def test_other_broken_files_are_told(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="holds no streams: it is empty"):
        read_streams(tmp_path / "empty")
    (tmp_path / "json").write_text("{]")
    with pytest.raises(InputError, match="line 1: this is not valid JSON"):
        read_streams(tmp_path / "json")
    (tmp_path / "latin").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match="line 1: this is not UTF-8"):
        read_streams(tmp_path / "latin")
    whole = gzip.compress(json.dumps(stream_value()).encode() * 50)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the gzip data is damaged"):
        read_streams(tmp_path / "cut.gz")


def test_reading_can_stop_early(tmp_path, eval_streams):
    write_streams(tmp_path / "many", eval_streams)
    assert len(read_streams(tmp_path / "many", limit=2)) == 2
