"""Readers of published formats, each on a small sample written for this test."""

from __future__ import annotations

import json

import pytest

from evoemb import InputError
from evoemb.cli import main
from evoemb.evaluation.readers.chats import read_longmemeval, read_personamem
from evoemb.evaluation.readers.dialogues import read_locomo, read_realtalk
from evoemb.evaluation.readers.passages import read_evotrain, read_lmeb, read_msmarco, read_nq320k
from evoemb.evaluation.readers.registry import BENCHMARKS, load_benchmark
from evoemb.evaluation.schema import parse_stream

LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Ben",
            "session_1_date_time": "1 May",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "I bought a kite."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "Nice!"},
                {"speaker": "Ann", "dia_id": "D1:3", "text": "Look.", "blip_caption": "a red kite"},
            ],
            "session_2_date_time": "2 May",
            "session_2": [
                {"speaker": "Ben", "dia_id": "D2:1", "text": "I lost my hat."},
                {"speaker": "Ann", "dia_id": "D2:2", "text": "Oh no."},
            ],
        },
        "qa": [
            {"question": "What did Ann buy?", "answer": "a kite", "evidence": ["D1:1"], "category": 4},
            {"question": "What and when?", "answer": 2, "evidence": ["D1:3; D:2:1", "D9:9"], "category": 1},
            {"question": "What did Cid lose?", "adversarial_answer": "a hat", "evidence": [], "category": 5},
        ],
    }
]


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def lines(path, *values):
    return written(path, "".join(json.dumps(value) + "\n" for value in values))


def sound(streams):
    """Every reader's streams are valid streams of the format."""
    for stream in streams:
        assert parse_stream(json.loads(json.dumps(stream.to_json())), "here") == stream
    return streams


def test_locomo_pairs_carry_date_names_and_captions(tmp_path):
    (stream,) = sound(read_locomo(written(tmp_path / "locomo10.json", LOCOMO)))
    assert stream.texts == [
        "User: 1 May Ann\nI bought a kite.\nAssistant: Ben\nNice!",
        "User: 1 May Ann\nLook. (image description: a red kite)\nAssistant: Ben\nI lost my hat.",
        "User: 2 May Ann\nOh no.",
    ]
    assert [(one.evidence_turns, one.category) for one in stream.queries] == [
        ((0,), "single-hop"), ((1,), "multi-hop"), ((), "adversarial"),
    ]  # fmt: skip
    assert [one.answer for one in stream.queries] == ["a kite", "2", "a hat"]


def test_locomo_utterances_are_one_message_a_turn(tmp_path):
    (stream,) = sound(read_locomo(written(tmp_path / "locomo10.json", LOCOMO), "utterances"))
    assert stream.texts[2:4] == ["Ann: Look. (image description: a red kite)", "Ben: I lost my hat."]
    assert stream.queries[1].evidence_turns == (2, 3)


def realtalk():
    said = [
        {"clean_text": "hi", "speaker": "Cy", "dia_id": "D1:1", "date_time": "x"},
        {"clean_text": "hello", "speaker": "Di", "dia_id": "D1:2", "date_time": "y"},
    ]
    asked = [{"question": "Who said hi?", "answer": "Cy", "evidence": ["D1:1"], "category": 1}]
    people = {"speaker_1": "Cy", "speaker_2": "Di"}
    return {"name": people, "session_1": said, "session_1_date_time": "29.12.2023", "events_session_1": {}, "qa": asked}


def test_realtalk_is_read_chat_by_chat(tmp_path):
    for name in ("Chat_1_Cy_Di.json", "Chat_2_Cy_Di.json"):
        written(tmp_path / name, realtalk())
    streams = sound(read_realtalk(tmp_path))
    assert [stream.stream_id for stream in streams] == ["Chat_1_Cy_Di", "Chat_2_Cy_Di"]
    assert streams[0].texts == ["User: 29.12.2023 Cy\nhi\nAssistant: Di\nhello"]
    assert streams[0].queries[0].evidence_turns == (0,)


def longmemeval(**changes):
    entry = {
        "question_id": "q1",
        "question_type": "knowledge-update",
        "question": "Where do I live?",
        "answer": "Porto",
        "haystack_dates": ["2023/05/30 (Tue) 10:00", "2023/05/20 (Sat) 02:21"],
        "haystack_sessions": [
            [{"role": "user", "content": "I moved to Porto.", "has_answer": True},
             {"role": "assistant", "content": "OK"}],
            [{"role": "user", "content": "I live in Oslo."}, {"role": "user", "content": "Hm."}],
        ],
    }  # fmt: skip
    return [{**entry, **changes}]


