"""``evoemb report``: the results of an evaluation as one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from evoemb._files import write_whole
from evoemb.cli import output, session


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "report",
        help="draw the results of evoemb eval as one HTML page",
        description="Draw results as one self-contained page: table, controls, categories, ages, curves, t-SNE.",
    )
    parser.add_argument("results", metavar="RESULTS.json", help="what evoemb eval wrote")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="where the page goes")
    parser.add_argument("--png", metavar="FOLDER", help="also write every picture as a PNG file there")
    parser.add_argument("--quiet", action="store_true", help="no notices on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, draw, write."""
    from evoemb.evaluation.pages.figures import pictures, write_pngs
    from evoemb.evaluation.pages.report import read_results, to_html

    session.check_can_write(args.output, "-o")
    results = read_results(args.results)
    drawn = pictures(results)
    page = to_html(results, drawn)
    write_whole(args.output, page.encode())
    written = write_pngs(drawn, Path(args.png)) if args.png else []
    if not args.quiet:
        output.write_notice(
            f"Wrote {args.output}" + (f" and {len(written)} pictures in {args.png}." if written else ".")
        )
