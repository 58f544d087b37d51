"""What the commands on benchmarks share: which streams they read, how, and where the results go."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from evoemb._errors import InputError
from evoemb.cli import session

if TYPE_CHECKING:
    from evoemb.evaluation.schema import EvalStream


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Add BENCH, ``--data``, ``--revision`` and ``--limit``."""
    parser.add_argument("benchmark", metavar="BENCH", help="a file in evoemb's stream format, or a benchmark's name")
    parser.add_argument(
        "--data", metavar="PATH", help="the named benchmark's files as published (default: from the Hub)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the benchmark on the Hub (default: its newest)")
    parser.add_argument("--limit", type=session.positive_int, metavar="N", help="streams read at most")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that reads a benchmark with a model and goes on where it was stopped."""
    parser.add_argument("--memory", choices=("causal", "final"), default="causal", help="reading (default: causal)")
    parser.add_argument("--batch-size", type=session.positive_int, default=32, help="rows of one forward (default: 32)")
    parser.add_argument("--restart", action="store_true", help="begin anew where a run was stopped")


def check_results_name(path: str) -> None:
    """Refuse a results file that cannot be made, or whose name has no room for the files beside it.

    Raises:
        InputError: The folder cannot be written to, or the name does not end in ``.json``.
    """
    session.check_can_write(path, "-o")
    if not path.endswith(".json"):
        raise InputError(f"-o {path}: this name does not end in .json. Choose one that does.")


def read_benchmark(args: argparse.Namespace) -> list[EvalStream]:
    """The streams of a file, or of a benchmark known by name.

    Raises:
        InputError: There is neither, or a file is malformed.
        OSError: A file cannot be read or fetched.
    """
    from evoemb.evaluation.benchmarks.registry import BENCHMARKS, load_benchmark
    from evoemb.evaluation.streams import read_streams

    if args.benchmark in BENCHMARKS:
        path = Path(args.data) if args.data else None
        return load_benchmark(args.benchmark, path, args.revision)[: args.limit]
    if args.data or args.revision:
        option = "--data" if args.data else "--revision"
        raise InputError(f"{option} goes with a benchmark's name, but {args.benchmark} is none. Leave it out.")
    if Path(args.benchmark).is_file():
        return read_streams(args.benchmark, args.limit)
    names = ", ".join(BENCHMARKS)
    raise InputError(f"There is no file {args.benchmark}, and no such benchmark. Give a file, or one of {names}.")


def names_of(option: str, text: str, known: Collection[str] | None = None) -> tuple[str, ...]:
    """The names of a list with commas, each once.

    Raises:
        InputError: One of them is not ``known``.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if known is not None and name not in known]
    if unknown:
        raise InputError(f"{option} {unknown[0]}: there is no such name. Choose among {', '.join(known or ())}.")
    return names