def test_longmemeval_sessions_are_put_in_order_of_time(tmp_path):
    (stream,) = sound(read_longmemeval(written(tmp_path / "s.json", longmemeval())))
    assert stream.texts == ["User: I live in Oslo.", "User: Hm.", "User: I moved to Porto.\nAssistant: OK"]
    assert stream.queries[0].evidence_turns == (2,)
    assert stream.turns[0].time == "2023/05/20 (Sat) 02:21"


def test_a_turn_never_reaches_over_two_sessions(tmp_path):
    sessions = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]]
    entry = longmemeval(haystack_sessions=sessions, haystack_dates=["1", "2"])
    assert read_longmemeval(written(tmp_path / "s.json", entry))[0].texts == ["User: a", "Assistant: b"]


def test_personamem_is_kept_for_its_answers(tmp_path):
    chat = [{"role": "system", "content": "A cook."}, {"role": "user", "content": "I like soup."},
            {"role": "assistant", "content": "Noted."}, {"role": "user", "content": "Now bread."}]  # fmt: skip
    lines(tmp_path / "shared.jsonl", {"c1": chat})
    columns = ("question_id", "question_type", "user_question_or_message", "correct_answer", "all_options")
    head = ",".join((*columns, "shared_context_id", "end_index_in_shared_context"))
    written(tmp_path / "q.csv", f'{head}\nq1,recall,What do I like?,(a),"(a) soup (b) tea",c1,3\n')
    (stream,) = sound(read_personamem(tmp_path / "q.csv", tmp_path / "shared.jsonl"))
    assert stream.texts == ["System: A cook.", "User: I like soup.\nAssistant: Noted.", "User: Now bread."]
    assert (stream.queries[0].asked_at, stream.queries[0].answer, stream.scored) == (2, "(a)", ())
    written(tmp_path / "q.csv", f"{head}\nq1,recall,What?,(a),x,c9,3\n")
    with pytest.raises(InputError, match="line 2, shared_context_id: 'c9' is not in"):
        read_personamem(tmp_path / "q.csv", tmp_path / "shared.jsonl")


@pytest.fixture
def lmeb(tmp_path):
    folder = tmp_path / "PeerQA"
    folder.mkdir()
    lines(folder / "corpus.jsonl", {"id": "s0_a", "text": "one"}, {"id": "s0_b", "title": "T", "text": "two"},
          {"id": "s1_a", "text": "three"})  # fmt: skip
    lines(folder / "queries.jsonl", {"id": "s0_q0", "text": "which?"}, {"id": "s1_q0", "text": "what?"})
    lines(folder / "candidates.jsonl", {"scene_id": "s0", "candidate_doc_ids": ["s0_a", "s0_b"]},
          {"query_id": "s1_q0", "candidate_doc_ids": ["s1_a"]})  # fmt: skip
    written(folder / "qrels.tsv", "query-id\tcorpus-id\tscore\ns0_q0\ts0_b\t1\ns1_q0\ts1_a\t1\ns0_q0\ts0_a\t0\n")
    return folder


def test_lmeb_candidates_are_replayed_in_order(lmeb):
    first, second = sound(read_lmeb(lmeb))
    assert (first.texts, first.queries[0].evidence_turns) == (["one", "T\ntwo"], (1,))
    assert (second.texts, second.queries[0].qid) == (["three"], "s1_q0")
    (lmeb / "candidates.jsonl").unlink()
    (whole,) = sound(read_lmeb(lmeb))
    assert (len(whole.turns), [one.evidence_turns for one in whole.queries]) == (3, [(1,), (2,)])


def test_evotrain_takes_the_last_turn_as_query(tmp_path):
    rows = [{"messages": [], "meta": {"turns": ["a", "b", "q?"], "evidence_turns": [1]}},
            {"meta.turns": ["a", "q?"], "meta.evidence_turns": []}]  # fmt: skip
    first, second = sound(read_evotrain(lines(tmp_path / "e.jsonl", *rows)))
    assert (first.texts, first.queries[0].query, first.queries[0].evidence_turns) == (["a", "b"], "q?", (1,))
    assert second.scored == ()


def test_nq320k_tells_seen_from_unseen(tmp_path):
    written(tmp_path / "corpus_lite.json", ["doc a", "doc b"])
    written(tmp_path / "dev.json.seen", [["who?", 0]])
    written(tmp_path / "dev.json.unseen", [["what?", "1"]])
    (stream,) = sound(read_nq320k(tmp_path))
    assert [(one.category, one.evidence_turns) for one in stream.queries] == [("seen", (0,)), ("unseen", (1,))]


