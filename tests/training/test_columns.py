"""Rows of training data: every form that is taken, and what is said about every form that is not."""

from __future__ import annotations

import gzip
import json
import logging
import re
from typing import Any

import pytest

from evoemb import InputError
from evoemb.training import load_rows, parse_row, stream_dataset
from evoemb.training.columns import RowError
from training.streams import evotrain_row, rows

GOOD: dict[str, Any] = {"turns": ["i live in paris", "i moved to rome"], "query": "where do i live", "evidence": [1]}


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def evotrain(**meta: Any) -> dict[str, Any]:
    row = evotrain_row()
    return {**row, "meta": {**row["meta"], **meta}}


BROKEN = {
    "no row": ("text", "(the row)", "a str was given, but a row is an object of columns"),
    "no turns": ({"query": "q", "evidence": []}, "turns", "nothing (columns: 'query', 'evidence') was given"),
    "turns is text": (changed(turns="i live in paris"), "turns", "a str was given, but a list of strings"),
    "turns are empty": (changed(turns=[]), "turns", "an empty list was given, but at least one turn"),
    "a turn is null": (changed(turns=["ok", None]), "turns[1]", "nothing (null) was given, but a string"),
    "a turn is a number": (changed(turns=["ok", 7]), "turns[1]", "7 was given, but a string"),
    "a message without content": (changed(turns=[{"role": "user"}]), "turns", "chat messages are expected. Message 0"),
    "no query": (changed(query=None), "query", "nothing was given, but a query is expected"),
    "a blank query": (changed(query="  "), "query", "an empty text was given"),
    "no evidence": (changed(evidence=None), "evidence", "nothing was given, but a list of turn indices"),
    "evidence is a number": (changed(evidence=1), "evidence", "1 was given, but a list of turn indices"),
    "evidence is text": (changed(evidence=["1"]), "evidence", "'1' was given, but whole numbers"),
    "evidence is true": (changed(evidence=[True]), "evidence", "True was given, but whole numbers"),
    "evidence is a fraction": (changed(evidence=[0.5]), "evidence", "0.5 was given, but whole numbers"),
    "evidence out of range": (changed(evidence=[5]), "evidence", "5 was given, but indices from 0 to 1"),
    "negative evidence": (changed(evidence=[-1]), "evidence", "-1 was given, but indices from 0 to 1"),
    "evidence is the query": (changed(evidence=[2]), "evidence", "2, the query itself was given"),
    "evidence twice": (changed(evidence=[1, 1]), "evidence", "[1, 1] was given, but every turn is expected once"),
    "evidence after the query": (changed(asked_at=1), "evidence", "1 was given, but indices from 0 to 0"),
    "asked too late": (changed(asked_at=3), "asked_at", "3 was given, but a number of turns from 0 to 2"),
    "an answer that is a number": (changed(answer=4), "answer", "4 was given, but a string"),
    "too few timestamps": (changed(timestamps=[1]), "timestamps", "a list of 1 was given, but one for each of the 2"),
    "timestamps go back": (changed(timestamps=[2, 1]), "timestamps[1]", "1 was given, but times in order"),
    "a timestamp that is none": (
        changed(timestamps=["soon", "later"]),
        "timestamps[0]",
        "'soon' was given, but a time",
    ),
    "mixed timestamps": (changed(timestamps=[1, "2024-05-01"]), "timestamps[1]", "but times of one kind"),
    "half a character": (changed(query="\ud83d"), "query", "half of a surrogate pair at character 0"),
    "queries without their evidence": (changed(query=["a", "b"]), "evidence", "a list of 1 was given, but one value"),
    "no queries": (changed(query=[], evidence=[]), "query", "an empty list was given, but at least one query"),
    "evotrain with the query alone": (evotrain(turns=["q"]), "meta.turns", "a list of 1 was given, but at least one"),
    "evotrain without evidence": (evotrain(evidence_turns=None), "meta.evidence_turns", "nothing was given"),
    "evotrain, evidence is the query": (evotrain(evidence_turns=[2]), "meta.evidence_turns", "2, the query itself"),
    "evotrain, unknown role": (
        {**evotrain_row(), "messages": [{"role": "tool", "content": "x"}]},
        "messages[0]",
        "the role 'tool' was given, but the roles here are",
    ),
    "evotrain without a last query": (
        {**evotrain_row(), "messages": [{"role": "assistant", "content": "x"}]},
        "messages",
        "the query, a user message, is expected",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_told_with_row_field_given_and_expected(name):
    row, field, told = BROKEN[name]
    with pytest.raises(RowError) as caught:
        parse_row(row, 12)
    assert str(caught.value).startswith(f"Row 12, field {field!r}: ")
    assert told in str(caught.value)
    assert (caught.value.row, caught.value.field) == (12, field)


def test_plain_columns_make_an_example():
    example = parse_row(changed(answer="rome", timestamps=["2024-05-01", "2024-05-02T10:00:00"]))
    assert example.turns == ("i live in paris", "i moved to rome")
    (question,) = example.questions
    assert (question.text, question.evidence, question.asked_at, question.answer) == (
        "where do i live",
        (1,),
        2,
        "rome",
    )
    assert example.timestamps == ("2024-05-01", "2024-05-02T10:00:00")


def test_a_stream_may_have_several_queries_asked_at_different_times():
    row = changed(query=["where do i live"] * 2, evidence=[[0], [1]], asked_at=[1, 2], answer=["paris", None])
    assert [(q.evidence, q.asked_at, q.answer) for q in parse_row(row).questions] == [
        ((0,), 1, "paris"),
        ((1,), 2, None),
    ]


def test_evoembs_stream_format_is_taken():
    turns = [{"role": "user", "text": "i live in paris"}, {"role": "user", "text": "i moved to rome"}]
    queries = [{"query": "where", "evidence_turns": [0], "asked_at": 1}, {"query": "where", "evidence_turns": [1]}]
    example = parse_row({"turns": turns, "queries": queries, "stream_id": "a"})
    assert example.turns == ("i live in paris", "i moved to rome")
    assert [(q.evidence, q.asked_at) for q in example.questions] == [((0,), 1), ((1,), 2)]
    with pytest.raises(RowError, match=r"field 'queries\[0\]': a str was given"):
        parse_row({"turns": turns, "queries": ["where"]})


def test_messages_as_turns_pair_by_role_and_are_kept():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    example = parse_row({"turns": messages, "query": "q", "evidence": [0]})
    assert example.turns == ("User: a\nAssistant: b",)
    assert example.history == tuple(messages)


@pytest.mark.parametrize("dotted", [False, True])
def test_evotrain_rows_nested_or_dotted_mean_the_same(dotted):
    row = evotrain_row()
    if dotted:
        row = {"messages": row["messages"], **{f"meta.{name}": value for name, value in row["meta"].items()}}
    example = parse_row(row)
    assert example.turns == tuple(evotrain_row()["meta"]["turns"][:2])
    (question,) = example.questions
    assert (question.text, question.evidence, question.answer) == ("where do i live", (1,), "rome")
    assert [message["content"] for message in example.history or ()] == [
        "i live in paris",
        "noted",
        "i moved to rome",
        "ok",
    ]


def test_all_broken_rows_of_a_data_set_are_counted_before_training():
    data = [*rows(3), *(row for row, _, _ in BROKEN.values())]
    with pytest.raises(
        InputError, match=rf"{len(BROKEN)} of {len(BROKEN) + 3} rows are broken(.|\n)*Row 3, field"
    ) as told:
        stream_dataset(data)
    assert f"{len(BROKEN) - 5} more" in str(told.value)


def test_broken_rows_can_be_left_out(caplog):
    caplog.set_level(logging.WARNING, "evoemb")  # commands run with --quiet in this process raise it
    data = [*rows(3), *(row for row, _, _ in BROKEN.values())]
    kept = stream_dataset(data, bad_rows="skip")
    assert len(kept) == 3
    assert f"{len(BROKEN)} broken rows were left out" in caplog.text


def test_nothing_but_broken_rows_is_refused():
    with pytest.raises(InputError, match="No row is left to train on"):
        stream_dataset([{}], bad_rows="skip")


def test_one_data_set_comes_from_a_list_jsonl_parquet_datasets_and_a_stream(tmp_path):
    import datasets

    wanted = [parse_row(row) for row in rows(3)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows(3)), encoding="utf-8")
    datasets.Dataset.from_list(rows(3)).to_parquet(tmp_path / "rows.parquet")
    for source in (rows(3), str(lines), str(tmp_path / "rows.parquet"), datasets.Dataset.from_list(rows(3))):
        assert [parse_row(row) for row in stream_dataset(source)] == wanted
    for source in (str(lines), str(tmp_path / "rows.parquet"), str(tmp_path / "*.jsonl")):
        streaming = stream_dataset(load_rows(source, streaming=True))
        assert isinstance(streaming, datasets.IterableDataset)
        assert [parse_row(row) for row in streaming] == wanted


def test_a_streaming_file_is_read_as_any_other_file(tmp_path):
    """Rows of differing form, gzip, a byte order mark, and files that workers share."""
    mixed = [*rows(2), evotrain_row()]
    text = "\ufeff" + "".join(json.dumps(row) + "\n" for row in mixed)
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    found = stream_dataset(load_rows(str(tmp_path / "*.jsonl.gz"), streaming=True))
    assert [parse_row(row) for row in found] == [parse_row(row) for row in stream_dataset(mixed)] * 2
    assert (found.num_shards, found.column_names) == (2, stream_dataset(mixed).column_names)
    assert len(list(found.shard(num_shards=2, index=1))) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl, line 3: this is not valid JSON"),
        ('"a"', "rows.jsonl, line 3: a row is an object, but a str was found"),
        (
            '{"turns": ["a"], "query": "q", "evidence": [9]}',
            "Row of a streaming data set, field 'evidence': 9",
        ),
    ],
)
def test_a_broken_line_of_a_streaming_file_is_refused_with_its_place(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(2)) + line)
    read = iter(stream_dataset(load_rows(str(tmp_path / "rows.jsonl"), streaming=True)))
    assert len([next(read), next(read)]) == 2
    with pytest.raises(InputError, match=re.escape(message)):
        next(read)


