"""A whole evaluation: what is compared, kept, taken up again, written and drawn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding, InputError
from evoemb.cli import main
from evoemb.evaluation.anchors import Bm25System
from evoemb.evaluation.comparison import Plan, evaluate, header_of
from evoemb.evaluation.pages.report import read_results
from evoemb.evaluation.runs import Ledger, run_systems
from evoemb.evaluation.streams import write_streams
from evoemb.evaluation.tables import to_markdown, verdicts

pytest.importorskip("bm25s")

PLAN = Plan(against=("bm25", "static"), controls=("off", "shuffled"), probe_streams=0)


@pytest.fixture
def folder(base_folder):
    """An evoemb model on disk, with a memory that matters."""
    from tiny_models import make_model

    target = base_folder("bert").parent / "evoemb-bert"
    if not target.exists():
        make_model(base_folder("bert"), "attention").save_pretrained(str(target), create_model_card=False)
    return target


@pytest.fixture
def bench(tmp_path, eval_streams):
    write_streams(tmp_path / "bench.jsonl.gz", eval_streams)
    return tmp_path / "bench.jsonl.gz"


def test_the_model_comes_first_and_is_compared_with_all_others(models, eval_streams):
    results = evaluate(eval_streams, models("bert", "attention"), PLAN, name="made")
    assert [system["name"] for system in results["systems"]] == [
        "memory on", "memory off", "memory shuffled", "bm25", "static",
    ]  # fmt: skip
    assert {one["minus"] for one in results["differences"]} == {"memory off", "memory shuffled", "bm25", "static"}
    assert results["benchmark"]["without_evidence"] == 5
    ages = results["systems"][0]["ages"]
    assert sum(one["n"] for one in ages) == 20
    assert [one["from"] for one in ages] == [1, 4]  # turns 6 and 3 of 8 and 5; turns 5 and 0


def test_memory_off_is_the_static_model_for_a_reader_that_adds_nothing(models, eval_streams):
    results = evaluate(eval_streams, models("bert", "attention"), PLAN, name="made")
    summaries = {system["name"]: system["summary"] for system in results["systems"]}
    assert summaries["memory off"] == summaries["static"]
    assert summaries["memory on"] != summaries["static"]


def test_turns_without_words_keep_their_places_for_every_system(models, eval_streams):
    """Published chats hold messages that are empty; a turn left out would move all the numbers behind it."""
    from evoemb.evaluation.anchors import ANCHORS

    holed = []
    for stream in eval_streams:
        first, second, *rest = stream.turns
        holed.append(replace(stream, turns=(replace(first, text=""), replace(second, text=" \n"), *rest)))
    found = [
        evaluate(
            streams,
            models("bert", "attention"),
            replace(PLAN, against=tuple(ANCHORS), scorings=("late", "hybrid")),
            name="made",
        )
        for streams in (eval_streams, holed)
    ]
    whole, empty = ({one["name"]: one["summary"]["overall"] for one in run["systems"]} for run in found)
    assert whole.keys() == empty.keys()
    assert all(0 <= figure <= 1 for one in empty.values() for key, figure in one.items() if key != "n")
    # The evidence that has no words any more is what BM25 no longer finds.
    assert empty["bm25"]["recall@10"] == whole["bm25"]["recall@10"] == 1
    assert empty["bm25"]["mrr"] != whole["bm25"]["mrr"]


class Counting:
    """A system that counts what it is asked."""

    name = "counting"

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def score(self, streams):
        self.asked += [stream.stream_id for stream in streams]
        return self.inner.score(streams)


def test_a_run_is_taken_up_where_it_was_stopped(tmp_path, eval_streams):
    path, header = tmp_path / "kept.jsonl", {"model": "a"}
    first, second = Counting(Bm25System()), Counting(Bm25System())
    run_systems([first], eval_streams[:3], Ledger(path, header))
    with path.open("a") as file:
        file.write('{"system": "counting", "str')  # killed while writing
    whole = run_systems([second], eval_streams, Ledger(path, header))
    assert (first.asked, second.asked) == (["s0", "s1", "s2"], ["s3", "s4"])
    assert whole[0].outcomes == run_systems([Counting(Bm25System())], eval_streams)[0].outcomes
    with pytest.raises(InputError, match=r"holds outcomes of another run \(different: model\). Pass --restart"):
        Ledger(path, {"model": "b"})


def test_damaged_lines_of_a_run_are_dropped_with_a_warning_and_run_again(tmp_path, eval_streams, caplog):
    path, header = tmp_path / "kept.jsonl", {"model": "a"}
    run_systems([Bm25System()], eval_streams, Ledger(path, header))
    assert not [record for record in caplog.records if record.name.startswith("evoemb")]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff{\n", lines[1].replace(b"stream_id", b"stream"), *lines[2:]]))
    assert len(Ledger(path, header).done) == len(lines) - 2
    assert "2 damaged lines were dropped" in caplog.text
    path.write_bytes(b"")  # stopped before its first line
    assert Ledger(path, header).done == {}
    path.write_bytes(b"{\n")
    with pytest.raises(InputError, match=r"holds outcomes of another run \(different: model\). Pass --restart"):
        Ledger(path, header)


def test_outcomes_belong_to_benchmark_model_and_reading(models, eval_streams):
    model, other = models("bert", "attention"), models("qwen3", "prefix")
    header = header_of(eval_streams, model, model, PLAN)
    assert header == header_of(eval_streams, model, model, replace(PLAN, batch_size=1, against=()))
    for changed in (
        header_of(eval_streams[:4], model, model, PLAN),
        header_of(eval_streams, other, model, PLAN),
        header_of(eval_streams, model, other, PLAN),
        header_of(eval_streams, model, model, replace(PLAN, memory="final")),
    ):
        assert changed != header


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.1, 0.3, "What the memory holds helps"),
        (-0.1, 0.3, "No difference is shown"),
        (-0.3, -0.1, "It is worse than"),
    ],
)
def test_the_verdict_follows_the_interval(models, eval_streams, low, high, told):
    results = evaluate(eval_streams, models("bert", "attention"), PLAN, name="made")
    for one in results["differences"]:
        one.update(mean=(low + high) / 2, low=low, high=high)
    assert told in verdicts(results)[1]


def test_without_the_shuffled_control_no_content_is_claimed(models, eval_streams):
    results = evaluate(eval_streams, models("bert", "attention"), replace(PLAN, controls=("off",)), name="made")
    assert "nothing here shows that content is remembered" in " ".join(verdicts(results))


def test_a_static_model_is_told_to_have_no_memory(base_folder, eval_streams):
    static = SentenceTransformer(str(base_folder("bert")), device="cpu")
    results = evaluate(eval_streams, static, replace(PLAN, probe_streams=2), name="made")
    assert verdicts(results) == ["This model has no memory: all its rows are the same."]
    summaries = [system["summary"] for system in results["systems"] if system["name"] != "bm25"]
    assert all(one == summaries[0] for one in summaries)
    curves = [entry["curves"] for entry in results["probe"]["controls"].values()]
    assert curves[0] == curves[1] == curves[2]


class Page(HTMLParser):
    """What a page asks from elsewhere, and the tags it leaves open."""

    def __init__(self):
        super().__init__()
        self.outside, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_command_evaluates_goes_on_and_reports(folder, bench, tmp_path, capsys):
    out = tmp_path / "results.json"
    command = ["eval", str(bench), "--model", str(folder), "-o", str(out), "--controls", "off,shuffled"]
    command += ["--scoring", "late,hybrid"]
    assert main([*command, "--probe-streams", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# bench.jsonl.gz")
    assert (tmp_path / "results.md").read_text() == to_markdown(read_results(out))
    names = [system["name"] for system in json.loads(out.read_text())["systems"]]
    assert names[:4] == ["memory on", "memory off", "memory shuffled", "memory on, late"]
    assert names[4] == "memory on, hybrid"
    before, kept = out.read_bytes(), tmp_path / "results.outcomes.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[: len(lines) // 2]))
    assert main([*command, "--probe-streams", "2", "--quiet"]) == 0
    again, first = json.loads(out.read_text()), json.loads(before)
    for system in [*again["systems"], *first["systems"]]:
        del system["seconds"]
    assert again == first

    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    assert main(["report", str(out), "-o", str(page), "--png", str(tmp_path / "pictures")]) == 0
    text = page.read_text()
    parser = Page()
    parser.feed(text)
    assert (parser.outside, parser.open) == ([], [])
    assert text.count("<svg ") == 5
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "ages.png", "categories.png", "controls.png", "curves.png", "plane.png",
    }  # fmt: skip
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--against", "magic"], "--against magic: there is no such name"),
        (["--controls", "magic"], "There is no control 'magic'"),
        (["--limit", "1", "--controls"], "The shuffled control needs two streams or more"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_loaded(bench, tmp_path, capsys, arguments, told):
    assert main(["eval", str(bench), "-o", str(tmp_path / "r.json"), "--model", "/nowhere", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_wrong_files_are_refused(tmp_path, capsys, eval_streams):
    assert main(["eval", str(tmp_path / "none"), "-o", str(tmp_path / "r.json")]) == 2
    assert "There is no file" in capsys.readouterr().err
    write_streams(tmp_path / "bare", [replace(eval_streams[0], queries=())])
    assert main(["eval", str(tmp_path / "bare"), "-o", str(tmp_path / "r.json")]) == 2
    assert "no question has evidence" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "bare"), "-o", str(tmp_path / "r.txt")]) == 2
    assert "does not end in .json" in capsys.readouterr().err
    for content, told in (("{", "is not JSON"), ("{}", "holds no results"), (None, "has format 0, expected 1")):
        (tmp_path / "r.json").write_text(
            content or json.dumps({"format": 0, "systems": [1], "benchmark": {}}), encoding="utf-8"
        )
        assert main(["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")]) == 2
        assert told in capsys.readouterr().err


def test_a_model_without_a_reranker_cannot_be_reranked(eval_streams, models):
    with pytest.raises(InputError, match="no reranker that was trained with it"):
        evaluate(eval_streams, models("bert", "attention"), replace(PLAN, rerank=True), name="made")


def test_outcomes_of_another_reranker_are_not_taken_up(eval_streams):
    model = EvoEmbedding(device="cpu")
    plan = replace(PLAN, rerank=True)
    before = header_of(eval_streams, model, model, plan)
    assert before["reranker"] is not None
    with torch.no_grad():
        model.turn_reranker().module.trust += 1
    assert header_of(eval_streams, model, model, plan) != before
    assert header_of(eval_streams, model, model, PLAN)["reranker"] is None