def test_msmarco_passages_that_were_cut_leave_a_query_without_evidence(tmp_path):
    written(tmp_path / "collection.tsv", "7\tpassage seven\n9\tpassage nine\n")
    written(tmp_path / "queries.tsv", "1\twho is it\n2\twhat is it\n")
    written(tmp_path / "qrels.tsv", "1 0 9 1\n2\t0\t8\t1\n")
    (stream,) = sound(read_msmarco(tmp_path))
    assert [one.evidence_turns for one in stream.queries] == [(1,), ()]


def broken_locomo(**changes):
    sample = json.loads(json.dumps(LOCOMO[0]))
    sample["conversation"].update(changes)
    return [{key: value for key, value in sample.items() if key != changes.get("without")}]


@pytest.mark.parametrize(
    ("read", "value", "told"),
    [
        (read_locomo, {}, "a list of conversations is expected, but dict"),
        (read_locomo, broken_locomo(without="qa"), r"element 0: there is no 'qa'"),
        (read_locomo, broken_locomo(session_1=[{"speaker": "Ann", "dia_id": "D1:1"}]),
         r"session_1\[0\]: there is no 'text'"),
        (read_locomo, broken_locomo(speaker_a="Zoe"), r"session_1\[0\].speaker: 'Ann' is neither of 'Zoe' and 'Ben'"),
        (read_locomo, "[", "line 1: this is not valid JSON"),
        (read_longmemeval, longmemeval(haystack_dates=["1"]), "haystack_dates: 1 dates for 2 sessions"),
        (read_longmemeval, longmemeval(question=3), "element 0.question: str is expected here, but int"),
        (read_longmemeval, longmemeval(haystack_sessions=[[], []]), "there is no message in them"),
        (read_evotrain, {"meta": {"turns": ["q"], "evidence_turns": []}}, "line 1.meta.turns: texts are expected"),
        (read_evotrain, {"meta": {"turns": ["a", "q"], "evidence_turns": [1]}}, r"evidence_turns: 1 is no turn before"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_told_with_place_and_field(tmp_path, read, value, told):
    with pytest.raises(InputError, match=told):
        read(written(tmp_path / "bad.json", value))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("qrels.tsv", "s0_q0\ts9\t1\n", "'s9' is right for 's0_q0' but not in corpus.jsonl"),
        ("qrels.tsv", "s0_q0\ts0_b\n", "line 1: 3 columns are expected, but 2 were found"),
        ("qrels.tsv", "s0_q0\ts0_b\tmuch\n", "line 1, score: 'much' is no number"),
        ("corpus.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2, id: 'a' stands twice"),
        ("candidates.jsonl", '{"query_id": "s0_q0", "candidate_doc_ids": ["zz"]}\n', "'zz' is not in corpus.jsonl"),
        ("candidates.jsonl", '{"query_id": "zz", "candidate_doc_ids": ["s0_a"]}\n', "'zz' is not in queries.jsonl"),
    ],
)
def test_a_malformed_lmeb_task_is_told_with_file_and_line(lmeb, file, content, told):
    written(lmeb / file, content)
    with pytest.raises(InputError, match=told):
        read_lmeb(lmeb)


def test_every_benchmark_of_the_hub_is_fetched_with_its_own_files_only(monkeypatch, lmeb):
    asked = []

    def fetched(repository, *, repo_type, allow_patterns):
        asked.append((repository, repo_type, allow_patterns))
        return str(lmeb.parents[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    (lmeb.parent / "Semantic").symlink_to(lmeb.parent)
    assert load_benchmark("peerqa")[0].stream_id == "PeerQA-0"
    assert asked == [("KaLM-Embedding/LMEB", "dataset", ["Semantic/PeerQA/*"])]
    assert all(one.files for one in BENCHMARKS.values() if one.repository)


def test_what_is_not_on_the_hub_asks_for_a_path(tmp_path, capsys):
    with pytest.raises(InputError, match=r"locomo is not on the Hub.*pass its path with --data"):
        load_benchmark("locomo")
    with pytest.raises(InputError, match="There is no benchmark 'x'"):
        load_benchmark("x")
    assert main(["eval", "locomo", "--data", str(tmp_path / "no"), "-o", str(tmp_path / "r.json")]) == 2
    assert "No such file or folder" in capsys.readouterr().err


def test_the_command_takes_a_benchmark_by_name(tmp_path, base_folder):
    pytest.importorskip("bm25s")
    data = written(tmp_path / "locomo10.json", LOCOMO)
    command = ["eval", "locomo", "--data", str(data), "--against", "bm25", "--probe-streams", "0", "--quiet"]
    assert main([*command, "--model", str(base_folder("bert")), "-o", str(tmp_path / "r.json")]) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["benchmark"]["name"] == "locomo"
    assert results["systems"][0]["summary"]["all_categories"]["n"] == 2
