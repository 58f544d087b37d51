"""Benchmarks by Hub id, through the real client, against a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evoemb.evaluation.benchmarks.registry import BENCHMARKS
from hub.hub_server import serving

LMEB, LONGMEMEVAL = "KaLM-Embedding/LMEB", "xiaowu0162/longmemeval-cleaned"

# The client reads its endpoint when it is imported, so each step that needs another environment is a process.
_CLIENT = """
import json, sys
from pathlib import Path
from evoemb.evaluation.benchmarks.registry import load_benchmark

results = {}
for step, (name, revision) in json.loads(sys.argv[1]).items():
    try:
        results[step] = [stream.texts for stream in load_benchmark(name, None, revision)]
    except Exception as error:
        results[step] = f"{type(error).__name__}: {error}"
Path(sys.argv[2]).write_text(json.dumps(results))
"""


def lines(path: Path, *values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def lmeb_folder(folder: Path, text: str) -> Path:
    """Tasks of LMEB as its data set lays them out, one of them in parts."""
    for task in ("Semantic/QASPER", "Semantic/MLDR", "Dialogue/LoCoMo"):
        part = folder / task / ("" if task.startswith("Semantic") else "single_hop")
        lines(folder / task / "corpus.jsonl", {"id": "d_1", "title": "", "text": f"{text} of {task}"})
        lines(folder / task / "candidates.jsonl", {"scene_id": "q_1", "candidate_doc_ids": ["d_1"]})
        lines(part / "queries.jsonl", {"id": "q_1", "text": "who?"})
        (part / "qrels.tsv").write_text("q_1\td_1\t1\n")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with LMEB in two revisions and a LongMemEval that lacks its files."""
    with serving() as hub:
        for revision in ("old", "main"):
            hub.add(LMEB, lmeb_folder(tmp_path_factory.mktemp(revision), f"{revision} text"))
            hub.repositories[LMEB].refs[revision] = hub.repositories[LMEB].refs["main"]
        empty = tmp_path_factory.mktemp("empty")
        (empty / "README.md").write_text("nothing yet")
        hub.add(LONGMEMEVAL, empty)
        yield hub


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """Load benchmarks in a fresh process, with one cache for all of them."""
    cache = tmp_path_factory.mktemp("cache")

    def run(steps: dict[str, tuple[str, str | None]], **environment: str) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "HTTP"))}
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
        out = tmp_path_factory.mktemp("out") / "results.json"
        command = [sys.executable, "-c", _CLIENT, json.dumps(steps), str(out)]
        told = {**kept, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())

    return run


@pytest.fixture(scope="module")
def loaded(hub, run):
    """What loading gave, and what was asked of the hub while loading the first and the second time."""
    commit = hub.repositories[LMEB].refs["old"]
    first = run({"by id": ("qasper", None), "by branch": ("qasper", "old"), "parts": ("lmeb-locomo", None)})
    asked = list(hub.requests)
    hub.requests.clear()
    second = run(
        {
            "again": ("qasper", None),
            "by commit": ("qasper", commit),
            "unknown revision": ("qasper", "nowhere"),
            "lacking": ("longmemeval-s", None),
            "unknown": ("personamem-32k", None),
        }
    )
    return {**first, **second, "asked": asked, "asked again": list(hub.requests)}


def test_a_benchmark_loads_by_its_id_and_revision(loaded):
    assert loaded["by id"] == [["main text of Semantic/QASPER"]]
    assert loaded["by branch"] == loaded["by commit"] == [["old text of Semantic/QASPER"]]
    assert loaded["parts"] == [["main text of Dialogue/LoCoMo"]]


def test_only_the_files_of_the_task_are_fetched_and_only_once(loaded):
    fetched = [one for one in loaded["asked"] if one.startswith("GET") and "/resolve/" in one]
    assert len(fetched) == len(set(fetched))
    assert {one.split("/")[-2] for one in fetched} == {"QASPER", "LoCoMo"}  # what both tasks share is fetched once
    assert not [one for one in loaded["asked again"] if one.startswith("GET") and "/resolve/" in one]
    assert loaded["again"] == [["main text of Semantic/QASPER"]]


def test_what_cannot_be_fetched_is_named(loaded):
    assert loaded["lacking"].startswith(f"InputError: {LONGMEMEVAL} has no longmemeval_s_cleaned.json at revision main")
    assert "RevisionNotFoundError" in loaded["unknown revision"]
    assert "nowhere" in loaded["unknown revision"]
    assert "RepositoryNotFoundError" in loaded["unknown"]


def test_offline_a_benchmark_comes_from_the_cache_or_says_what_lacks(loaded, run):
    steps = {
        "cached": ("qasper", None),
        "old": ("qasper", "old"),
        "never": ("mldr", None),
        "away": ("personamem-32k", None),
    }
    found = run(steps, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (found["cached"], found["old"]) == ([["main text of Semantic/QASPER"]], [["old text of Semantic/QASPER"]])
    assert LMEB in found["never"]  # recent clients tell it themselves, older ones leave it to us
    assert "offline" in found["never"].lower()
    assert "LocalEntryNotFoundError" in found["away"]


def test_every_benchmark_of_the_hub_names_its_files():
    assert all(one.files for one in BENCHMARKS.values() if one.repository)
