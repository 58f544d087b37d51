"""Search across all the streams of a file."""

from __future__ import annotations

import json

import pytest

from evoemb.cli import main

QUESTION = "where do i live now"
MESSAGES = [{"role": "user", "content": "i live in paris"}, {"role": "assistant", "content": "ok"}]
STREAMS = [
    {"stream_id": "letters", "turns": [{"text": "i moved from rome to lyon"}, {"text": "my dog has lost a red key"}]},
    {"turns": MESSAGES},
    {"stream_id": "twice", "turns": [{"text": "i live in rome"}]},
    {"stream_id": "twice", "turns": [{"text": "i live in lyon"}]},
]
TURNS = [["i moved from rome to lyon", "my dog has lost a red key"], MESSAGES, ["i live in rome"], ["i live in lyon"]]


@pytest.fixture
def many(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in STREAMS))
    return str(path)


@pytest.fixture
def search(models, tmp_path, capsys, monkeypatch):
    """Run a search on the tiny model; gives status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    models("bert", "attention").save_pretrained(str(tmp_path / "model"))

    def run(*given):
        status = main(["search", "--model", str(tmp_path / "model"), "--device", "cpu", *given])
        return status, *capsys.readouterr()

    return run


def test_turns_of_all_streams_are_ranked_by_the_score_they_have_in_their_own(models, search, many):
    status, out, _ = search(many, QUESTION, "who lost a key", "--json", "--quiet", "--top-k", "4")
    assert status == 0
    for line, query in zip(out.splitlines(), [QUESTION, "who lost a key"], strict=True):
        found = json.loads(line)
        expected = [
            (hit["score"], stream, hit["corpus_id"], hit["text"])
            for stream, turns in enumerate(TURNS)
            for hit in models("bert", "attention").retrieve(turns, query)
        ]
        expected.sort(key=lambda hit: -hit[0])
        assert found["query"] == query
        assert [(hit["stream"], hit["corpus_id"], hit["text"]) for hit in found["results"]] == [
            hit[1:] for hit in expected[:4]
        ]
        assert [hit["score"] for hit in found["results"]] == pytest.approx([hit[0] for hit in expected[:4]], abs=1e-5)
        assert {hit["stream"]: hit.get("name") for hit in found["results"]}.items() <= {
            0: "letters", 1: None, 2: "twice", 3: "twice"
        }.items()  # fmt: skip


def test_the_table_names_the_stream_of_every_turn(search, many):
    status, out, err = search(many, QUESTION, "--static", "--top-k", "9")
    assert status == 0
    assert "Read 5 turns of 4 streams" in err
    assert out.count("[stream 1]") == out.count("[letters]") / 2 == 2
    assert "without memory" in out


def test_one_stream_is_chosen_by_name(search, many):
    status, out, _ = search(many, QUESTION, "--stream", "letters", "--json", "--quiet")
    assert status == 0
    assert sorted(hit["text"] for hit in json.loads(out)["results"]) == TURNS[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["q", "--stream", "diary"], "holds 0 streams of that name. Its names: letters, twice. Choose by number"),
        (["q", "--stream", "twice"], "holds 2 streams of that name"),
        (["q", "--stream", "4"], "holds the streams 0 to 3"),
        (["q", "--state", "s.safetensors"], "holds the memory of one stream, but"),
        (["  "], "An empty QUERY was given"),
        ([], "holds 4 streams, but one is expected"),
    ],
)
def test_a_choice_that_names_no_stream_is_refused(search, many, given, told):
    status, _, err = search(many, *given)
    assert status == 2
    assert told in err


def test_scores_that_compare_turns_of_one_stream_are_refused_across_streams(search, many):
    for scoring in ("late", "hybrid"):
        status, _, err = search(many, QUESTION, "--scoring", scoring, "--quiet")
        assert status == 2
        assert f"--scoring {scoring} compares turns of one stream, but" in err
        assert "holds 4. Choose one with --stream 0" in err
    assert search(many, QUESTION, "--scoring", "vector", "--quiet")[0] == 0
