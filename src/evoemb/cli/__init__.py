"""The ``evoemb`` command: search a stream, write its embeddings, describe a model, convert a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from evoemb._errors import EvoembError
from evoemb.cli import answer, convert, data, encode, evaluate, explore, info, output, report, search, train

__all__ = ["main"]

_DONE, _REFUSED, _INTERRUPTED, _PIPE_CLOSED = 0, 2, 130, 141  # the last two as a shell reports SIGINT and SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0; 2 if the request was refused; 130 after Ctrl-C; 141 if the reader of standard output left.

    Raises:
        SystemExit: From argparse, for ``--help`` (0) and for arguments it does not know (2).
    """
    args = _parse(argv)
    # Before torch is imported, which reads it then: by default threads that wait burn a core instead of sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        args.run(args)
        sys.stdout.flush()  # here, so that a closed pipe is noticed before the interpreter ends
    except BrokenPipeError:
        _discard_output()
        return _PIPE_CLOSED
    except (EvoembError, OSError) as error:
        output.write_error(error)
        return _REFUSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with queries that stand behind an option put to the others."""
    parser = argparse.ArgumentParser(
        prog="evoemb",
        description="Embeddings that evolve: each turn of a stream is embedded with a memory of those before.",
    )
    parser.add_argument("--version", action="version", version=f"evoemb {version('evoemb')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (search, encode, info, convert, evaluate, answer, report, explore, data, train):
        command.add_parser(commands)
    args, rest = parser.parse_known_args(argv)
    # "search STREAM --top-k 3 QUERY": argparse has taken zero queries before it meets the option.
    if rest and (not hasattr(args, "queries") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.queries = [*args.queries, *rest]
    return args


def _discard_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains about the closed pipe when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
