"""Measure a model with its memory on, off and taken from other streams: ``python evaluate.py MODEL [options]``.

Prints one table a set, and writes all figures to ``--json``. PICK is order accuracy among turns of the same words.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from generator.facts import EASY_CATEGORIES, STATE_CATEGORIES, UNIT_CATEGORIES
from generator.streams import Shape, make_streams
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb.evaluation.anchors import make_anchor
from evoemb.evaluation.bootstrap import paired_difference
from evoemb.evaluation.controls import Control
from evoemb.evaluation.evolving import EvolvingSystem
from evoemb.evaluation.metrics import averages, summary
from evoemb.evaluation.runs import SystemRun, run_systems
from evoemb.evaluation.schema import EvalStream, parse_stream
from evoemb.evaluation.streams import read_streams
from evoemb.evaluation.systems import StaticSystem, StaticVectors, System

CONTROLS = ("on", "off", "shuffled", "ages")
"""``ages``: the stream's own memory with its turns in random order, that is, of wrong age."""

Table = dict[str, dict[str, float]]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=60, help="generated test streams")
    parser.add_argument("--short", type=int, default=0, help="those of 5 to 12 turns, of changing values alone")
    parser.add_argument("--long", type=int, default=0, help="generated test streams of 200 to 300 turns")
    parser.add_argument("--sgd", help="SGD conversations, development half")
    parser.add_argument("--locomo", help="LoCoMo conversations (CC BY-NC: to measure, never to train)")
    parser.add_argument("--limit", type=int, help="streams read of each file")
    parser.add_argument("--control", help="a model of control.py: what the same training gives without a memory")
    parser.add_argument("--sts", help="STS-B test pairs, a line each: first text, second text, score")
    parser.add_argument("--controls", nargs="+", default=list(CONTROLS), choices=CONTROLS)
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    model = EvoEmbedding(told.model)
    model.eval()
    found: dict[str, Any] = {"model": told.model}
    beside = [StaticSystem(StaticVectors(SentenceTransformer(told.control)), "control")] if told.control else []
    if told.streams:
        streams = generated(told.streams, Shape(10, 48), told.split)
        found["generated"] = by_category("generated", model, streams, told.controls, beside)
    if told.short:
        shape = Shape(5, 12, max_leading=3, only_values=True)
        found["short"] = by_category("5 to 12 turns", model, generated(told.short, shape), told.controls, beside)
    if told.long:
        found["long"] = by_category(
            "200 to 300 turns", model, generated(told.long, Shape(200, 300)), ("on", "off"), beside
        )
    if told.sgd:
        found["sgd"] = state_questions(model, read_streams(told.sgd, told.limit), told.controls, beside)
    if told.locomo:
        found["locomo"] = conversations(model, read_streams(told.locomo, told.limit), told.controls, beside)
    if told.sts:
        found["sts"] = similarity_of_pairs(model, Path(told.sts))
    if told.json:
        told.json.write_text(json.dumps(found, indent=1) + "\n")


def generated(count: int, shape: Shape, split: Any = "test", seed: int = 0) -> list[EvalStream]:
    """Give generated test streams: templates, names and values that training never sees."""
    return [parse_stream(stream, stream["stream_id"]) for stream in make_streams(count, seed, split, shape)]


def runs(
    model: EvoEmbedding,
    streams: Sequence[EvalStream],
    controls: Sequence[str],
    anchors: Sequence[str],
    beside: Sequence[System],
) -> list[SystemRun]:
    """Score anchors, what else stands ``beside`` them, and the model under every control."""
    vectors = StaticVectors(model)
    systems: list[Any] = [*(make_anchor(name, vectors) for name in anchors), *beside]
    systems += [EvolvingSystem(model, control=Control(kind), all_streams=streams) for kind in controls]
    return run_systems(systems, streams, group_size=16)


