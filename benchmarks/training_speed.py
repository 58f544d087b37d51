"""Measure a training step with each way of reading a stream, side by side in one run.

    python benchmarks/training_speed.py                # offline MiniLM and a small random decoder
    python benchmarks/training_speed.py --turns 32 --repeats 5 --checkpointing

Ways:

    per turn    one memory forward and one encoding forward for every turn (the paper's ablation: 101.4 h)
    segments    the paper's segment batching: up to 16 turns a memory forward (26.6 h, so 3.8 times as fast)
    blocks      attention reader: the turns of a block go through each layer together, memory included

The ways are timed in turn, ``--repeats`` times, on the same streams and with the same loss; the ratio is the median of
the pairs. Segment batching changes the latents, so it is another model; blocks give the numbers of turn by turn.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from evoemb import EvoEmbedding
from evoemb.defaults import base_model
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


def arms(args: argparse.Namespace) -> dict[str, tuple[EvoEmbedding, dict[str, Any]]]:
    """Build models and features: a decoder turn by turn and in segments, an encoder turn by turn and in blocks."""
    data = [parse_row(row(args.turns, args.words)) for _ in range(args.streams)]
    with tempfile.TemporaryDirectory() as folder:
        decoders = {
            turns: tiny_model(
                "decoder", Path(folder) / str(turns), 0, init="paper", segment_turns=turns, hidden=args.hidden
            )
            for turns in (1, 16)
        }
    encoder = EvoEmbedding(base_model(), device="cpu")
    built = {
        "decoder, per turn": (decoders[1], 1),
        "decoder, segments": (decoders[16], args.rows),
        "encoder, per turn": (encoder, 1),
        "encoder, blocks": (encoder, args.rows),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for name, (model, rows) in built.items():
        if args.checkpointing:
            model.gradient_checkpointing_enable()
        collator = StreamCollator(model.to(device), answers=False, row_limit=rows)
        found[name] = (model.train(), collator.features(data))
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
    parser.add_argument("--checkpointing", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    built = arms(args)
    times: dict[str, list[float]] = {name: [] for name in built}
    for repeat in range(args.repeats + 1):
        for name, (model, features) in built.items():
            seconds = step(model, features, EvidenceContrastiveLoss(model))
            if repeat:  # the first one warms up
                times[name].append(seconds)
    print(f"{args.streams} x {args.turns} turns of {args.words} words, checkpointing {args.checkpointing}")
    for kind, fast in (("decoder", "segments"), ("encoder", "blocks")):
        slow_times, fast_times = times[f"{kind}, per turn"], times[f"{kind}, {fast}"]
        ratio = statistics.median(slow / quick for slow, quick in zip(slow_times, fast_times, strict=True))
        print(
            f"{kind}: per turn {statistics.median(slow_times):.3f} s a step, "
            f"{fast} {statistics.median(fast_times):.3f} s, ratio {ratio:.1f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB, all models together")


if __name__ == "__main__":
    main()
