"""Measure by how much the process grows while it reads streams of growing length.

    python benchmarks/memory.py                                               # a small decoder, up to 2,048 turns
    python benchmarks/memory.py --size tiny --turns 5000 50000                # a million tokens
    python benchmarks/memory.py --size 0.6b --tokens 128 --turns 24 40        # the shape of Qwen3-0.6B

Prints, for each length: tokens read, the peak of the process beyond what it had once the model was in place and had
merged its adapters, the embeddings that were given back, and the state with what it keeps for the next step. Every
length starts from an empty memory in the same process, so a peak that stays is flat.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from pathlib import Path

import torch
from encode import peak_mib
from shapes import SIZES, model_of, turns_of

from evoemb.modules.adapters import merge_in_inference


def restart_peak() -> None:
    """Let the peak start from what is in use now, where the system can: building a model takes more for a moment."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, nargs="+", default=[48, 512, 2048])
    parser.add_argument("--tokens", type=int, help="of a turn, about; those of the size without it")
    parser.add_argument("--unmerged", action="store_true", help="run adapters beside their layers: slower, no copies")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    model = model_of(size, dtype=getattr(torch, arguments.dtype))
    weights = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    copies = merge_in_inference(model[0].model, False if arguments.unmerged else None) / 2**20
    model.encode(["w1 w2", "w3"], stateful=True)
    restart_peak()
    loaded = peak_mib()
    print(f"{arguments.size}: {size}")
    print(f"{arguments.dtype}, weights {weights:,.0f} MiB, merged copies {copies:,.0f} MiB, process {loaded:,.0f} MiB")
    print(f"{'turns':>8} {'tokens':>10} {'peak growth MiB':>16} {'results MiB':>12} {'state MiB':>10} {'seconds':>9}")
    for count in arguments.turns:
        turns = turns_of(count, arguments.tokens or size.tokens)
        tokens = sum(turn.count(" ") + 1 for turn in turns)
        state = model.new_state()
        start = time.perf_counter()
        found = model.encode(
            turns, stateful=True, state=state, batch_size=arguments.batch_size, show_progress_bar=False
        )
        seconds = time.perf_counter() - start
        results, held = found.nbytes / 2**20, (state.nbytes + state.cache_nbytes) / 2**20
        print(
            f"{count:>8,} {tokens:>10,} {peak_mib() - loaded:>16,.0f} {results:>12,.1f} {held:>10,.1f} {seconds:>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
