"""Readers of published formats, each on a small sample written for this test."""

from __future__ import annotations

import json

import pytest

from evoemb import InputError
from evoemb.cli import main
from evoemb.evaluation.benchmarks.chats import read_longmemeval, read_personamem
from evoemb.evaluation.benchmarks.dialogues import read_locomo, read_realtalk
from evoemb.evaluation.benchmarks.lmeb import read_lmeb
from evoemb.evaluation.benchmarks.passages import read_evotrain, read_msmarco, read_nq320k
from evoemb.evaluation.benchmarks.registry import load_benchmark
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
        "question_date": "2023/06/01 (Thu) 08:00",
        "haystack_session_ids": ["a1", "b1"],
        "answer_session_ids": ["a1"],
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
    assert stream.queries[0].asked_date == "2023/06/01 (Thu) 08:00"


def test_a_turn_never_reaches_over_two_sessions(tmp_path):
    sessions = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]]
    entry = longmemeval(haystack_sessions=sessions, haystack_dates=["1", "2"])
    assert read_longmemeval(written(tmp_path / "s.json", entry))[0].texts == ["User: a", "Assistant: b"]


PERSONAMEM = (
    "persona_id,question_id,question_type,topic,stereotypical,context_length_in_tokens,context_length_in_letters,"
    "distance_to_ref_in_blocks,distance_to_ref_in_tokens,num_irrelevant_tokens,distance_to_ref_proportion_in_context,"
    "user_question_or_message,correct_answer,all_options,shared_context_id,end_index_in_shared_context\n"
)


def test_personamem_is_kept_for_its_answers(tmp_path):
    said = {"system": "A cook.", "user": "User: I like soup.", "assistant": "Assistant: Noted."}
    chat = [
        *({"role": role, "content": text} for role, text in said.items()),
        {"role": "user", "content": "Now bread."},
    ]
    lines(tmp_path / "shared.jsonl", {"c1": chat})
    row = """0,q1,recall,food,,9,9,1,9,0,50%,What do I like?,(a),"['(a) soup', '(b) tea']",c1,{}\n"""
    written(tmp_path / "q.csv", PERSONAMEM + row.format(3))
    (stream,) = sound(read_personamem(tmp_path / "q.csv", tmp_path / "shared.jsonl"))
    assert stream.texts == ["System: A cook.", "User: I like soup.\nAssistant: Noted.", "User: Now bread."]
    assert (stream.queries[0].asked_at, stream.queries[0].answer, stream.scored) == (2, "(a)", ())
    assert stream.queries[0].query == "What do I like?\n(a) soup\n(b) tea"
    for number, told in (("x", "'x' is no number"), ("9", "9 is past the 4 messages of 'c1'")):
        written(tmp_path / "q.csv", PERSONAMEM + row.format(number))
        with pytest.raises(InputError, match=f"line 2, end_index_in_shared_context: {told}"):
            read_personamem(tmp_path / "q.csv", tmp_path / "shared.jsonl")
    written(tmp_path / "q.csv", PERSONAMEM + row.format(3).replace("c1", "c9"))
    with pytest.raises(InputError, match="line 2, shared_context_id: 'c9' is not in"):
        read_personamem(tmp_path / "q.csv", tmp_path / "shared.jsonl")


@pytest.fixture
def lmeb(tmp_path):
    folder = tmp_path / "PeerQA"
    folder.mkdir()
    lines(folder / "corpus.jsonl", {"id": "a", "title": "", "text": "one"}, {"id": "b", "title": "T", "text": "two"},
          {"id": "c", "title": "", "text": "three"})  # fmt: skip
    lines(folder / "queries.jsonl", {"id": "q_1", "text": "which?"}, {"id": "q_1_2", "text": "what?"},
          {"id": "q_3", "text": "who?"})  # fmt: skip
    lines(folder / "candidates.jsonl", {"scene_id": "q_1", "candidate_doc_ids": ["b", "a"]},
          {"scene_id": "q_1_2", "candidate_doc_ids": ["c"]})  # fmt: skip
    written(folder / "qrels.tsv", "q_1\tb\t1\nq_1_2\tc\t1\nq_1\ta\t0\nq_3\tb\t1\n")
    return folder


def test_lmeb_candidates_are_replayed_in_order(lmeb):
    first, second, third = sound(read_lmeb(lmeb))
    assert (first.texts, first.queries[0].evidence_turns) == (["T two", "one"], (0,))
    assert (second.texts, [one.qid for one in second.queries]) == (["three"], ["q_1_2"])
    assert (third.texts, third.queries[0].evidence_turns) == (["one", "T two", "three"], (1,))
    (lmeb / "candidates.jsonl").unlink()
    (whole,) = sound(read_lmeb(lmeb))
    assert (len(whole.turns), [one.evidence_turns for one in whole.queries]) == (3, [(1,), (2,), (1,)])


