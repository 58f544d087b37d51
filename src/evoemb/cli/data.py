"""``evoemb data``: check training data, and make it from documents and chat logs."""

from __future__ import annotations

import argparse
import io
from typing import TYPE_CHECKING, Any

from evoemb._errors import InputError
from evoemb._files import write_whole
from evoemb.cli import output, session
from evoemb.data.files import write_json_lines

if TYPE_CHECKING:
    from evoemb.training.summary import DataSummary

_SHOWN = 10

_FORMATS = """\
FILE is JSONL or JSON (gzip or not), Parquet, - for standard input, or a data set on the Hub. A row is a stream:
  plain     {"turns": [text, ...] or chat messages, "query": text, "evidence": [turn index, ...]}; if wanted "asked_at",
            "answer", "timestamps"; for several queries, lists of these
  evoemb    {"turns": [{"text": ...}, ...], "queries": [{"query", "evidence_turns", "asked_at", "answer"}, ...]}
  evotrain  {"messages": [...], "meta": {"turns": [...], "evidence_turns": [...]}}, nested or with dotted keys"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser("data", help="check training data, or make it from documents and chat logs")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="check every row and sum the file up",
        description="Check every row of training data, name the broken ones, and sum up the rest.",
        epilog=_FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", metavar="FILE", help="data to check")
    check.add_argument("--split", default="train", help="of a data set on the Hub (default: train)")
    check.add_argument("--model", help="count tokens with this model's tokenizer (default: they are not counted)")
    check.add_argument("--device", help=argparse.SUPPRESS)
    check.add_argument("--picture", metavar="PNG", help="also draw the histogram to this file (needs matplotlib)")
    check.add_argument("--json", action="store_true", help="one JSON object")
    check.add_argument("--quiet", action="store_true", help="no progress on standard error")
    check.set_defaults(run=run_check)
    for name, what in (("documents", "cut documents into passages"), ("chats", "form turns from chat logs")):
        made = actions.add_parser(f"from-{name}", help=f"{what} and mark those that answer, as training data")
        made.add_argument("file", metavar="FILE", help="JSONL or JSON; see docs/finetune.md for its fields")
        made.add_argument("output", metavar="OUT", help="JSONL file to write")
        if name == "documents":
            made.add_argument("--chunk-words", type=session.positive_int, default=100, help="words a passage (100)")
            made.add_argument("--overlap-words", type=int, default=0, help="words that passages share (0)")
        else:
            made.add_argument("--max-turns", type=session.positive_int, help="newest turns to keep for each question")
        made.set_defaults(run=run_convert)


def run_check(args: argparse.Namespace) -> None:
    """Check, sum up, and fail if a row is broken."""
    from evoemb.training.datasets import check_rows, load_rows
    from evoemb.training.summary import DataSummary

    good, errors = check_rows(load_rows(args.file, split=args.split))
    count_tokens = None
    if args.model is not None:
        from evoemb.training.collator import StreamCollator

        count_tokens = StreamCollator(session.load_model(args)).count_tokens
    summary = DataSummary.of(good.values(), count_tokens)
    if args.picture:
        _draw(summary, args.picture)
    if args.json:
        broken = [{"row": error.row, "field": error.field, "error": str(error)} for error in errors]
        figures = {name.replace(" ", "_"): value for name, value in summary.fields().items()}
        output.write_json({**figures, "broken_rows": len(errors), "errors": broken})
    else:
        output.write_fields({**summary.fields(), "broken rows": len(errors)})
        if summary.distances:
            output.write("\nturns between evidence and query (0 = the newest turn)")
            for line in summary.histogram():
                output.write(f"  {line}")
        for error in errors[:_SHOWN]:
            output.write_notice(str(error))
        if len(errors) > _SHOWN:
            output.write_notice(f"... and {len(errors) - _SHOWN} more")
    if errors:
        raise InputError(f"{len(errors)} of {len(good) + len(errors)} rows of {args.file} are broken. Repair them.")


def run_convert(args: argparse.Namespace) -> None:
    """Write rows made of documents or chats."""
    from evoemb.training.converters import chat_log_rows, document_rows
    from evoemb.training.datasets import load_rows

    session.check_can_write(args.output, "OUT")
    source: Any = load_rows(args.file)
    try:
        if hasattr(args, "chunk_words"):
            rows = list(document_rows(source, chunk_words=args.chunk_words, overlap_words=args.overlap_words))
        else:
            rows = list(chat_log_rows(source, max_turns=args.max_turns))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{args.file} lacks a field or holds another kind of value ({error}). Each line is one document with text "
            "and questions, or one chat with messages and questions."
        ) from error
    write_json_lines(args.output, rows)
    output.write(f"{len(rows)} streams in {args.output}")


def _draw(summary: DataSummary, path: str) -> None:
    """Draw the histogram with matplotlib, if it is installed."""
    from evoemb.training.summary import distance_bins

    session.check_can_write(path, "--picture")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("--picture needs matplotlib. Install it, or leave --picture out.") from error
    bins = distance_bins(summary.distances)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([label for label, _ in bins], [count for _, count in bins], color="#4c72b0")
    axes.set_xlabel("turns between evidence and query (0 = the newest turn)")
    axes.set_ylabel("evidence turns")
    axes.spines[["top", "right"]].set_visible(False)
    held = io.BytesIO()
    figure.savefig(held, dpi=150, format="png")
    write_whole(path, held.getvalue())
