"""Measure evoemb against the recurrence written plainly, both with the same weights in one run.

    python benchmarks/speed.py                                     # a small decoder, about two minutes
    python benchmarks/speed.py --size issue --repeats 1            # H 1024, 6 layers, vocabulary 151,936: half an hour
    python benchmarks/speed.py --rows build causal-full --profile  # where the time of these rows goes
    python benchmarks/speed.py --size 0.8b --device cuda --dtype bfloat16

Each row prints the seconds of both (medians of ``--repeats`` runs in turn), their ratio, by how much the outputs differ
at most, which share of the peak of a matrix product, measured beside the row, the arithmetic that cannot be avoided
reaches, and which share of the rows given to the backbone was padding or run twice. On one thread seconds are processor
seconds, so that a shared machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: idle threads leave a shared machine alone

import torch
from arithmetic import Clock, Run, build_runs, counting_rows, floating_operations, peak_operations, read_runs, rows_of
from naive import Naive
from shapes import SIZES, Size, model_of, turns_of
from torch import Tensor

from evoemb import EvoEmbedding, MemoryState
from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine, whole
from evoemb.streaming.rows import Limits

STREAMS = 16


@dataclass
class Row:
    """One row of the table: two ways to the same output, and the forwards that cannot be avoided."""

    label: str
    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    runs: Sequence[Run]
    threads: int = 1
    before: Callable[[], object] = field(default=lambda: None)
    gradients: bool = False
    plain_name: str = "naive"


class Bench:
    """One model, its plain counterpart and the turns they read."""

    def __init__(self, size: Size, options: argparse.Namespace) -> None:
        self.size = size
        self.limits = Limits(options.batch_size, options.max_batch_tokens)
        self.model: EvoEmbedding = model_of(size, options.device, getattr(torch, options.dtype))
        self.naive = Naive(self.model)
        self.settings: dict[str, Any] = {
            "batch_size": options.batch_size,
            "max_batch_tokens": options.max_batch_tokens,
            "show_progress_bar": False,
            "convert_to_tensor": True,
        }
        self.turns = turns_of(size.turns, size.tokens)
        self.ids = self._ids(self.turns)
        self.lengths = [len(ids) for ids in self.ids]
        self.query = turns_of(1, 20, seed=1)
        self.texts = turns_of(33, size.tokens, seed=2)

    def rows(self) -> dict[str, Callable[[], Row]]:
        """Name the rows; each is set up when it is asked for."""
        return {
            "build": self._build,
            "turn": self._turn,
            "query": lambda: self._read("one query on a kept memory", self.query, kept=True),
            "texts": lambda: self._read(
                "a query and 32 texts on one memory, prefix in the call", self.texts, kept=False
            ),
            "texts-kept": lambda: self._read("the same, prefix kept", self.texts, kept=True),
            "causal": lambda: self._causal(self.size.unfilled_turns),
            "causal-full": lambda: self._causal(self.size.turns),
            "batch": lambda: self._batch(spread=1 / 3),
            "batch-mixed": lambda: self._batch(spread=0.9),
        }

    def _build(self) -> Row:
        return Row(
            f"build the memory of {self.size.turns} turns",
            lambda: self.naive.build(self.ids)[-self.size.capacity :],
            lambda: self._advance(self._empty(), self.ids).queue(self.size.capacity),
            self._build_runs(self.lengths),
        )

    def _turn(self) -> Row:
        before = self._advance(self._empty(live=True), self.ids[:-1])
        held, open_turns = self.size.num_latents, len(before.open_turns)
        first = min(self.size.capacity, (self.size.turns - 1 - open_turns) * held)
        past = first + sum(len(turn) + held for turn in before.open_turns)
        return Row(
            "one more turn (naive: read all again)",
            lambda: self.naive.build(self.ids)[-held:],
            lambda: self._advance(before, self.ids[-1:]).latents[-held:],
            [Run(self.lengths[-1] + held, past, range(self.lengths[-1], self.lengths[-1] + held))],
        )

    def _read(self, label: str, texts: Sequence[str], *, kept: bool) -> Row:
        state, latents = self._whole_memory
        ids = self._ids(texts)
        self.model.encode(texts, state=state, **self.settings)
        seen = min(self.size.capacity, len(latents))
        return Row(
            label,
            lambda: torch.stack([self.naive.encode(text, latents) for text in ids]),
            lambda: self.model.encode(texts, state=state, **self.settings),
            [*([] if kept else [Run(seen)]), *(Run(len(text), seen, [len(text) - 1]) for text in ids)],
            before=(lambda: None) if kept else state.trim,
        )

    @cached_property
    def _whole_memory(self) -> tuple[MemoryState, Tensor]:
        """The memory of all turns, as both ways hold it; built once for all rows that read it."""
        state = self.model.new_state()
        self.model.encode(self.turns, stateful=True, state=state, **self.settings)
        return state, self.naive.build(self.ids)

    def _causal(self, turns: int) -> Row:
        lengths = self.lengths[:turns]
        slid = turns - min(turns, self.size.unfilled_turns)
        return Row(
            f"causal retrieval of {turns} turns ({slid} after the window slid)",
            lambda: self.naive.retrieve(self.ids[:turns]),
            lambda: self.model.encode(self.turns[:turns], stateful=True, **self.settings),
            [*self._build_runs(lengths), *read_runs(self.size, lengths)],
        )

    def _batch(self, spread: float) -> Row:
        streams = [turns_of(4, self.size.tokens // 3, seed=10 + index, spread=spread) for index in range(STREAMS)]
        runs: list[Run] = []
        for stream in streams:
            lengths = [len(ids) for ids in self._ids(stream)]
            runs += [*self._build_runs(lengths), *read_runs(self.size, lengths)]
        mixed = ", lengths mixed" if spread > 0.5 else ""
        return Row(
            f"{STREAMS} streams of 4 short turns{mixed}",
            lambda: torch.cat([self.model.encode(one, stateful=True, **self.settings) for one in streams]),
            lambda: torch.cat(self.model.encode(streams, stateful=True, **self.settings)),
            runs,
            threads=2,
            plain_name="one by one",
        )

    def training(self) -> Row:
        """Give the training step: forward over one whole stream and a query, backward through the memory."""
        ids, query = self.ids[: self.size.train_turns], self._ids(self.query)
        weight = torch.randn(len(ids) + 1, self.size.hidden, generator=torch.Generator().manual_seed(2))
        weight = weight.to(self.model.device, self.model.dtype)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(turn) for turn in ids], batch_first=True)
        lengths = torch.tensor([len(turn) for turn in ids])
        features = {
            whole.NUM_TURNS: torch.tensor([len(ids)]),
            whole.NUM_QUERIES: torch.tensor([1]),
            whole.INPUT_IDS: padded,
            whole.ATTENTION_MASK: (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            whole.QUERY_IDS: torch.tensor(query),
            whole.QUERY_MASK: torch.ones_like(torch.tensor(query)),
            whole.ASKED_AT: torch.tensor([len(ids)]),
            whole.EVIDENCE: torch.zeros(1, 1, dtype=torch.long),
        }
        features = {name: tensor.to(self.model.device) for name, tensor in features.items()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        def step(embeddings: Tensor) -> Tensor:
            self.model.zero_grad()
            (embeddings * weight).sum().backward()
            return torch.cat([part.grad.flatten() for part in trained if part.grad is not None])

        def plain() -> Tensor:
            encoded = self.naive.retrieve(ids)
            asked = self.naive.encode(query[0], self.naive.build(ids))
            return step(torch.cat((encoded, asked[None])))

        def ours() -> Tensor:
            return step(self.model(dict(features))["sentence_embedding"])

        label = f"training step over {len(ids)} turns, H {self.size.hidden}, {self.size.layers} layers"
        return Row(label, plain, ours, [], gradients=True, before=self.model.train)

    def _advance(self, memory: StreamMemory, ids: Sequence[Sequence[int]]) -> StreamMemory:
        memories = [memory]
        for _ in engine.advance(self.model._stack(), memories, [ids], self.limits, embed=False):
            pass
        return memories[0]

    def _empty(self, *, live: bool = False) -> StreamMemory:
        memory = self.model.new_state().snapshot()[0]
        return memory.kept_live() if live else memory.without_live()

    def _build_runs(self, lengths: Sequence[int]) -> list[Run]:
        config = self.model.memory_config
        return build_runs(self.size, lengths, config.segment_turns, config.segment_tokens)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.model[0].token_ids(list(texts))


@dataclass
class Measured:
    """Seconds of both ways, the peak beside them, and how far the outputs are apart."""

    plain: list[float]
    ours: list[float]
    peak: float
    deviation: float
    padding: float

    @property
    def ratio(self) -> float:
        """How many times longer the plain way takes: the median of the pairs."""
        return statistics.median(slow / fast for slow, fast in zip(self.plain, self.ours, strict=True))


def measure(row: Row, bench: Bench, options: argparse.Namespace) -> Measured:
    """Run both ways of a row in turn."""
    torch.set_num_threads(row.threads if options.threads is None else options.threads)
    clock = Clock(bench.model.device, torch.get_num_threads())
    recording: Callable[[], AbstractContextManager[Any]] = nullcontext if row.gradients else torch.no_grad
    plain_seconds, our_seconds, peaks, deviation = [], [], [peak_operations(clock, bench.model.dtype)], 0.0
    with recording():
        row.before()
        with counting_rows(bench.model[0].model) as counted:
            row.ours()  # also merges the adapters, which happens once a model
        for _ in range(options.repeats):
            row.before()
            start = clock()
            theirs = row.plain()
            plain_seconds.append(clock() - start)
            seconds, found = seconds_of(row, clock)
            our_seconds.append(seconds)
            deviation = max(deviation, largest_difference(theirs, found))
            peaks.append(peak_operations(clock, bench.model.dtype))
        if options.profile:
            profile(row)
    bench.model.eval()
    padding = 1 - rows_of(row.runs) / counted.rows if row.runs else float("nan")
    return Measured(plain_seconds, our_seconds, statistics.median(peaks), deviation, padding)


def seconds_of(row: Row, clock: Clock) -> tuple[float, Tensor]:
    """Time our way, and give what it gave; short calls several times, as clocks are coarse."""
    times: list[float] = []
    while not times or (sum(times) < 0.5 and len(times) < 9):
        row.before()
        start = clock()
        found = row.ours()
        times.append(clock() - start)
    return statistics.median(times), found


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Give the largest difference, as a share of the largest number."""
    return float((first.float() - second.float()).abs().max() / first.float().abs().max())


