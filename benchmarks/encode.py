"""Measure reading a stream against encoding the same texts without memory, side by side in one run.

    python benchmarks/encode.py                      # offline MiniLM, streams of 64, 1,000 and 10,000 turns
    python benchmarks/encode.py --turns 64 1000 --model sentence-transformers/all-MiniLM-L6-v2
    python benchmarks/encode.py --turns 200 --model evoemb-minilm --texts examples/data/sgd_dialogue.jsonl

A text model gets a fresh memory, and stands against plain sentence-transformers. A saved evoemb model, or a released
checkpoint, stands against itself without memory: what its base costs.

Prints, for each length: turns a second of both, how many times longer the stream takes, as the median of the pairs and
as the best time over the best, and by how much the process's peak memory grew beyond what it had after loading. The two
are timed in turn, ``--repeats`` times.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from statistics import fmean, median

import torch
from sentence_transformers import SentenceTransformer

from evoemb import EvoEmbedding
from evoemb.default_model.base import base_model
from evoemb.evaluation.streams import read_streams
from evoemb.modules.stateful_transformer import MEMORY_CONFIG_FILE
from evoemb.modules.tensor_files import Source

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


def turns_in(path: str, count: int) -> list[str]:
    """Give ``count`` turns of a file's streams in order, from the first again where there are too few."""
    return list(islice(cycle([text for stream in read_streams(path) for text in stream.texts]), count))


def static_model(name: str, evolving: EvoEmbedding, device: str) -> SentenceTransformer:
    """Give what encodes without memory: sentence-transformers' own model, or one with a saved memory as it is."""
    if evolving.describe()["memory_trained"] or Source(name).path(MEMORY_CONFIG_FILE):
        return evolving  # sentence-transformers alone does not load its modules
    return SentenceTransformer(name, device=device)


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Give the peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=base_model(), help="text model, evoemb model or released checkpoint")
    parser.add_argument("--turns", type=int, nargs="+", default=[64, 1000, 10000])
    parser.add_argument("--texts", metavar="FILE", help="a file in evoemb's stream format; made turns without it")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's choice without it")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(None if arguments is None else list(arguments))


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the benchmark and print the table."""
    told = parse(arguments)
    if told.threads is not None:
        torch.set_num_threads(told.threads)
    evolving = EvoEmbedding(told.model, device=told.device)
    static = static_model(told.model, evolving, told.device)
    settings = {"batch_size": told.batch_size, "show_progress_bar": False}
    warm = turns_of(64)
    static.encode(warm, **settings)
    evolving.encode(warm, stateful=True, **settings)
    loaded = peak_mib()
    against = "itself without memory" if static is evolving else "sentence-transformers"
    print(f"{told.model} against {against}; texts: {told.texts or 'made'}")
    print(f"{type(evolving[0].model).__name__}, {torch.get_num_threads()} threads, batch {told.batch_size}")
    print(
        f"{'turns':>7} {'words a turn':>13} {'static turns/s':>15} {'stream turns/s':>15} {'time ratio':>11} "
        f"{'of the best':>12} {'peak growth MiB':>16}"
    )
    for count in told.turns:
        turns = turns_in(told.texts, count) if told.texts else turns_of(count)
        words = fmean(len(turn.split()) for turn in turns)
        pairs = [
            (
                seconds(lambda turns=turns: static.encode(turns, **settings)),
                seconds(lambda turns=turns: evolving.encode(turns, stateful=True, **settings)),
            )
            for _ in range(max(1, min(told.repeats, 20000 // count)))
        ]
        plain, stream = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(after / before for before, after in pairs)
        best = min(after for _, after in pairs) / min(before for before, _ in pairs)
        growth = peak_mib() - loaded
        print(
            f"{count:>7,} {words:>13.1f} {count / plain:>15,.0f} {count / stream:>15,.0f} {ratio:>11.2f} "
            f"{best:>12.2f} {growth:>16.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
