"""A process that works on a store until it is killed, and tells on its output what is done."""

from __future__ import annotations

import sys
from collections.abc import Callable

from evoemb import EvoEmbedding, MemoryStore


def tell(*words: object) -> None:
    print(*words, flush=True)


def write(path: str, folder: str, run: str) -> None:
    """Add two turns at a time, and forget every third pair's first."""
    with MemoryStore(path, EvoEmbedding(folder, device="cpu"), precision="float32") as store:
        chat = store.stream("chat-1")
        for turn in range(100_000):
            seq = chat.add([f"i live in {run} {turn}", f"i moved to {run} {turn}"])[0]
            tell("+", seq, turn)
            if turn % 3 == 2:
                tell("?", seq)
                chat.forget(seq)
                tell("-", seq)


def reembed(path: str, folder: str, _: str) -> None:
    """Let another model read the store again."""
    model = EvoEmbedding(folder, device="cpu")
    with MemoryStore(path) as store:
        tell("begun")
        store.reembed(model)
        tell("done")


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    jobs: dict[str, Callable[[str, str, str], None]] = {"write": write, "reembed": reembed}
    jobs[job](*arguments)