def by_category(
    title: str,
    model: EvoEmbedding,
    streams: Sequence[EvalStream],
    controls: Sequence[str],
    beside: Sequence[System] = (),
) -> Table:
    """R@1 of each category, and PICK over the categories of identical turns."""
    table: Table = {}
    for run in runs(model, streams, controls, ("static", "bm25"), beside):
        groups = summary(run.outcomes)["by_category"]
        row = {name: 100 * groups[name]["hit@1"] for name in CATEGORIES if name in groups}
        row["ALL"] = 100 * averages(run.outcomes)["hit@1"]
        picked = [one for one in run.outcomes if one.query.category in UNIT_CATEGORIES and one.order is not None]
        if picked:
            # Static vectors of the same words tie: that is a guess among them.
            chances = [1 / len(one.query.mentions) for one in picked]
            right = [guess if one.order == 0.5 else one.order for one, guess in zip(picked, chances, strict=True)]
            row["PICK"] = 100 * fmean(right)
            row["chance"] = 100 * fmean(chances)
        table[run.name] = row
    show(f"{title}: R@1, {len(streams)} streams", table)
    return table


CATEGORIES = (*STATE_CATEGORIES, *UNIT_CATEGORIES, *EASY_CATEGORIES)


def state_questions(
    model: EvoEmbedding, streams: Sequence[EvalStream], controls: Sequence[str], beside: Sequence[System] = ()
) -> Table:
    """Order accuracy, first and last jointly, the same question at two times, and R@10 of slots with one value."""
    table: Table = {}
    for run in runs(model, streams, controls, ("static", "position"), beside):
        whole = summary(run.outcomes)
        table[run.name] = {
            "order": 100 * whole["overall"]["order_acc"],
            "joint": 100 * whole["pairwise"]["joint_first_and_last"],
            "evolving": 100 * whole["evolving"]["joint_order"],
            "R@1": 100 * whole["overall"]["recall@1"],
            "R@10": 100 * whole["overall"]["recall@10"],
            "single R@10": 100 * whole["by_category"]["ku-single"]["recall@10"],
        }
    show(f"SGD, {len(streams)} conversations", table)
    return table


def conversations(
    model: EvoEmbedding, streams: Sequence[EvalStream], controls: Sequence[str], beside: Sequence[System] = ()
) -> Table:
    """R@10 over whole conversations, with paired bootstrap intervals of the memory over static and shuffled."""
    table: Table = {}
    done = {run.name: run for run in runs(model, streams, controls, ("static", "centred", "mix", "bm25"), beside)}
    for name, run in done.items():
        whole = averages([one for one in run.outcomes if one.query.category != "adversarial"])
        table[name] = {"R@10": 100 * whole["recall@10"], "R@1": 100 * whole["recall@1"], "MRR": 100 * whole["mrr"]}
    show(f"conversations, {len(streams)} streams", table)
    for other in ("static", "mix", "centred", "control", "memory shuffled"):
        if other in done and "memory on" in done:
            print(f"memory on minus {other}: {difference(done['memory on'], done[other])}")
    return table


def difference(one: SystemRun, other: SystemRun) -> Any:
    """Give the paired bootstrap interval of R@10."""
    return paired_difference(one.outcomes, other.outcomes, "recall@10")


def similarity_of_pairs(model: EvoEmbedding, path: Path) -> dict[str, float]:
    """Spearman correlation on STS pairs: stateless, and on an explicitly empty memory."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    right = [float(row[2]) for row in rows]
    found = {}
    for name, state in (("stateless", None), ("empty memory", model.new_state())):
        options: dict[str, Any] = {"state": state, "show_progress_bar": False, "convert_to_tensor": True}
        one, two = (model.encode([row[side] for row in rows], **options) for side in (0, 1))
        found[name] = 100 * _spearman(torch.nn.functional.cosine_similarity(one, two).cpu().numpy(), right)
    print(f"\nSTS-B Spearman: {found}")
    return found


def _spearman(scores: Any, right: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(scores, right).statistic)


def show(title: str, table: Table) -> None:
    """Print a table, systems as rows."""
    columns = list(next(iter(table.values())))
    print(f"\n{title}\n{'':<16}" + "".join(f"{name[:12]:>13}" for name in columns))
    for name, row in table.items():
        print(f"{name:<16}" + "".join(f"{row.get(column, float('nan')):>13.1f}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
