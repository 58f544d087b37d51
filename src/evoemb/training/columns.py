"""One row of training data, checked: EvoTrain's schema or plain columns in, a :class:`StreamExample` out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral, Real
from typing import Any

from evoemb._errors import InputError, InputTypeError
from evoemb.data.messages import ASSISTANT, TOOL, USER, as_message, is_message
from evoemb.data.tables import items_of
from evoemb.data.turns import as_turns

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Question:
    """A query asked of a stream.

    Args:
        text: The query.
        evidence: Indices of the turns that answer it, from 0, in ascending order; none if no turn does.
        asked_at: Turns read when it is asked; only those before are candidates.
        answer: The answer for the memory loss; None leaves the query out of it.
    """

    text: str
    evidence: tuple[int, ...]
    asked_at: int
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class StreamExample:
    """A stream with its queries, checked.

    Args:
        turns: Texts of the turns, in order.
        questions: At least one.
        history: The messages that the turns were made of, without query and answer; None where turns were given as
            texts.
        timestamps: One a turn, as text; None if the row has none.
        asked: The query as the chat has it, where that may differ from its text in ``meta.turns``; else None.
    """

    turns: tuple[str, ...]
    questions: tuple[Question, ...]
    history: tuple[dict[str, str], ...] | None = None
    timestamps: tuple[str, ...] | None = None
    asked: str | None = None


class RowError(InputError):
    """A row of training data is broken. Its text names row, field, what was given, what is expected, and what to do."""

    def __init__(self, row: int | str, field: str, given: str, expected: str) -> None:
        super().__init__(f"Row {row}, field {field!r}: {given} was given, but {expected}.")
        self.row, self.field = row, field


class _Row:
    """A row while it is read: raises errors that name it."""

    def __init__(self, values: Any, name: int | str) -> None:
        self.name = name
        if not isinstance(values, Mapping):
            raise self.error("(the row)", _kind(values), "a row is an object of columns such as turns, query, evidence")
        self.values = values
        meta = values.get("meta")
        self.meta: Mapping[str, Any] = meta if isinstance(meta, Mapping) else {}

    def error(self, field: str, given: str, expected: str) -> RowError:
        return RowError(self.name, field, given, expected)

    def get(self, name: str) -> Any:
        """A column, where ``meta.x`` may be nested or a dotted key; None if it is absent or null."""
        if name.startswith("meta."):
            nested = self.meta.get(name.removeprefix("meta."))
            return self.values.get(name) if nested is None else nested
        return self.values.get(name)

    def text(self, value: Any, field: str, *, blank: bool = True) -> str:
        """A string that a tokenizer takes."""
        if not isinstance(value, str):
            raise self.error(field, _kind(value), "a string is expected")
        if not blank and not value.strip():
            raise self.error(field, "an empty text", "a text with words is expected; leave the row out if it has none")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            expected = "valid Unicode is expected; repair the encoding of the file"
            raise self.error(field, f"half of a surrogate pair at character {error.start}", expected) from error
        return str(value)

    def items(self, value: Any, field: str, what: str) -> list[Any]:
        """The elements of a list, array or tuple."""
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__") or not hasattr(value, "__len__"):
            raise self.error(field, _kind(value), f"a list of {what} is expected")
        try:
            return items_of(value)
        except InputTypeError as error:
            raise self.error(field, "a table of other columns", f"a list of {what} is expected. {error}") from error


def parse_row(values: Any, row: int | str = 0) -> StreamExample:
    """Check one row and give it as an example.

    Plain columns are ``turns`` (strings or chat messages), ``query``, ``evidence`` (indices of turns from 0) and, if
    wanted, ``asked_at``, ``answer`` and ``timestamps``. Several queries of one stream are lists of these, with a list
    of evidence indices each. evoemb's stream format has ``turns`` of ``{"text": ...}`` and ``queries`` of
    ``{"query", "evidence_turns", "asked_at", "answer"}``. EvoTrain's schema is ``messages``, ``meta.turns`` (the last
    is the query) and ``meta.evidence_turns``, nested or with dotted keys.

    Args:
        values: The row.
        row: Its number or name, for messages.

    Raises:
        RowError: Something is missing, of another kind, or out of range.
    """
    given = _Row(values, row)
    if given.get("meta.turns") is not None or given.get("meta.evidence_turns") is not None:
        return _evotrain(given)
    if given.get("queries") is not None and given.get("query") is None:
        given = _unnested(given)
    if given.get("turns") is None:
        keys = ", ".join(map(repr, given.values)) or "none"
        raise given.error("turns", f"nothing (columns: {keys})", "turns, or messages with meta.turns, are expected")
    return _plain(given)


def _plain(row: _Row) -> StreamExample:
    turns = _turns(row, row.get("turns"), "turns")
    query = row.get("query")
    if query is None:
        raise row.error("query", "nothing", "a query is expected: a string, or a list of strings")
    if isinstance(query, str):
        evidence, asked_at, answer = [row.get("evidence")], [row.get("asked_at")], [row.get("answer")]
        queries, suffixes = [query], [""]
    else:
        queries = row.items(query, "query", "strings")
        if not queries:
            raise row.error("query", "an empty list", "at least one query is expected")
        evidence, asked_at, answer = (_of_each(row, name, len(queries)) for name in ("evidence", "asked_at", "answer"))
        suffixes = [f"[{index}]" for index in range(len(queries))]
    questions = [
        _question(row, text, own, len(turns), at, said, suffix)
        for text, own, at, said, suffix in zip(queries, evidence, asked_at, answer, suffixes, strict=True)
    ]
    first = row.items(row.get("turns"), "turns", "strings or chat messages")[0]
    history = _messages(row, "turns") if _is_chat_message(first) else None
    if history and any(message["role"] == TOOL for message in history):
        history = None  # chat templates differ in what they make of tools; the turns' texts hold their words
    return StreamExample(tuple(turns), tuple(questions), history, _timestamps(row, len(turns)))


def _unnested(row: _Row) -> _Row:
    """Bring evoemb's stream format to plain columns."""
    queries = row.items(row.get("queries"), "queries", "objects with query and evidence_turns")
    for index, query in enumerate(queries):
        if not isinstance(query, Mapping):
            raise row.error(f"queries[{index}]", _kind(query), "an object with query and evidence_turns is expected")
    columns = {"query": "query", "evidence": "evidence_turns", "asked_at": "asked_at", "answer": "answer"}
    values = {name: [query.get(key) for query in queries] for name, key in columns.items()}
    return _Row({"turns": row.get("turns"), **values}, row.name)


