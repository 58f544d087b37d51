"""``evoemb info``: what a model is."""

from __future__ import annotations

import argparse

from evoemb.cli import output, session


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "info",
        help="say what a model is: backbone, memory, sizes",
        description="Say what a model is: its backbone, how it reads the memory, its sizes, and whether its memory is "
        "trained.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="folder or Hub id (default: evoemb-minilm)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--device", help="where to load it: cpu, cuda, ... (default: the best there is)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load the model and show what it says of itself."""
    description = session.load_model(args).describe()
    if args.json:
        output.write_json(description)
    else:
        output.write_fields({name.replace("_", " "): value for name, value in description.items()})
