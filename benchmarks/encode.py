"""Measure reading a stream against encoding the same texts with plain sentence-transformers, side by side in one run.

    python benchmarks/encode.py                      # offline MiniLM, streams of 64, 1,000 and 10,000 turns
    python benchmarks/encode.py --turns 64 1000 --model sentence-transformers/all-MiniLM-L6-v2

Prints, for each length: turns a second of both, the ratio of their times (how many times longer the stream takes), and
by how much the process's peak memory grew beyond what it had after loading both models. The two are timed in turn,
``--repeats`` times, and the ratio is the median of the pairs.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb.defaults import base_model

PLACES = ("Oslo", "Porto", "Bern", "Lyon", "Riga", "Kyiv", "Rome", "Paris")
DEEDS = ("moved to", "booked a train to", "found a flat in", "met my sister in", "left my umbrella in", "work in")
EXTRAS = ("on Monday", "because it was cheaper than the other one I had looked at before", "", "with two friends")


def turns_of(count: int) -> list[str]:
    """Write a conversation of ``count`` turns of 8 to 40 tokens, the same one every time."""
    chance = random.Random(0)
    template = "User: I {} {} {}.\nAssistant: Noted, {}."
    return [
        template.format(chance.choice(DEEDS), place := chance.choice(PLACES), chance.choice(EXTRAS), place)
        for _ in range(count)
    ]


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Give the peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=base_model())
    parser.add_argument("--turns", type=int, nargs="+", default=[64, 1000, 10000])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    static = SentenceTransformer(arguments.model, device=arguments.device)
    evolving = EvoEmbedding(arguments.model, device=arguments.device)
    settings = {"batch_size": arguments.batch_size, "show_progress_bar": False}
    warm = turns_of(64)
    static.encode(warm, **settings)
    evolving.encode(warm, stateful=True, **settings)
    loaded = peak_mib()
    print(f"{type(evolving[0].model).__name__}, {torch.get_num_threads()} threads, batch {arguments.batch_size}")
    print(f"{'turns':>7} {'static turns/s':>15} {'stream turns/s':>15} {'time ratio':>11} {'peak growth MiB':>16}")
    for count in arguments.turns:
        turns = turns_of(count)
        pairs = [
            (
                seconds(lambda turns=turns: static.encode(turns, **settings)),
                seconds(lambda turns=turns: evolving.encode(turns, stateful=True, **settings)),
            )
            for _ in range(max(1, min(arguments.repeats, 20000 // count)))
        ]
        plain, stream = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(after / before for before, after in pairs)
        growth = peak_mib() - loaded
        print(f"{count:>7,} {count / plain:>15,.0f} {count / stream:>15,.0f} {ratio:>11.2f} {growth:>16.0f}")


if __name__ == "__main__":
    main()