def test_the_parts_of_an_lmeb_task_ask_one_stream_a_scene(tmp_path):
    folder = tmp_path / "LoCoMo"
    for part in ("multi_hop", "single_hop"):
        (folder / part).mkdir(parents=True)
    lines(folder / "corpus.jsonl", *({"id": f"{scene}_{n}", "title": "", "text": f"{scene} {n}"}
          for scene in ("conv_26", "conv_30") for n in (1, 2)))  # fmt: skip
    lines(folder / "candidates.jsonl", {"scene_id": "conv_26", "candidate_doc_ids": ["conv_26_1", "conv_26_2"]},
          {"scene_id": "conv_30", "candidate_doc_ids": ["conv_30_1", "conv_30_2"]})  # fmt: skip
    lines(folder / "single_hop" / "queries.jsonl", {"id": "conv_26_q_1", "text": "who?"})
    written(folder / "single_hop" / "qrels.tsv", "conv_26_q_1\tconv_26_2\t1\n")
    lines(folder / "multi_hop" / "queries.jsonl", {"id": "conv_30_q_1", "text": "how?"},
          {"id": "conv_26_q_1", "text": "why?"})  # fmt: skip
    written(folder / "multi_hop" / "qrels.tsv", "conv_26_q_1\tconv_26_1\t1\nconv_30_q_1\tconv_30_2\t1\n")
    first, second = sound(read_lmeb(folder))
    assert first.texts == ["conv_26 1", "conv_26 2"]
    assert [(one.qid, one.category, one.evidence_turns) for one in first.queries] == [
        ("multi_hop/conv_26_q_1", "multi_hop", (0,)), ("single_hop/conv_26_q_1", "single_hop", (1,)),
    ]  # fmt: skip
    assert [one.qid for one in second.queries] == ["multi_hop/conv_30_q_1"]
    with pytest.raises(InputError, match=r"holds no queries.jsonl, nor does a folder in it"):
        read_lmeb(tmp_path / "nothing")


def test_evotrain_takes_the_last_turn_as_query(tmp_path):
    rows = [{"messages": [], "meta": {"turns": ["a", "b", "q?"], "evidence_turns": [1]}},
            {"meta.turns": ["a", "q?"], "meta.evidence_turns": []}]  # fmt: skip
    first, second = sound(read_evotrain(lines(tmp_path / "e.jsonl", *rows)))
    assert (first.texts, first.queries[0].query, first.queries[0].evidence_turns) == (["a", "b"], "q?", (1,))
    assert second.scored == ()


@pytest.fixture
def nq320k(tmp_path):
    written(tmp_path / "corpus_lite.json", ["doc a", "doc b"])
    written(tmp_path / "dev.json", [["who?", 0], ["what?", [1]], ["when?", "1"]])
    written(tmp_path / "dev.json.seen", [1])
    written(tmp_path / "dev.json.unseen", [0, 2])
    return tmp_path


def test_nq320k_tells_seen_from_unseen(nq320k):
    (stream,) = sound(read_nq320k(nq320k))
    assert [(one.query, one.category, one.evidence_turns) for one in stream.queries] == [
        ("who?", "unseen", (0,)), ("what?", "seen", (1,)), ("when?", "unseen", (1,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "value", "told"),
    [
        ("dev.json.seen", [3], "element 0: 3 is no place among the 3 of dev.json"),
        ("dev.json", [["who?", 2]], "element 0: document 2 is not among the 2 of the corpus"),
        ("dev.json", [["who?"]], r"element 0: a pair \[query, document number\] is expected"),
        ("corpus_lite.json", [1], "a list of texts is expected"),
    ],
)
def test_a_malformed_nq320k_is_told_with_file_and_element(nq320k, file, value, told):
    written(nq320k / file, value)
    with pytest.raises(InputError, match=told):
        read_nq320k(nq320k)


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
        ("qrels.tsv", "q_1\tz\t1\n", "line 1: 'z' is right for 'q_1' but not in corpus.jsonl"),
        ("qrels.tsv", "q_1\tb\n", "line 1: 3 columns are expected, but 2 were found"),
        ("qrels.tsv", "q_1\tb\tmuch\n", "line 1, score: 'much' is no number"),
        ("corpus.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2, id: 'a' stands twice"),
        ("queries.jsonl", '{"id": "q", "text": " "}\n', "line 1, text: it is empty"),
        ("candidates.jsonl", '{"scene_id": "q_1", "candidate_doc_ids": ["zz"]}\n', "'zz' is not in corpus.jsonl"),
        ("candidates.jsonl", '{"scene_id": "q_1", "candidate_doc_ids": ["a", "a"]}\n', "a passage stands twice"),
        ("candidates.jsonl", '{"query_id": "q_1", "candidate_doc_ids": []}\n', "there is no 'scene_id'"),
    ],
)
def test_a_malformed_lmeb_task_is_told_with_file_and_line(lmeb, file, content, told):
    written(lmeb / file, content)
    with pytest.raises(InputError, match=told):
        read_lmeb(lmeb)


@pytest.mark.parametrize(
    ("name", "file", "content", "told"),
    [
        ("longmemeval-s", "s.json", longmemeval() * 2, "longmemeval-q1: this id stands twice"),
        ("locomo", "l.json", LOCOMO * 2, "conv-1: this id stands twice"),
        ("locomo", "l.json", [], "there is nothing in it to read"),
        ("msmarco", "queries.tsv", "1\twho\n1\twhat\n", "msmarco, query '1': this id stands twice"),
        ("msmarco", "queries.tsv", "1\t \n", "msmarco, query '1': it is empty"),
        ("msmarco", "collection.tsv", "7\ta\n7\tb\n", "collection.tsv, line 2, id: '7' stands twice"),
    ],
)
def test_ids_that_stand_twice_and_empty_questions_are_told(tmp_path, name, file, content, told):
    for other, text in {"collection.tsv": "7\ta\n", "qrels.tsv": "1 0 7 1\n", "queries.tsv": "1\twho\n"}.items():
        written(tmp_path / other, text)
    path = written(tmp_path / file, content)
    with pytest.raises(InputError, match=told):
        load_benchmark(name, tmp_path if name == "msmarco" else path)


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
