"""Answer quality by naive RAG: the best turns go into a prompt, a chat model answers, and a judge compares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evoemb._errors import EvoembError
from evoemb.evaluation.answers.endpoint import ChatEndpoint, Usage
from evoemb.evaluation.answers.protocols import (
    PROTOCOLS,
    Protocol,
    answer_prompt,
    is_option,
    judge_prompt,
    option_of,
    protocol_of,
    says_yes,
)
from evoemb.evaluation.answers.transport import NoAnswerError
from evoemb.evaluation.bootstrap import mean_interval
from evoemb.evaluation.metrics import Scores
from evoemb.evaluation.runs import Ledger
from evoemb.evaluation.schema import EvalStream, StreamQuery
from evoemb.evaluation.systems import System

LEDGER_KEY = ("system", "stream_id", "qid")
"""What tells the entries of an answers' ledger apart."""

MAX_FIRST_FAILURES = 5
"""Questions that may fail before a first one is answered; later failures never end a run."""

logger = logging.getLogger(__name__)


def answer_quality(
    system: System,
    streams: Sequence[EvalStream],
    answerer: ChatEndpoint,
    judge: ChatEndpoint,
    *,
    top_k: int = 8,
    protocol: str = "auto",
    ledger: Ledger | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Answer every question that has a right answer, from the turns that a system ranks first.

    Args:
        system: Ranks the turns.
        streams: With questions that have ``answer``; they need no evidence.
        answerer: Answers from the excerpts.
        judge: Compares with the right answer; not asked where the right answer is an option's letter.
        top_k: Excerpts in the prompt, put in the order of the stream.
        protocol: A name of `PROTOCOLS`; ``"auto"`` takes each stream's own.
        ledger: With the key `LEDGER_KEY`: each answer is kept there at once, and what it holds is not asked again.
        on_progress: Called with 1 for each question, as the run goes.

    Returns:
        ``name``, ``accuracy`` with its 95 % ``interval`` (None without questions), ``by_category`` (accuracy and
        ``n``), ``answers``, and the ``usage`` of both endpoints over all answers, those of the ledger included; and
        ``failed``, the questions that got no answer, with the ``error`` of each. They count in none of the figures and
        are asked again when the ledger is gone on with.

    Raises:
        EvoembError: The endpoint refused what it would refuse for any question, or nothing was answered so far and
            the first `MAX_FIRST_FAILURES` questions got no answer.
    """
    done = ledger.done if ledger is not None else {}
    entries: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for stream in streams:
        asked = askable(stream, protocol)
        missing = [query for query in asked if (system.name, stream.stream_id, query.qid) not in done]
        rules = protocol_of(stream, protocol)
        for query, scores in zip(missing, _scores(system, stream, missing), strict=True):
            key = (system.name, stream.stream_id, query.qid)
            try:
                answered = _answered(stream, query, scores, answerer, judge, top_k, rules)
            except NoAnswerError as error:
                logger.warning("%s, %s: no answer. %s", stream.stream_id, query.qid, error)
                failed.append({"stream_id": stream.stream_id, "qid": query.qid, "error": str(error)})
                if not done and len(failed) >= MAX_FIRST_FAILURES:
                    raise EvoembError(f"None of the first {len(failed)} questions was answered. {error}") from error
            else:
                entry = {"system": system.name, "stream_id": stream.stream_id, "qid": query.qid, **answered}
                if ledger is not None:
                    ledger.add([entry])
                else:
                    done[key] = entry
            if on_progress is not None:
                on_progress(1)
        if on_progress is not None and len(asked) > len(missing):
            on_progress(len(asked) - len(missing))
        keys = [(system.name, stream.stream_id, query.qid) for query in asked]
        entries += [done[key] for key in keys if key in done]
    return {**_summed(system.name, entries), "failed": failed}


def askable(stream: EvalStream, protocol: str = "auto") -> list[StreamQuery]:
    """The questions of a stream that have a right answer and that its protocol asks."""
    without = protocol_of(stream, protocol).without
    return [query for query in stream.queries if query.answer and (not without or query.category != without)]


def _summed(name: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of all answers of one system."""
    groups: dict[str, list[bool]] = {}
    usage = {part: Usage() for part in ("answerer", "judge")}
    for entry in entries:
        groups.setdefault(entry["category"], []).append(entry["correct"])
        for part, used in usage.items():
            used.add(Usage(**entry["usage"][part]))
    found = mean_interval([entry["stream_id"] for entry in entries], [float(entry["correct"]) for entry in entries])
    return {
        "name": name,
        "accuracy": found.mean if found else None,
        "interval": found._asdict() if found else None,
        "by_category": {
            category: {"accuracy": sum(right) / len(right), "n": len(right)}
            for category, right in sorted(groups.items())
        },
        "answers": [{key: entry[key] for key in ("stream_id", "qid", "given", "correct")} for entry in entries],
        "usage": {part: asdict(used) for part, used in usage.items()},
    }


def _answered(
    stream: EvalStream,
    query: StreamQuery,
    scores: Scores,
    answerer: ChatEndpoint,
    judge: ChatEndpoint,
    top_k: int,
    rules: Protocol,
) -> dict[str, Any]:
    """One answer, judged: what the ledger keeps of it."""
    before = replace(answerer.usage), replace(judge.usage)
    chosen = set(np.argsort(-scores[: query.asked_at], kind="stable")[:top_k].tolist())
    if rules.keep_ends:
        chosen |= {0, query.asked_at - 1}
    if rules.name == "plain" and is_option(str(query.answer)):
        rules = PROTOCOLS["personamem"]
    request = answer_prompt(rules, stream, query, sorted(chosen))
    given = answerer.ask([{"role": "user", "content": request}], max_tokens=rules.max_tokens).strip()
    if rules.options:
        correct = option_of(given) == option_of(str(query.answer)) != ""
    else:
        correct = says_yes(judge.ask([{"role": "user", "content": judge_prompt(rules, query, given)}], max_tokens=10))
    return {
        "category": query.category,
        "given": given,
        "correct": correct,
        "usage": {
            "answerer": asdict(answerer.usage.since(before[0])),
            # One endpoint may do both; then all that was used stands with the answerer.
            "judge": asdict(Usage() if judge is answerer else judge.usage.since(before[1])),
        },
    }


def _scores(system: System, stream: EvalStream, asked: Sequence[StreamQuery]) -> list[Scores]:
    """Rank for questions that may have no evidence; a system scores only those that have some."""
    if not asked:
        return []
    given = tuple(replace(query, evidence_turns=query.evidence_turns or (0,)) for query in asked)
    return system.score([replace(stream, queries=given)])[0]