def _of_each(row: _Row, field: str, count: int) -> list[Any]:
    """A column that holds one value a query."""
    value = row.get(field)
    if value is None:
        return [None] * count
    values = row.items(value, field, "one value a query")
    if len(values) != count:
        raise row.error(field, f"a list of {len(values)}", f"one value for each of the {count} queries is expected")
    return values


def _question(row: _Row, text: Any, evidence: Any, num_turns: int, asked_at: Any, answer: Any, suffix: str) -> Question:
    """Check one query with its evidence."""
    query = row.text(text, f"query{suffix}", blank=False)
    at = num_turns if asked_at is None else _index(row, asked_at, f"asked_at{suffix}")
    if not 0 <= at <= num_turns:
        raise row.error(f"asked_at{suffix}", str(at), f"a number of turns from 0 to {num_turns} is expected")
    if evidence is None:
        expected = "a list of turn indices is expected; use [] where no turn answers the query"
        raise row.error(f"evidence{suffix}", "nothing", expected)
    indices = _evidence(row, evidence, f"evidence{suffix}", at, num_turns)
    said = None if answer is None else row.text(answer, f"answer{suffix}")
    return Question(query, indices, at, said)


def _evidence(row: _Row, value: Any, field: str, num_candidates: int, query_index: int) -> tuple[int, ...]:
    """Check evidence: whole numbers, each once, all of turns before the query."""
    indices = [_index(row, item, field) for item in row.items(value, field, "turn indices")]
    for index in indices:
        if index == query_index:
            raise row.error(field, f"{index}, the query itself", "evidence are turns before the query, counted from 0")
        if not 0 <= index < num_candidates:
            expected = (
                f"indices from 0 to {num_candidates - 1} are expected" if num_candidates else "there is no turn yet"
            )
            raise row.error(field, str(index), f"{expected}: only turns before the query can answer it")
    if len(set(indices)) < len(indices):
        raise row.error(field, f"{indices}", "every turn is expected once")
    return tuple(sorted(indices))


