"""LongMemEval and PersonaMem: one user's sessions with an assistant."""

from __future__ import annotations

import ast
import csv
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.data.files import json_items, read_json
from evoemb.evaluation.benchmarks.common import ChatMessage, Turns, need
from evoemb.evaluation.schema import EvalStream, StreamQuery


def read_longmemeval(path: Path) -> list[EvalStream]:
    """Read LongMemEval as published: ``longmemeval_s``, ``_m`` or ``_oracle`` (also the cleaned ones).

    Every question has a haystack of its own, so it makes a stream. Evidence: turns with a message marked
    ``has_answer``. Sessions are put in order of their dates' text, which sorts by time; the oracle file is not sorted.
    Questions whose name ends in ``_abs`` cannot be answered, and none of their turns is marked.

    Source: the README of github.com/xiaowu0162/LongMemEval (at 01055c0), section on the format. MIT.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: a list of questions is expected, but {type(entries).__name__} was found.")
    return [_longmemeval(entry, f"{path}, element {number}") for number, entry in enumerate(entries)]


def _longmemeval(entry: Any, where: str) -> EvalStream:
    name = need(entry, "question_id", str, where)
    sessions = need(entry, "haystack_sessions", list, where)
    dates = need(entry, "haystack_dates", list, where)
    if len(dates) != len(sessions):
        raise InputError(f"{where}.haystack_dates: {len(dates)} dates for {len(sessions)} sessions. One a session.")
    turns, right = Turns(), []
    for index in sorted(range(len(sessions)), key=lambda index: str(dates[index])):
        place = f"{where}.haystack_sessions[{index}]"
        messages = []
        for number, message in enumerate(sessions[index]):
            role, content = (need(message, key, str, f"{place}[{number}]") for key in ("role", "content"))
            messages.append(ChatMessage(role, content, (index, number), time=str(dates[index])))
            right += [(index, number)] if message.get("has_answer") else []
        turns.add(messages)
    if not turns.turns:
        raise InputError(f"{where}.haystack_sessions: there is no message in them.")
    words = need(entry, "question", str, where)
    category = need(entry, "question_type", str, where)
    if not words.strip():
        raise InputError(f"{where}.question: it is empty.")
    query = StreamQuery(
        name,
        words,
        turns.evidence(right),
        len(turns.turns),
        category,
        str(entry.get("answer", "")),
        asked_date=str(entry.get("question_date", "")),
    )
    return EvalStream(f"longmemeval-{name}", tuple(turns.turns), (query,), "longmemeval", "pairs", "MIT")


def read_personamem(questions: Path, contexts: Path) -> list[EvalStream]:
    """Read PersonaMem as published: ``questions_*.csv`` and ``shared_contexts_*.jsonl``.

    It names no evidence, so it is for answer quality only: its questions are kept, and no ranking is scored. A question
    is asked after ``end_index_in_shared_context`` messages of its context; of a turn cut there, nothing is seen. Names
    of roles that messages repeat (``User: ...``) are taken off.

    Source: github.com/bowen-upenn/PersonaMem, inference_standalone_openai.py (at 041d82a) and README.md (at 004df11);
    the repeated names: github.com/MiG-NJU/EvoEmbedding, eval/personamemeval.py (at 08ce394). MIT.
    """
    found: dict[str, Turns] = {}
    for value, where in json_items(contexts):
        if not isinstance(value, dict):
            raise InputError(f"{where}: an object of contexts is expected, but {type(value).__name__} was found.")
        for name, messages in value.items():
            turns = Turns()
            pairs = [[need(message, key, str, where) for key in ("role", "content")] for message in messages]
            turns.add([ChatMessage(role, _bare(role, content)) for role, content in pairs])
            found[name] = turns
    queries: dict[str, list[StreamQuery]] = {}
    with questions.open(newline="", encoding="utf-8-sig") as file:
        for row in (reader := csv.DictReader(file)):
            where = f"{questions}, line {reader.line_num}"
            context = need(row, "shared_context_id", str, where)
            if context not in found:
                raise InputError(f"{where}, shared_context_id: {context!r} is not in {contexts}.")
            end = need(row, "end_index_in_shared_context", str, where)
            if not end.isdigit():
                raise InputError(f"{where}, end_index_in_shared_context: {end!r} is no number.")
            ends = found[context].message_ends
            if not ends or int(end) > ends[-1]:
                last = ends[-1] if ends else 0
                raise InputError(
                    f"{where}, end_index_in_shared_context: {end} is past the {last} messages of {context!r}."
                )
            seen = max(1, sum(stop <= int(end) for stop in ends))
            words = need(row, "user_question_or_message", str, where)
            options = need(row, "all_options", str, where)
            queries.setdefault(context, []).append(
                StreamQuery(
                    need(row, "question_id", str, where),
                    f"{words}\n{_listed(options)}",
                    (),
                    seen,
                    need(row, "question_type", str, where),
                    need(row, "correct_answer", str, where),
                )
            )
    return [
        EvalStream(name, tuple(found[name].turns), tuple(asked), "personamem", "pairs", "MIT")
        for name, asked in queries.items()
    ]


def _bare(role: str, content: str) -> str:
    """A message without the name of its role before it."""
    name = f"{role.capitalize()}:"
    return content[len(name) :].strip() if role in ("user", "assistant") and content.startswith(name) else content


def _listed(options: str) -> str:
    """Options line by line, where they are a list in JSON's or Python's writing."""
    try:
        found = ast.literal_eval(options)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return options
    return "\n".join(map(str, found)) if isinstance(found, list) else options
