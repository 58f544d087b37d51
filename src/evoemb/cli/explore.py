"""``evoemb explore``: a page on which the turns of a stream are ranked as it grows."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from evoemb._errors import InputError
from evoemb._files import write_whole
from evoemb.cli import output, session
from evoemb.cli.stream_files import FORMAT_HELP, chosen_stream
from evoemb.data.files import items_of_text, name_of, read_text
from evoemb.data.streams import read_streams, streams_of_text

if TYPE_CHECKING:
    from evoemb.evaluation.pages.explore import Explorer
    from evoemb.evaluation.schema import EvalStream

_MAX_QUERIES = 40


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "explore",
        help="make a page to see how the ranking moves as a stream grows",
        description="Encode a stream and questions at several moments; write one page that works offline, or serve it.",
        epilog=FORMAT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    session.add_stream_argument(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", "--output", metavar="FILE.html", help="where the page goes")
    target.add_argument(
        "--serve", action="store_true", help="show it from this machine until Ctrl-C; typed questions go to the model"
    )
    parser.add_argument("--port", type=int, default=8765, help="port of --serve on 127.0.0.1; 0: any (default: 8765)")
    parser.add_argument("--query", action="append", default=[], metavar="QUERY", help="a question; may be repeated")
    session.add_stream_choice(parser, "the only one")
    parser.add_argument("--batch-size", type=session.positive_int, default=32, help="rows of one forward (default: 32)")
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, encode, and write or serve."""
    if args.output:
        session.check_can_write(args.output, "-o")
    if not 0 <= args.port < 65536:
        raise InputError(f"--port {args.port}: a number from 0 to 65535 is expected.")
    stream, queries = _stream(args)
    queries = list(dict.fromkeys([*args.query, *queries]))[:_MAX_QUERIES]
    if not all(query.strip() for query in queries) or (not queries and not args.serve):
        raise InputError(f"{args.stream} carries no question and --query gives none (or an empty one). Add --query.")
    from evoemb.evaluation.pages.explore import Explorer, to_page

    explorer = Explorer(session.load_model(args), stream, args.batch_size)
    page = to_page(explorer.data(queries, served=args.serve))
    if args.serve:
        _serve(explorer, page, args)
        return
    write_whole(args.output, page.encode())
    if not args.quiet:
        output.write_notice(f"Wrote {args.output}: {len(stream.turns)} turns, {len(queries)} questions.")


def _serve(explorer: Explorer, page: str, args: argparse.Namespace) -> None:
    """Show the page until Ctrl-C, which is how this ends."""
    from evoemb.evaluation.pages.explore_server import ExploreServer

    with ExploreServer(explorer, page, args.port) as server:
        output.write_notice(f"Open {server.url} on this machine; Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _stream(args: argparse.Namespace) -> tuple[EvalStream, list[str]]:
    """The stream of the file with its questions: in evoemb's own format, else in any that ``search`` reads."""
    from evoemb.evaluation.schema import EvalStream, StreamTurn
    from evoemb.evaluation.streams import streams_of as streams_with_questions

    name = name_of(args.stream)
    text = None if Path(args.stream).is_dir() else read_text(args.stream)  # once: a pipe can be read only once
    try:
        is_wanted = text is not None and args.format in ("auto", "stream")
        items = items_of_text(str(text), name, forced=True) if is_wanted else None
        streams = streams_with_questions(items or (), name)
    except InputError:
        if args.format == "stream":
            raise
    else:
        chosen = streams[chosen_stream([one.stream_id for one in streams], name, args.stream_index)]
        return chosen, [query.query for query in chosen.queries]
    plain = read_streams(args.stream, args.format) if text is None else streams_of_text(text, name, args.format)
    one = plain[chosen_stream([stream.name for stream in plain], name, args.stream_index)]
    turns = tuple(StreamTurn(text) for text in one.turns)
    return EvalStream(args.stream, turns, ()), [] if one.query is None else [one.query]
