"""``evoemb answer``: answer quality of naive RAG over a chat endpoint."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoemb._errors import EvoembError, InputError
from evoemb._files import write_whole
from evoemb.cli import benchmarks, output, session

if TYPE_CHECKING:
    from evoemb.evaluation.answers.endpoint import ChatEndpoint
    from evoemb.evaluation.schema import EvalStream
    from evoemb.evaluation.systems import System

_PROTOCOLS = ("plain", "locomo", "longmemeval", "personamem")  # written out: --help imports nothing heavy
_EXAMPLES = """
ANSWERS.json gets accuracies, tokens and cost, ANSWERS.md the table, ANSWERS.answered.jsonl every answer as it comes:
the same command goes on where it was stopped, and asks nothing twice. Questions that got no answer are named in
ANSWERS.json, and asked again by the same command. Keys are read from the environment.

examples:
  evoemb answer locomo --data locomo10.json --endpoint http://127.0.0.1:8000/v1 --answerer NAME -o locomo.answers.json
  evoemb answer personamem-32k --endpoint URL --answerer NAME --with on,bm25 --price-in 1 --price-out 4 -o p.json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "answer",
        help="measure answers of a chat model from the turns retrieved",
        description="Put the best turns of each question into a prompt, let a chat model answer and another one judge.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmarks.add_benchmark_arguments(parser)
    parser.add_argument("-o", "--output", required=True, metavar="ANSWERS.json", help="where the figures go")
    chat = parser.add_argument_group("chat models, behind OpenAI-compatible endpoints")
    chat.add_argument("--endpoint", required=True, metavar="URL", help="address up to and with /v1")
    chat.add_argument("--answerer", required=True, metavar="NAME", help="chat model that answers")
    chat.add_argument("--judge", metavar="NAME", help="chat model that judges (default: the answerer)")
    chat.add_argument("--judge-endpoint", metavar="URL", help="its address (default: --endpoint)")
    chat.add_argument("--key-env", metavar="VAR", help="variable that holds the key (default: OPENAI_API_KEY)")
    chat.add_argument("--judge-key-env", metavar="VAR", help="the same for --judge-endpoint (default: none is sent)")
    chat.add_argument("--price-in", type=_price, metavar="P", help="price of a million prompt tokens")
    chat.add_argument("--price-out", type=_price, metavar="P", help="price of a million answered tokens")
    chat.add_argument("--judge-price-in", type=_price, metavar="P", help="the judge's (default: --price-in)")
    chat.add_argument("--judge-price-out", type=_price, metavar="P", help="the judge's (default: --price-out)")
    chat.add_argument("--cache", metavar="FOLDER", help="keep answers by request here, for other runs too")
    chat.add_argument("--retries", type=_count, default=5, metavar="N", help="further tries if it is busy (default: 5)")
    chat.add_argument(
        "--timeout", type=_seconds, default=120, metavar="S", help="seconds for one answer (default: 120)"
    )
    parser.add_argument(
        "--with",
        dest="retrievers",
        default="on",
        metavar="A,B",
        help="what retrieves: on (default), a control (off, shuffled, ages, frozen@N), an anchor (bm25, static, ...)",
    )
    parser.add_argument("--top-k", type=session.positive_int, default=8, help="turns in the prompt (default: 8)")
    parser.add_argument("--protocol", choices=("auto", *_PROTOCOLS), default="auto", help="default: the benchmark's")
    benchmarks.add_run_options(parser)
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check everything cheap first, then load, ask, and write."""
    from evoemb.evaluation.answers.quality import askable
    from evoemb.evaluation.answers.report import Prices, report, to_markdown

    benchmarks.check_results_name(args.output)
    answerer, judge = _endpoints(args)
    _check_retrievers(args)
    streams = benchmarks.read_benchmark(args)
    number = sum(len(askable(stream, args.protocol)) for stream in streams)
    if not number:
        raise InputError(f"{args.benchmark}: no question has a right answer to compare with. Give answer.")
    if len(streams) < 2 and "shuffled" in args.retrievers:
        raise InputError("The shuffled control needs two streams or more. Leave it out of --with, or give more.")
    found, about = _asked(args, streams, number, answerer, judge)
    prices = {
        "answerer": Prices(args.price_in, args.price_out),
        "judge": Prices(_first(args.judge_price_in, args.price_in), _first(args.judge_price_out, args.price_out)),
    }
    results = report(Path(args.benchmark).name, about, found, prices)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_whole(args.output, text.encode())
    table = to_markdown(results)
    write_whole(Path(args.output).with_suffix(".md"), table.encode())
    if not args.quiet:
        output.write(table)
    failed = [one for system in found for one in system["failed"]]
    if failed:
        raise EvoembError(
            f"{len(failed)} of {number * len(found)} answers missing, the first: {failed[0]['error']} {args.output} "
            "says which. The same command asks for them again."
        )


def _asked(
    args: argparse.Namespace, streams: list[EvalStream], number: int, answerer: ChatEndpoint, judge: ChatEndpoint
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What every retriever's answers gave, and what they belong to."""
    from tqdm.auto import tqdm

    from evoemb.evaluation.answers.quality import LEDGER_KEY, answer_quality
    from evoemb.evaluation.comparison import about
    from evoemb.evaluation.runs import Ledger, digest_of

    model = session.load_model(args)
    header = {
        "answers": 1,
        "benchmark": digest_of(streams),
        "model": about(model)["fingerprint"],
        "memory": args.memory,
        "answerer": [args.endpoint, answerer.model],
        "judge": [args.judge_endpoint or args.endpoint, judge.model],
        "top_k": args.top_k,
        "protocol": args.protocol,
    }
    kept = Path(args.output).with_suffix(".answered.jsonl")
    if args.restart:
        kept.unlink(missing_ok=True)
    ledger = Ledger(kept, header, LEDGER_KEY)
    names = benchmarks.names_of("--with", args.retrievers)
    found = []
    hidden = not session.show_progress(args)
    with tqdm(total=number * len(names), desc="Questions", unit="", disable=hidden) as bar:
        for name in names:
            system = _system(name, args, model, streams)
            found.append(
                answer_quality(
                    system,
                    streams,
                    answerer,
                    judge,
                    top_k=args.top_k,
                    protocol=args.protocol,
                    ledger=ledger,
                    on_progress=bar.update,
                )
            )
    return found, {**header, "model": about(model)}


