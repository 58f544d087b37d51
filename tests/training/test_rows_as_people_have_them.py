"""Rows, dates, numbers and marks as real files hold them."""

from __future__ import annotations

import json

import pytest

from evoemb._errors import InputError
from evoemb.cli import main
from evoemb.evaluation.benchmarks.registry import load_benchmark
from evoemb.evaluation.schema import parse_stream
from evoemb.training.columns import RowError, parse_row
from evoemb.training.config import TrainingConfig
from evoemb.training.converters import chat_log_rows
from evoemb.training.datasets import stream_dataset

ROW = {"turns": ["a", "b", "c"], "query": "q", "evidence": [0]}


def test_answers_and_times_in_some_rows_only_make_columns_without_a_null():
    rows = stream_dataset([{**ROW, "answer": "x", "timestamps": [0, 1, 2.5]}, ROW])
    assert rows["answer"] == [["x"], [None]]
    assert rows["timestamps"] == [["0", "1", "2.5"], []]
    again = [parse_row(row, 0) for row in rows]  # as the trainer reads them
    assert [example.timestamps for example in again] == [("0", "1", "2.5"), None]
    assert [example.questions[0].answer for example in again] == ["x", None]


@pytest.mark.parametrize("times", [[5.0, float("nan"), 1.0], [0, float("inf"), float("inf")], ["nan", "1", "2"]])
def test_a_time_that_is_no_number_is_refused(times):
    with pytest.raises(RowError, match=r"timestamps\[\d\]"):
        parse_row({**ROW, "timestamps": times})


def test_null_stands_for_a_field_that_was_left_out():
    query = dict.fromkeys(("mentions", "kind", "answer", "group", "template", "category", "asked_at", "asked_date"))
    stream = {"stream_id": "s", "turns": [{"text": "a", "time": None, "messages": None, "role": None}], "dataset": None}
    found = parse_stream({**stream, "queries": [{"qid": "q", "query": "w?", "evidence_turns": [0], **query}]}, "here")
    assert found.queries[0].mentions == ()
    assert found.queries[0].asked_at == 1
    assert parse_stream({**stream, "queries": None}, "here").queries == ()


@pytest.mark.parametrize(("text", "value"), [("5e-5", 5e-5), ("1E-3", 1e-3), ("1.5e-4", 1.5e-4), ("0.01", 0.01)])
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path, text, value):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"train: t.jsonl\noutput: {tmp_path}/out\ndevice: cpu\ntraining: {{learning_rate: {text}, use_cpu: true}}"
    )
    assert TrainingConfig.from_yaml(path).arguments().learning_rate == value


def realtalk(tmp_path, evidence):
    messages = [
        {"clean_text": f"m{n}", "speaker": ["Ana", "Bo"][n % 2], "date_time": "x", "dia_id": f"D1:{n + 1}"}
        for n in range(10)
    ]
    asked = [{"question": "w?", "answer": "a", "evidence": [evidence], "category": 1}]
    chat = {"name": {"speaker_1": "Ana", "speaker_2": "Bo"}, "session_1_date_time": "x", "session_1": messages}
    (tmp_path / "Chat_1.json").write_text(json.dumps({**chat, "qa": asked}))
    return load_benchmark("realtalk", tmp_path / "Chat_1.json")[0].queries[0].evidence_turns


@pytest.mark.parametrize(
    ("evidence", "turns"),
    [("D1:3-D1:7", (1, 2, 3)), ("D1:1", (0,)), ("D1:1 - D1:2; D1:9", (0, 4)), ("D1:3, D1:7", (1, 3))],
)
def test_evidence_given_as_a_range_names_all_messages_in_it(tmp_path, evidence, turns):
    assert realtalk(tmp_path, evidence) == turns


def test_a_passage_longer_than_a_field_of_csv_may_be_is_read(tmp_path):
    (tmp_path / "collection.tsv").write_text("1\t" + "ab " * 70_000 + '\n2\tshort "quoted\n')
    (tmp_path / "queries.tsv").write_text("7\twhat\n")
    (tmp_path / "qrels.tsv").write_text("7\t0\t1\t1\n")
    turns = load_benchmark("msmarco", tmp_path)[0].turns
    assert len(turns[0].text) >= 209_999
    assert turns[1].text == 'short "quoted'


def test_a_question_with_an_empty_list_of_candidates_ranks_all_passages(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"id":"d1","text":"a"}\n{"id":"d2","text":"b"}\n')
    (tmp_path / "queries.jsonl").write_text('{"id":"q1","text":"x"}\n{"id":"q2","text":"y"}\n')
    (tmp_path / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t1\n")
    listed = [{"scene_id": "q1", "candidate_doc_ids": ["d1", "d2"]}, {"scene_id": "q2", "candidate_doc_ids": []}]
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    streams = load_benchmark("lmeb", tmp_path)
    assert sorted(query.qid for stream in streams for query in stream.queries) == ["q1", "q2"]


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({"query": "q", "evidence": [5]}, "5 is marked as evidence, but the turns before it are 0 to 1"),
        ({"query": "q", "evidence": [-1]}, "-1 is marked as evidence"),
        ({"query": "q", "evidence": [0], "asked_at": 9}, "asked_at is 9, but the conversation has 2 turns"),
    ],
)
def test_chats_with_marks_that_lie_nowhere_are_refused_before_rows_are_written(tmp_path, question, told):
    with pytest.raises(InputError, match=told):
        list(chat_log_rows([{"messages": CHAT, "questions": [question]}]))


def test_rows_made_of_chats_pass_the_check_of_rows(tmp_path, capsys):
    asked = [{"query": "q", "evidence": [0], "asked_at": None}, {"query": "p", "message_ids": [2]}]
    (tmp_path / "in.jsonl").write_text(json.dumps({"messages": CHAT, "questions": asked}) + "\n")
    assert main(["data", "from-chats", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    assert main(["data", "check", str(tmp_path / "out.jsonl")]) == 0