def profile(row: Row) -> None:
    """Print where the time of our way goes."""
    with torch.profiler.profile() as profiler:
        row.before()
        row.ours()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=45))


def print_row(row: Row, found: Measured, size: Size) -> None:
    """Print one line of the table."""
    ours = statistics.median(found.ours)
    share = f"{floating_operations(size, row.runs) / found.peak / ours:7.0%}" if row.runs else "      -"
    padding = f"{found.padding:7.1%}" if row.runs else "      -"
    print(
        f"{row.label:<58} {statistics.median(found.plain):>9.3f} {ours:>9.3f} {found.ratio:>7.1f} "
        f"{found.deviation:>10.1e} {share} {padding}"
        + (f"   (against {row.plain_name})" * (row.plain_name != "naive")),
        flush=True,
    )


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", nargs="+", help="names of rows; all without it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-batch-tokens", type=int)
    parser.add_argument("--threads", type=int, help="1, and 2 for batches of streams, without it")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args(None if arguments is None else list(arguments))


def main() -> None:
    """Run the benchmark and print the table."""
    options = parse()
    size = SIZES[options.size]
    print(f"{options.size}: {size}\n{options.device}, {options.dtype}, torch {torch.__version__}")
    print(
        f"{'':<58} {'naive s':>9} {'evoemb s':>9} {'ratio':>7} {'deviation':>10} {'of peak':>7} {'padding':>7}",
        flush=True,
    )
    wanted = set(options.rows or [])
    bench = Bench(size, options)
    for name, row_of in bench.rows().items():
        if not wanted or name in wanted:
            with torch.no_grad():
                row = row_of()
            print_row(row, measure(row, bench, options), size)
    if not wanted or "training" in wanted:
        smaller = bench if size.train is None else Bench(size.train, options)
        row = smaller.training()
        print_row(row, measure(row, smaller, options), smaller.size)


if __name__ == "__main__":
    main()
