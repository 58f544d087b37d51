"""``evoemb convert``: write a released checkpoint as an evoemb model."""

from __future__ import annotations

import argparse

from evoemb.cli import output, session


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "convert",
        help="write a released EvoRAG checkpoint as an evoemb model",
        description="Write a released EvoRAG checkpoint as an evoemb model, which gives the same embeddings and can be "
        "pushed to the Hub. Checkpoints also load as they are; a converted one loads without its base model's "
        "repository. The report says what became of every key.",
    )
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("folder", metavar="DST", help="folder to write; new or empty")
    parser.add_argument("--base-model", help="folder or Hub id of the base model's configuration (default: as named)")
    parser.add_argument("--tokenizer", help="folder or Hub id of the tokenizer (default: the base model's)")
    parser.add_argument("--revision", help="branch, tag or commit of the checkpoint")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16", "auto"),
        help="of the written weights: float32 keeps every number (default), auto takes what the base is stored in",
    )
    parser.add_argument(
        "--native", action="store_true", help="copy the plain embedding model inside the checkpoint too"
    )
    parser.add_argument(
        "--all-keys", action="store_true", help="name every key in the report, not only those left over"
    )
    parser.add_argument("--quiet", action="store_true", help="no notices and no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert, then print the report."""
    session.quieten(args)
    from evoemb.released import convert

    report = convert(
        args.source,
        args.folder,
        native=args.native,
        dtype=args.dtype,
        base_model=args.base_model,
        tokenizer=args.tokenizer,
        revision=args.revision,
    )
    for line in report.lines(every=args.all_keys):
        output.write(line)
    if not args.quiet:
        output.write_notice(f'Wrote {args.folder}. Load it with EvoEmbedding("{args.folder}").')
