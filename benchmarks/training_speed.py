"""Measure a training step with each way of reading a stream, side by side in one run.

    python benchmarks/training_speed.py                # offline MiniLM and a small random decoder
    python benchmarks/training_speed.py --turns 32 --repeats 5

Ways:

    per turn    one memory forward and one encoding forward for every turn (the paper's ablation: 101.4 h)
    segments    the paper's segment batching: up to 16 turns a memory forward (26.6 h, so 3.8 times as fast)
    blocks      attention reader: the turns of a block go through each layer together, memory included

The ways are timed in turn, ``--repeats`` times, on the same streams and with the same loss; the ratio is the median of
the pairs. Segment batching changes the latents, so it is another model; blocks give the numbers of turn by turn.

Then each way runs in a fresh process of its own, once with and once without gradient checkpointing: a step on one turn
to warm up, and a step by which memory grows above that. That is resident memory on a CPU (Linux), allocated memory on a
GPU. The step behind it is timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from evoemb import EvoEmbedding
from evoemb.default_model.base import base_model
from evoemb.losses import EvidenceContrastiveLoss
from evoemb.training import StreamCollator, parse_row
from training.state_tracking import NAMES, OBJECTS, tiny_model


def row(turns: int, words: int) -> dict[str, Any]:
    """A stream of ``turns`` turns of about ``words`` words with one question."""
    chance = random.Random(0)
    vocabulary = (*NAMES, *OBJECTS, "takes", "the", "now", "first")
    texts = [" ".join(chance.choices(vocabulary, k=words)) for _ in range(turns)]
    return {"turns": texts, "query": "who has the key now ?", "evidence": [turns // 2]}


def step(model: EvoEmbedding, features: dict[str, Any], loss: EvidenceContrastiveLoss) -> float:
    """Time one forward and backward."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    loss([features]).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


WAYS = {"decoder": ("per turn", "segments"), "encoder": ("per turn", "blocks")}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def arm(kind: str, way: str, args: argparse.Namespace) -> tuple[EvoEmbedding, dict[str, Any]]:
    """Build the model and the features of one way."""
    data = [parse_row(row(args.turns, args.words)) for _ in range(args.streams)]
    if kind == "encoder":
        model = EvoEmbedding(base_model(), device="cpu")
    else:
        with tempfile.TemporaryDirectory() as folder:
            turns = 1 if way == "per turn" else 16
            model = tiny_model("decoder", Path(folder), 0, segment_turns=turns, hidden=args.hidden)
    collator = StreamCollator(model.to(DEVICE), answers=False, row_limit=1 if way == "per turn" else args.rows)
    return model.train(), collator.features(data)


def measure(kind: str, way: str, args: argparse.Namespace) -> dict[str, float]:
    """Give by how many MiB memory grows in a step, and the seconds of the next, in this process."""
    model, features = arm(kind, way, args)
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    loss = EvidenceContrastiveLoss(model)
    collator = StreamCollator(model, answers=False)
    step(model, collator.features([parse_row(row(1, args.words))]), loss)
    model.zero_grad(set_to_none=True)
    if DEVICE == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(model, features, loss)
        grown = torch.cuda.max_memory_allocated() - before
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from here
        before = resident("VmRSS")
        step(model, features, loss)
        grown = resident("VmHWM") - before
    return {"mib": grown / 2**20, "seconds": step(model, features, loss)}


def resident(field: str) -> int:
    """Read a figure of this process's memory from Linux, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith(field + ":"))


def measured_apart(kind: str, way: str, given: list[str], *, checkpointing: bool) -> dict[str, float]:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, __file__, *given, "--measure", kind, way]
    command += ["--checkpointing"] if checkpointing else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=32)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--streams", type=int, default=1, help="streams a batch; the paper trains on one")
    parser.add_argument("--rows", type=int, default=64, help="rows of one forward in segments and blocks")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size of the random decoder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="with --measure: checkpoint gradients")
    parser.add_argument(
        "--measure", nargs=2, metavar=("KIND", "WAY"), help="one way's memory, as the main run calls it"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.measure:
        print(json.dumps(measure(*args.measure, args)))
        return
    built = {(kind, way): arm(kind, way, args) for kind, ways in WAYS.items() for way in ways}
    times: dict[tuple[str, str], list[float]] = {name: [] for name in built}
    for repeat in range(args.repeats + 1):
        for name, (model, features) in built.items():
            seconds = step(model, features, EvidenceContrastiveLoss(model))
            if repeat:  # the first one warms up
                times[name].append(seconds)
    print(f"{args.streams} x {args.turns} turns of {args.words} words, {DEVICE}, {torch.get_num_threads()} threads")
    for kind, (slow, fast) in WAYS.items():
        slow_times, fast_times = times[kind, slow], times[kind, fast]
        ratio = statistics.median(one / other for one, other in zip(slow_times, fast_times, strict=True))
        print(
            f"{kind}: {slow} {statistics.median(slow_times):.3f} s a step, "
            f"{fast} {statistics.median(fast_times):.3f} s, ratio {ratio:.1f}"
        )
    print("\nmemory of a step beside the weights, and its time, without and with gradient checkpointing")
    for kind, way in built:
        plain, saving = (measured_apart(kind, way, sys.argv[1:], checkpointing=on) for on in (False, True))
        print(
            f"{kind}, {way}: {plain['mib']:.0f} MiB and {plain['seconds']:.3f} s without, "
            f"{saving['mib']:.0f} MiB and {saving['seconds']:.3f} s with"
        )


if __name__ == "__main__":
    main()
