"""``evoemb eval``: a model over a benchmark, beside the anchors and the controls."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from evoemb._errors import InputError
from evoemb._files import write_whole
from evoemb.cli import benchmarks, output, session

if TYPE_CHECKING:
    from evoemb.evaluation.comparison import Plan
    from evoemb.evaluation.schema import EvalStream

_ANCHORS = "bm25,static,centred,mix,newest3,position,hybrid"
_CONTROLS = "off,shuffled,ages,frozen@8"

_EXAMPLES = """
RESULTS.json gets the figures, RESULTS.md the table, RESULTS.outcomes.jsonl how each question was answered. The same
command goes on where it was stopped. "evoemb report RESULTS.json" draws the page.

examples:
  evoemb eval questions.jsonl.gz -o results.json
  evoemb eval locomo --model MiG-NJU/EvoEmbedding-0.8B --against bm25,static,hybrid --controls -o locomo.json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "eval",
        help="rank the turns of a benchmark, beside cheap anchors and controls",
        description="Evaluate a model on streams with questions, beside what a sceptic would try first.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmarks.add_benchmark_arguments(parser)
    parser.add_argument("-o", "--output", required=True, metavar="RESULTS.json", help="where the figures go")
    parser.add_argument("--against", default=_ANCHORS, metavar="A,B", help=f'anchors, or "none" (default: {_ANCHORS})')
    parser.add_argument(
        "--controls",
        nargs="?",
        const=_CONTROLS,
        default="",
        metavar="A,B",
        help=f"controls of the memory; without a list: {_CONTROLS}",
    )
    parser.add_argument("--base", metavar="MODEL", help="model of the anchors (default: --model without its memory)")
    parser.add_argument(
        "--scoring",
        metavar="A,B",
        help="how retrieve scores turns, a row each: late, hybrid; vector: no row beside memory on (default: the "
        "model's own)",
    )
    parser.add_argument("--rerank", action="store_true", help="also rank by the reranker trained with the model")
    parser.add_argument("--reranker", metavar="MODEL", help="cross-encoder on top of hybrid scoring")
    benchmarks.add_run_options(parser)
    parser.add_argument("--group-size", type=session.positive_int, default=8, help="streams side by side (default: 8)")
    parser.add_argument(
        "--probe-streams", type=int, default=8, metavar="N", help="streams of the temporal probe; 0: none"
    )
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check everything cheap first, then load, run, and write."""
    from evoemb.evaluation.anchors import ANCHORS
    from evoemb.evaluation.comparison import Plan
    from evoemb.evaluation.controls import parse_control
    from evoemb.ranking.config import Scoring

    benchmarks.check_results_name(args.output)
    against = benchmarks.names_of("--against", "" if args.against == "none" else args.against, ANCHORS)
    controls = benchmarks.names_of("--controls", args.controls)
    for control in controls:
        parse_control(control)
    known = get_args(Scoring)
    asked = known if args.scoring is None else benchmarks.names_of("--scoring", args.scoring, known)
    plan = Plan(
        against=against,
        controls=tuple(name for name in controls if name != "on"),
        memory=args.memory,
        scorings=None if args.scoring is None else tuple(name for name in known if name in asked),
        rerank=args.rerank,
        batch_size=args.batch_size,
        group_size=args.group_size,
        probe_streams=max(0, args.probe_streams),
    )
    streams = _streams(args)
    if len(streams) < 2 and "shuffled" in controls:
        raise InputError("The shuffled control needs two streams or more. Leave it out of --controls, or give more.")
    results = _evaluated(args, plan, streams)
    write_results(args.output, results)
    if not args.quiet:
        from evoemb.evaluation.tables import to_markdown

        output.write(to_markdown(results))


def write_results(path: str, results: dict[str, Any]) -> None:
    """Write RESULTS.json and, beside it, RESULTS.md, each all or nothing."""
    from evoemb.evaluation.tables import to_markdown

    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())
    write_whole(Path(path).with_suffix(".md"), to_markdown(results).encode())


def _evaluated(args: argparse.Namespace, plan: Plan, streams: list[EvalStream]) -> dict[str, Any]:
    """Load the models and run, with a ledger beside the results."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from evoemb.evaluation.comparison import evaluate, header_of
    from evoemb.evaluation.runs import Ledger

    model = session.load_model(args)
    base = SentenceTransformer(args.base, device=args.device) if args.base else model
    reranker = CrossEncoder(args.reranker, device=args.device) if args.reranker else None
    kept = Path(args.output).with_suffix(".outcomes.jsonl")
    if args.restart:
        kept.unlink(missing_ok=True)
    ledger = Ledger(kept, header_of(streams, model, base, plan))
    scorings = len(plan.scorings_of(model, reranker)) + (reranker is not None) + args.rerank
    with _Progress(args, plan, streams, scorings) as on_progress:
        return evaluate(
            streams,
            model,
            plan,
            name=Path(args.benchmark).name,
            base=base,
            reranker=reranker,
            ledger=ledger,
            on_progress=on_progress,
        )


def _streams(args: argparse.Namespace) -> list[EvalStream]:
    """The streams, some of which can be scored."""
    streams = benchmarks.read_benchmark(args)
    if not any(stream.scored for stream in streams):
        raise InputError(
            f"{args.benchmark}: no question has evidence, so nothing can be scored. Give evidence_turns; for answers "
            "alone, see evoemb answer."
        )
    return streams


class _Progress:
    """A bar over answered questions, all systems together."""

    def __init__(self, args: argparse.Namespace, plan: Plan, streams: list[EvalStream], scorings: int) -> None:
        from tqdm.auto import tqdm

        systems = 1 + len(plan.controls) + len(plan.against) + scorings
        questions = sum(len(stream.scored) for stream in streams)
        self._bar = tqdm(total=systems * questions, desc="Questions", unit="", disable=not session.show_progress(args))

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        self._bar.close()
