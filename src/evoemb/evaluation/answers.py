"""Answer quality by naive RAG: the best turns go into a prompt, a chat model answers, and a judge compares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from evoemb.evaluation.endpoint import ChatEndpoint
from evoemb.evaluation.metrics import Scores
from evoemb.evaluation.schema import EvalStream, StreamQuery
from evoemb.evaluation.systems import System

ANSWER_PROMPT = """\
Below are excerpts of a conversation, oldest first, with their times where known. Answer the question from them, in as \
few words as possible. If a fact changed, the latest excerpt counts unless the question asks otherwise. If the \
excerpts do not tell, say that they do not.

{excerpts}

Question: {question}
Answer:"""
CHOICE_PROMPT = """\
Below are excerpts of a conversation, oldest first. Choose the option that fits this user best. Reply with the letter \
of the option in brackets and nothing else.

{excerpts}

{question}
Option:"""
JUDGE_PROMPT = """\
A question was asked about a conversation. Does the given answer say the same as the right answer? Other words, more \
detail, or another form of the same date or number are fine; another fact, or no answer, is not. For a right answer \
that says the information is missing, the given answer must say so too. Reply with yes or no.

Question: {question}
Right answer: {right}
Given answer: {given}
Same:"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered question; ``correct`` is the judge's word, or for options the letter's."""

    stream_id: str
    qid: str
    category: str
    given: str
    correct: bool


def answer_quality(
    system: System,
    streams: Sequence[EvalStream],
    answerer: ChatEndpoint,
    judge: ChatEndpoint,
    *,
    top_k: int = 8,
) -> dict[str, Any]:
    """Answer every question that has a right answer, from the turns that a system ranks first.

    Args:
        system: Ranks the turns.
        streams: With questions that have ``answer``; they need no evidence.
        answerer: Answers from the excerpts.
        judge: Compares with the right answer; not asked where the right answer is an option's letter.
        top_k: Excerpts in the prompt, put in the order of the stream.

    Returns:
        ``accuracy``, ``by_category`` (accuracy and ``n``), ``answers``, and the ``usage`` of both endpoints.
    """
    answers: list[Answer] = []
    for stream in streams:
        asked = [query for query in stream.queries if query.answer]
        if not asked:
            continue
        for query, scores in zip(asked, _scores(system, stream, asked), strict=True):
            answers.append(_answered(stream, query, scores[: query.asked_at], answerer, judge, top_k))
    groups = {answer.category for answer in answers}
    by_category = {name: [one.correct for one in answers if one.category == name] for name in sorted(groups)}
    return {
        "accuracy": fmean(one.correct for one in answers) if answers else None,
        "by_category": {name: {"accuracy": fmean(values), "n": len(values)} for name, values in by_category.items()},
        "answers": [
            {"stream_id": one.stream_id, "qid": one.qid, "given": one.given, "correct": one.correct} for one in answers
        ],
        "usage": {name: _usage(endpoint) for name, endpoint in (("answerer", answerer), ("judge", judge))},
    }


def _scores(system: System, stream: EvalStream, asked: Sequence[StreamQuery]) -> list[Scores]:
    """Rank for questions that may have no evidence; a system scores only those that have some."""
    given = tuple(
        StreamQuery(query.qid, query.query, query.evidence_turns or (0,), query.asked_at, kind=query.kind)
        for query in asked
    )
    return system.score([EvalStream(stream.stream_id, stream.turns, given, stream.dataset, stream.form)])[0]


def _answered(
    stream: EvalStream, query: StreamQuery, scores: Scores, answerer: ChatEndpoint, judge: ChatEndpoint, top_k: int
) -> Answer:
    best = sorted(np.argsort(-scores, kind="stable")[:top_k])
    times = [stream.turns[turn].time for turn in best]
    excerpts = "\n\n".join(
        f"[{time}] {stream.texts[turn]}" if time else stream.texts[turn] for turn, time in zip(best, times, strict=True)
    )
    right = str(query.answer)
    letter = _letter(right)
    prompt = CHOICE_PROMPT if letter else ANSWER_PROMPT
    given = answerer.ask([{"role": "user", "content": prompt.format(excerpts=excerpts, question=query.query)}]).strip()
    if letter:
        correct = _letter(given) == letter
    else:
        judged = JUDGE_PROMPT.format(question=query.query, right=right, given=given)
        correct = judge.ask([{"role": "user", "content": judged}], max_tokens=8).strip().lower().startswith("yes")
    return Answer(stream.stream_id, query.qid, query.category, given, correct)


def _letter(text: str) -> str:
    """The letter of an option, ``(a)`` or ``a``, where the text says nothing else but perhaps the option's words."""
    found = re.match(r"\s*(?:\(([a-h])\)|([a-h])[).:]?\s*$)", text.lower())
    return (found[1] or found[2]) if found else ""


def _usage(endpoint: ChatEndpoint) -> dict[str, int | str]:
    used = endpoint.usage
    return {
        "model": endpoint.model,
        "calls": used.calls,
        "cached": used.cached,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
    }