def _system(name: str, args: argparse.Namespace, model: Any, streams: list[EvalStream]) -> System:
    """A retriever by its name; vectors are kept for one, since which questions are left differs."""
    from evoemb.evaluation.anchors import ANCHORS, make_anchor
    from evoemb.evaluation.controls import parse_control
    from evoemb.evaluation.evolving import model_system
    from evoemb.evaluation.systems import StaticVectors

    vectors = StaticVectors(model, args.batch_size)
    if name in ANCHORS:
        return make_anchor(name, vectors)
    return model_system(
        model, vectors, args.memory, parse_control(name), batch_size=args.batch_size, all_streams=streams
    )


def _check_retrievers(args: argparse.Namespace) -> None:
    from evoemb.evaluation.anchors import ANCHORS
    from evoemb.evaluation.controls import parse_control

    names = benchmarks.names_of("--with", args.retrievers)
    if not names:
        raise InputError("--with names nothing. Give on, a control or an anchor.")
    for name in names:
        if name not in ANCHORS:
            parse_control(name)


def _endpoints(args: argparse.Namespace) -> tuple[ChatEndpoint, ChatEndpoint]:
    """Who answers and who judges; keys come from the environment, so that no command line shows them."""
    from evoemb.evaluation.answers.endpoint import ChatEndpoint

    common: dict[str, Any] = {
        "cache": Path(args.cache) if args.cache else None,
        "max_retries": args.retries,
        "timeout": args.timeout,
    }
    own = _key("--key-env", args.key_env) if args.key_env else os.environ.get("OPENAI_API_KEY")
    answerer = ChatEndpoint(args.endpoint, args.answerer, own, **common)
    key = _key("--judge-key-env", args.judge_key_env) if args.judge_key_env else own
    if args.judge_endpoint and args.judge_endpoint != args.endpoint and not args.judge_key_env:
        key = None  # a key is never sent to an address it was not given for
    judge = ChatEndpoint(args.judge_endpoint or args.endpoint, args.judge or args.answerer, key, **common)
    return answerer, judge


def _key(option: str, variable: str) -> str:
    """The key that a variable holds. Its name is not shown: it may be the key itself, given in its place."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"{option} names no variable of the environment that holds a key. Give the name of one, not the key itself."
        )
    return key


def _count(text: str) -> int:
    """An argparse type: a number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} was given, but 0 or more is expected")
    return value


def _seconds(text: str) -> float:
    """An argparse type: a time that is not zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} was given, but more than 0 seconds are expected")
    return value


def _price(text: str) -> float:
    """An argparse type: a price that is not negative."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} was given, but a price of 0 or more is expected")
    return value


def _first(*values: float | None) -> float | None:
    """The first value that was given."""
    return next((value for value in values if value is not None), None)
