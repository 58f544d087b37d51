"""``evoemb search``: read a stream and rank its turns for each query."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evoemb._errors import InputError
from evoemb.cli import output, session
from evoemb.cli.across import search_all
from evoemb.cli.stream_files import FORMAT_HELP, chosen_stream
from evoemb.data import FileStream, read_streams
from evoemb.data.streams import check_text

if TYPE_CHECKING:
    from torch import Tensor

    from evoemb.model import EvoEmbedding
    from evoemb.ranking import Hit
    from evoemb.state import MemoryState

_EXAMPLES = """
examples:
  evoemb search chat.jsonl "Where did I travel?" "What is my current address?"
  evoemb search monday.jsonl "Where is my hotel?" --state trip.safetensors
  evoemb search tuesday.jsonl "Where is my hotel now?" --state trip.safetensors
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "search",
        help="rank the turns of a stream for each query",
        description="Read a stream turn by turn with a memory of the turns before, and rank its turns for each query.",
        epilog=FORMAT_HELP + "\n" + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    session.add_stream_argument(parser)
    parser.add_argument("queries", metavar="QUERY", nargs="*", help="question (default: the query in an EvoTrain file)")
    session.add_stream_choice(parser, "search across all of them")
    parser.add_argument("--top-k", type=session.positive_int, default=5, help="turns to show for a query (default: 5)")
    parser.add_argument(
        "--scoring",
        choices=("vector", "late", "hybrid"),
        help="vector: embeddings with memory; late: these and tokens; hybrid: with BM25 (default: the model's own)",
    )
    parser.add_argument("--static", action="store_true", help="also show the ranking without memory, beside it")
    parser.add_argument("--json", action="store_true", help="JSON lines, one object for a query")
    session.add_reading_options(parser)
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, rank, save the state, and only then print: a closed pipe must not lose what was read."""
    streams = read_streams(args.stream, args.format)
    if len(streams) > 1 and args.queries and args.stream_index is None:
        search_all(args, streams, _checked_queries(args.queries))
        return
    stream = streams[chosen_stream([one.name for one in streams], args.stream, args.stream_index)]
    queries = _queries(args.queries, stream, args.stream)
    if args.state is not None:
        session.check_can_write(args.state, "--state")
    opened = session.OpenedState(args, stream.turns)
    model = session.load_model(args)
    state = opened.of(model)
    num_turns_before = int(state.num_turns)  # type: ignore[arg-type]  # a number, as the state has one stream
    turns = opened.turns_with_answer(stream.given)
    ranked = _rank_with_memory(model, stream.given, turns, queries, state, args)
    static = _rank_without_memory(model, turns, queries, args) if args.static else [None] * len(queries)
    opened.save(state)
    if not args.quiet:
        output.write_notice(_what_was_read(len(stream.turns), num_turns_before, args.state))
    for query, hits, static_hits in zip(queries, ranked, static, strict=True):
        if args.json:
            output.write_json(_as_object(query, hits, static_hits))
        else:
            output.write_hits(query, hits, static_hits)


def _queries(given: Sequence[str], stream: FileStream, path: str) -> Sequence[str]:
    """The queries to answer: those of the command line, else the file's own."""
    queries = list(given) or ([] if stream.query is None else [stream.query])
    if not queries:
        raise InputError(f"No QUERY was given, and {path} carries none. Add a question: evoemb search {path} QUERY")
    return _checked_queries(queries)


def _checked_queries(queries: Sequence[str]) -> Sequence[str]:
    for query in queries:
        if not check_text(query, "QUERY").strip():
            raise InputError("An empty QUERY was given. Give a question, or leave it out.")
    return queries


def _rank_with_memory(
    model: EvoEmbedding,
    stream: Sequence[Any],
    turns: list[str],
    queries: Sequence[str],
    state: MemoryState,
    args: argparse.Namespace,
) -> list[list[Hit]]:
    """Read the stream into ``state``, which advances, and rank its turns for queries that see all that was read."""
    embeddings = model.encode_document(
        stream,
        stateful=True,
        state=state,
        memory=args.memory,
        batch_size=args.batch_size,
        show_progress_bar=session.show_progress(args),
    )
    query_embeddings = model.encode_query(queries, state=state, show_progress_bar=False)
    cosines = model.similarity(query_embeddings, embeddings).numpy()
    return session.turn_scorer(args, model).hits(turns, queries, list(cosines), args.top_k)


def _rank_without_memory(
    model: EvoEmbedding, turns: list[str], queries: Sequence[str], args: argparse.Namespace
) -> list[list[Hit]]:
    """Rank the turns as plain sentence embeddings do: every text by itself."""
    embeddings = model.encode_document(turns, batch_size=args.batch_size, show_progress_bar=False)
    query_embeddings = model.encode_query(queries, show_progress_bar=False)
    return _ranked(model.similarity(query_embeddings, embeddings), turns, args.top_k)


def _ranked(scores: Tensor, turns: list[str], top_k: int) -> list[list[Hit]]:
    """The best turns of each row of scores (queries, turns)."""
    from evoemb.ranking import top_hits  # here, as `evoemb --help` need not wait for numpy

    return [top_hits(row, turns, top_k) for row in scores.numpy()]


def _what_was_read(num_turns: int, num_turns_before: int, state_path: str | None) -> str:
    """A line that says what the ranking below is made from."""
    text = f"Read {num_turns} turn{'s' * (num_turns != 1)}"
    if num_turns_before:
        text += f" after {num_turns_before} remembered from before (only the {num_turns} of this call are ranked)"
    return f"{text}; the memory is saved in {state_path}." if state_path is not None else f"{text}."


def _as_object(query: str, hits: list[Hit], static_hits: list[Hit] | None) -> dict[str, Any]:
    """The JSON object for one query."""
    result: dict[str, Any] = {"query": query, "results": hits}
    if static_hits is not None:
        result["static_results"] = static_hits
    return result
