"""How answers are asked for and judged: the rules of LoCoMo, LongMemEval and PersonaMem, in our own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evoemb.evaluation.metrics import EXCLUDED_CATEGORY
from evoemb.evaluation.schema import EvalStream, StreamQuery

_EXCERPTS = "Below are excerpts of a conversation, oldest first, with their times where known.\n\n{excerpts}\n\n"
_OPEN = (
    "{dated}Answer the question from the excerpts. If a fact changed, the latest excerpt counts unless the question "
    "asks otherwise. If the excerpts do not tell, say that they do not.\n\nQuestion: {question}\nAnswer:"
)
_BRIEF = _OPEN.replace(
    "Answer the question from the excerpts.", "Answer from the excerpts, in as few words as possible."
)
_CHOICE = (
    "The user now writes what follows, with the options of a reply. Choose the one that fits this user best, by what "
    "the excerpts tell. End with <final_answer> and the option's letter in brackets.\n\n{question}"
)
_JUDGE = (
    "A question was asked about earlier conversations. Is the given answer correct? {rule} Reply with yes or no only."
    "\n\nQuestion: {question}\n{label}: {right}\nGiven answer: {given}\nCorrect:"
)
_SAME = (
    "It is, if it says the same as the right answer. Other words, more detail, or another form of the same date or "
    "number are fine; another fact, or no answer, is not."
)
_TOPIC = (
    "Be generous: a longer answer counts if it names what the right answer names. For times, another format or a "
    "relative time that leads to the same date or period counts."
)
_WHOLE = (
    "It is, if it contains the right answer, is equivalent to it, or holds all the steps that lead to it; an answer "
    "with only a part of what is asked for is not."
)
_DAYS = f"{_WHOLE} A number of days, weeks or months that is off by one counts as right."
_UPDATE = "It is, if it gives the right answer as the present state; that it tells an earlier state too does no harm."
_RUBRIC = (
    "What follows the question describes a reply that suits this user. It is correct if it recalls and uses what "
    "the user told about themselves; not every point of the description is needed."
)
_MISSING = (
    "The question cannot be answered, for the reason that follows it. The given answer is correct if it says so: that "
    "information is missing, or that something else was said but not what is asked for."
)
_LONGMEMEVAL = {
    "temporal-reasoning": _DAYS,
    "knowledge-update": _UPDATE,
    "single-session-preference": _RUBRIC,
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """Rules of one benchmark.

    Args:
        name: ``"locomo"``, ``"longmemeval"``, ``"personamem"`` or ``"plain"``.
        answer: Text of the request behind the excerpts.
        options: Right answers are letters of options, compared without a judge.
        keep_ends: The first and the last turn seen stand in the prompt beside the ones retrieved.
        without: A category that is not asked.
        max_tokens: Of an answer.
    """

    name: str
    answer: str = _BRIEF
    options: bool = False
    keep_ends: bool = False
    without: str = ""
    max_tokens: int = 256


PROTOCOLS = {
    "plain": Protocol("plain"),
    "locomo": Protocol("locomo", without=EXCLUDED_CATEGORY),
    "longmemeval": Protocol("longmemeval", answer=_OPEN, max_tokens=512),
    "personamem": Protocol("personamem", answer=_CHOICE, options=True, keep_ends=True, max_tokens=512),
}
"""By name.

Sources, facts only: LoCoMo, and the turns that are kept: github.com/MiG-NJU/EvoEmbedding, eval/locomoeval.py and
eval/personamemeval.py (at 08ce394). LongMemEval: github.com/xiaowu0162/LongMemEval, src/evaluation/evaluate_qa.py (at
b11ff72). PersonaMem: github.com/bowen-upenn/PersonaMem, inference_standalone_openai.py (at 041d82a).
"""


def protocol_of(stream: EvalStream, name: str = "auto") -> Protocol:
    """Return the protocol of a name, or for ``"auto"`` that of the stream's data set, else the plain one."""
    return PROTOCOLS.get(stream.dataset if name == "auto" else name, PROTOCOLS["plain"])


def answer_prompt(protocol: Protocol, stream: EvalStream, query: StreamQuery, chosen: Sequence[int]) -> str:
    """Return the request for an answer.

    Args:
        protocol: Whose rules.
        stream: Where the excerpts are from.
        query: What is asked.
        chosen: Turns that stand in the prompt, in order.
    """
    dated_turns = []
    for turn in chosen:
        time, text = stream.turns[turn].time, stream.texts[turn]
        dated_turns.append(f"[{time}] {text}" if time and time not in text else text)
    dated = f"It is now {query.asked_date}. " if query.asked_date else ""
    # Not str.format: an excerpt may hold braces.
    parts = {"{excerpts}": "\n\n".join(dated_turns), "{dated}": dated, "{question}": query.query}
    return _filled(_EXCERPTS + protocol.answer, parts)


def judge_prompt(protocol: Protocol, query: StreamQuery, given: str) -> str:
    """Return the request for a judgement, which is answered by yes or no."""
    rule, label = _SAME, "Right answer"
    if protocol.name == "locomo":
        rule = f"{_SAME} {_TOPIC}"
    elif protocol.name == "longmemeval":
        rule = _LONGMEMEVAL.get(query.category, _WHOLE)
        label = "Description" if rule == _RUBRIC else label
        if query.qid.endswith("_abs"):
            rule, label = _MISSING, "Reason"
    parts = {
        "{rule}": rule,
        "{label}": label,
        "{question}": query.query,
        "{right}": str(query.answer),
        "{given}": given,
    }
    return _filled(_JUDGE, parts)


def says_yes(text: str) -> bool:
    """Whether a judge said yes: the first of both words counts."""
    found = re.search(r"\b(yes|no)\b", text.lower())
    return found is not None and found[1] == "yes"


def option_of(text: str) -> str:
    """The letter of the one option that an answer names, else empty.

    What stands behind ``<final_answer>`` counts, else the whole; letters in brackets, else bare ones.
    """
    for part in (text.lower().rpartition("<final_answer>")[2], text.lower()):
        named = set(re.findall(r"\(([a-h])\)", part)) or set(re.findall(r"\b([a-h])\b", part))
        if len(named) == 1:
            return str(named.pop())
    return ""


def is_option(right: str) -> bool:
    """Whether a right answer is an option's letter, ``(a)``, with nothing but the option's words behind it."""
    return bool(re.match(r"\s*\([a-h]\)", right.lower()))


def _filled(template: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{\w+\}", lambda found: parts[found[0]], template)