def _index(row: _Row, value: Any, field: str) -> int:
    """A whole number that is no boolean."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise row.error(
            field, f"{value!r}" if isinstance(value, Real | str) else _kind(value), "whole numbers are expected"
        )
    return int(value)


def _turns(row: _Row, value: Any, field: str) -> list[str]:
    """Turn texts from strings or messages."""
    items = row.items(value, field, "strings or chat messages")
    if not items:
        raise row.error(field, "an empty list", "at least one turn is expected; leave rows without turns out")
    if isinstance(items[0], Mapping) and "text" in items[0]:
        items = [item.get("text") if isinstance(item, Mapping) else item for item in items]
    if is_message(items[0]):
        try:
            texts = as_turns(items)
        except (InputError, InputTypeError) as error:
            raise row.error(
                field, "a value that is not a chat message", f"chat messages are expected. {error}".rstrip(".")
            ) from error
        return [row.text(text, field) for text in texts]
    return [row.text(item, f"{field}[{index}]") for index, item in enumerate(items)]


def _timestamps(row: _Row, num_turns: int) -> tuple[str, ...] | None:
    """Timestamps: one a turn, of one kind, never going back."""
    value = row.get("timestamps")
    if value is None:
        return None
    if isinstance(value, list) and not value:
        return None
    stamps = row.items(value, "timestamps", "times")
    if len(stamps) != num_turns:
        raise row.error("timestamps", f"a list of {len(stamps)}", f"one for each of the {num_turns} turns is expected")
    times = [_time(row, stamp, f"timestamps[{index}]") for index, stamp in enumerate(stamps)]
    for index in range(1, num_turns):
        try:
            back = times[index] < times[index - 1]
        except TypeError as error:
            expected = "times of one kind are expected: all numbers, or all ISO 8601 of one time zone style"
            raise row.error(f"timestamps[{index}]", f"{stamps[index]!r}", expected) from error
        if back:
            expected = f"times in order are expected, and the turn before has {stamps[index - 1]!r}; sort the turns"
            raise row.error(f"timestamps[{index}]", f"{stamps[index]!r}", expected)
    return tuple(str(stamp) for stamp in stamps)


def _time(row: _Row, value: Any, field: str) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # as rows that were checked before hold them
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            pass
    given = f"{value!r}" if isinstance(value, str | float) else _kind(value)
    raise row.error(field, given, "a time is expected: ISO 8601 text, or seconds as a number")


def _evotrain(row: _Row) -> StreamExample:
    """A row of EvoTrain: the last of ``meta.turns`` is the query, the last assistant message its answer."""
    turns = row.items(row.get("meta.turns"), "meta.turns", "strings")
    if len(turns) < 2:
        expected = "at least one turn and, as the last, the query are expected"
        raise row.error("meta.turns", f"a list of {len(turns)}", expected)
    texts = [row.text(turn, f"meta.turns[{index}]") for index, turn in enumerate(turns)]
    query = row.text(texts[-1], f"meta.turns[{len(texts) - 1}]", blank=False)
    count = len(texts) - 1
    evidence = row.get("meta.evidence_turns")
    if evidence is None:
        expected = "a list of turn indices is expected; use [] where no turn answers the query"
        raise row.error("meta.evidence_turns", "nothing", expected)
    indices = _evidence(row, evidence, "meta.evidence_turns", count, count)
    messages = _messages(row, "messages")
    if messages is None:
        return StreamExample(tuple(texts[:-1]), (Question(query, indices, count),))
    for index, message in enumerate(messages):
        if message["role"] == TOOL:
            expected = "the roles here are system, user and assistant; leave out what tools say"
            raise row.error(f"messages[{index}]", "the role 'tool'", expected)
    answer = messages[-1]["content"] if messages and messages[-1]["role"] == ASSISTANT else None
    asked = messages[:-1] if answer is not None else messages
    if not asked or asked[-1]["role"] != USER:
        expected = "the query, a user message, is expected as the last message before the answer"
        raise row.error("messages", f"a list of {len(messages)} that ends otherwise", expected)
    return StreamExample(
        tuple(texts[:-1]), (Question(query, indices, count, answer),), asked[:-1], asked=asked[-1]["content"]
    )


def _messages(row: _Row, column: str) -> tuple[dict[str, str], ...] | None:
    value = row.get(column)
    if value is None:
        return None
    messages = []
    for index, message in enumerate(row.items(value, column, "chat messages")):
        field = f"{column}[{index}]"
        try:
            read = as_message(message, f"Message {index}")
        except (InputError, InputTypeError) as error:
            expected = f'a message {{"role": ..., "content": ...}} is expected. {error}'.rstrip(".")
            raise row.error(field, _kind(message), expected) from error
        messages.append({"role": read.role, "content": read.content})
    return tuple(messages)


def _is_chat_message(value: object) -> bool:
    """Return whether a turn is given as a message; evoemb's own turns have a text beside."""
    return is_message(value) and not (isinstance(value, Mapping) and "text" in value)


def _kind(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, value)) or 'no keys'}"
    return f"{value!r}" if isinstance(value, int | float) else f"a {type(value).__name__}"
