"""``evoemb explore``: a page on which the turns of a stream are ranked as it grows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evoemb._errors import InputError
from evoemb.cli import output, session
from evoemb.cli.stream_files import FORMAT_HELP, read_one_stream

if TYPE_CHECKING:
    from evoemb.evaluation.schema import EvalStream

_MAX_QUERIES = 40


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "explore",
        help="make a page to see how the ranking moves as a stream grows",
        description="Encode a stream and questions at several moments, and write one page that works offline.",
        epilog=FORMAT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    session.add_stream_argument(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="where the page goes")
    parser.add_argument("--query", action="append", default=[], metavar="QUERY", help="a question; may be repeated")
    parser.add_argument("--stream", dest="stream_index", type=int, metavar="N", help="which stream of the file, from 0")
    parser.add_argument("--batch-size", type=session.positive_int, default=32, help="rows of one forward (default: 32)")
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, encode, write."""
    session.check_can_write(args.output, "-o")
    stream, queries = _stream(args)
    queries = [*args.query, *queries][:_MAX_QUERIES]
    if not queries or not all(query.strip() for query in queries):
        raise InputError(f"{args.stream} carries no question and --query gives none (or an empty one). Add --query.")
    from evoemb.evaluation.explore import precompute, to_page

    page = to_page(precompute(session.load_model(args), stream, queries, args.batch_size))
    session.replace_file(args.output, lambda path: path.write_text(page, encoding="utf-8"))
    if not args.quiet:
        output.write_notice(f"Wrote {args.output}: {len(stream.turns)} turns, {len(set(queries))} questions.")


def _stream(args: argparse.Namespace) -> tuple[EvalStream, list[str]]:
    """The stream of the file with its questions: in evoemb's own format, else in any that ``search`` reads."""
    from evoemb.evaluation.schema import EvalStream, StreamTurn
    from evoemb.evaluation.streams import read_streams

    try:
        streams = read_streams(args.stream) if args.stream != "-" and args.format in ("auto", "stream") else []
    except InputError:
        if args.format == "stream":
            raise
        streams = []
    if streams:
        index = args.stream_index or 0
        if not 0 <= index < len(streams):
            raise InputError(
                f"--stream {index} was given, but {args.stream} holds the streams 0 to {len(streams) - 1}."
            )
        return streams[index], [query.query for query in streams[index].queries]
    plain = read_one_stream(args.stream, args.format, args.stream_index)
    turns = tuple(StreamTurn(text) for text in plain.turns)
    return EvalStream(args.stream, turns, ()), [] if plain.query is None else [plain.query]