@pytest.mark.parametrize("name", ["org/chats", "org/chats-1.5", "chats"])
def test_a_name_that_is_no_file_is_asked_of_the_hub(name, monkeypatch):
    import datasets

    asked = []

    def load_dataset(*names: str, **options: Any) -> Any:
        asked.append((names, options))
        return datasets.Dataset.from_list(rows(2))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [parse_row(row) for row in stream_dataset(name)] == [parse_row(row) for row in rows(2)]
    assert asked == [((name,), {"split": "train", "streaming": False})]


def test_rows_of_different_forms_mix_in_one_list():
    kept = stream_dataset([*rows(1), evotrain_row()])
    assert [parse_row(row).questions[0].evidence for row in kept] == [(3,), (1,)]


def test_a_streaming_data_set_skips_broken_rows_as_they_come(caplog):
    caplog.set_level(logging.WARNING, "evoemb")
    import datasets

    source = datasets.IterableDataset.from_generator(lambda: iter([*rows(2), changed(evidence=[9])]))
    assert len(list(stream_dataset(source, bad_rows="skip"))) == 2
    assert "A broken row was left out: Row of a streaming data set, field 'evidence': 9 was given" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.jsonl", '{"turns": ["a"]}\n{"turns": [}', "line 2: this is not valid JSON"),
        ("rows.txt", "text", "ends in .txt, expected .jsonl"),
        ("rows.jsonl", b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=told):
        load_rows(str(path))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows(str(tmp_path / "none.jsonl"))
