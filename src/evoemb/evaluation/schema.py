"""Streams with questions, as evoemb evaluates and trains on them: checked values, and plain JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from evoemb._errors import InputError
from evoemb.data.streams import UTTERANCES, under_name


@dataclass(frozen=True, slots=True)
class StreamTurn:
    """One turn.

    Args:
        text: What was said.
        role: ``"user"``, ``"assistant"``, ``"user+assistant"``, ``"document"`` or what else the source calls it.
        speaker: Name; empty where there is none.
        time: When, in the source's own words; empty where it is not known.
        messages: The same turn as chat messages, where it is made of some.
    """

    text: str
    role: str = ""
    speaker: str = ""
    time: str = ""
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StreamQuery:
    """One question to a stream.

    Args:
        qid: Its name, unique in its stream.
        query: Its words.
        evidence_turns: Turns that answer it, from 0, sorted, all before ``asked_at``. Empty: left out of all scores.
        asked_at: Turns seen when it is asked; only those may be ranked.
        category: What figures are grouped by.
        answer: The right answer, if there is one in words.
        kind: ``"first"``, ``"last"``, ``"middle"``, ``"previous"``, ``"single"``, another name of yours, or empty.
        mentions: All turns that compete, the right ones among them. For scoring only; no model is given them.
        group: Pairs a "first" with its "last" question; empty if it has no such partner.
        template: Name of the wording, as the source gives it.
        asked_date: When it is asked, in the source's own words; empty where it is not known.
        same_value_turns: Those of ``mentions`` that are out of date but state the right value, which has come back:
            neither evidence nor rivals.
    """

    qid: str
    query: str
    evidence_turns: tuple[int, ...]
    asked_at: int
    category: str = "all"
    answer: str | None = None
    kind: str = ""
    mentions: tuple[int, ...] = ()
    group: str = ""
    template: str = ""
    asked_date: str = ""
    same_value_turns: tuple[int, ...] = ()

    @property
    def rivals(self) -> tuple[int, ...]:
        """Turns that compete with the evidence and state another value."""
        right = {*self.evidence_turns, *self.same_value_turns}
        return tuple(turn for turn in self.mentions if turn not in right)


@dataclass(frozen=True, slots=True)
class EvalStream:
    """Turns in order and the questions asked while or after they were read."""

    stream_id: str
    turns: tuple[StreamTurn, ...]
    queries: tuple[StreamQuery, ...]
    dataset: str = ""
    form: str = ""
    licence: str = ""
    split: str = ""

    @property
    def texts(self) -> list[str]:
        """What a model reads of each turn: its text, behind ``"name: "`` where a turn is one speaker's message.

        A text that begins with this name already is read as it stands.
        """
        if self.form != UTTERANCES:
            return [turn.text for turn in self.turns]
        return [under_name(turn.text, turn.speaker) for turn in self.turns]

    @property
    def scored(self) -> tuple[StreamQuery, ...]:
        """The questions that have evidence."""
        return tuple(query for query in self.queries if query.evidence_turns)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :func:`parse_stream` reads; what is empty is left out of turns and queries."""
        about = {field.name: getattr(self, field.name) for field in fields(self)}
        turns, queries = ([_plain(item) for item in about.pop(name)] for name in ("turns", "queries"))
        return {**about, "turns": turns, "queries": queries}


def parse_stream(value: object, where: str) -> EvalStream:
    """Check one JSON value and give the stream it holds.

    Args:
        value: As ``json.loads`` gives it.
        where: File and line, for errors.

    Raises:
        InputError: A field is missing, of another kind, empty or out of range; the text names ``where`` and the field.
    """
    stream = _mapping(value, where)
    turns = [_turn(one, f"{where}, turns[{number}]") for number, one in enumerate(_list(stream, "turns", where))]
    if not turns:
        raise InputError(f"{where}, turns: this list is empty. A stream needs at least one turn.")
    queries = [
        _query(one, f"{where}, queries[{number}]", len(turns))
        for number, one in enumerate(_list(stream, "queries", where, default=()))
    ]
    seen: set[str] = set()
    for number, query in enumerate(queries):
        if query.qid in seen:
            raise InputError(
                f"{where}, queries[{number}].qid: {query.qid!r} stands twice. Give every query its own id."
            )
        seen.add(query.qid)
    about = {name: _text(stream, name, where, default="") for name in ("dataset", "form", "licence", "split")}
    stream_id = _text(stream, "stream_id", where)
    if not stream_id:
        raise InputError(f"{where}, stream_id: it is empty. Give every stream a name.")
    return EvalStream(stream_id, tuple(turns), tuple(queries), **about)


def _turn(value: object, where: str) -> StreamTurn:
    turn = _mapping(value, where)
    messages = [_mapping(message, f"{where}.messages") for message in _list(turn, "messages", where, default=())]
    for number, message in enumerate(messages):
        for key in ("role", "content"):
            _text(message, key, f"{where}.messages[{number}]")
    about = {name: _text(turn, name, where, default="") for name in ("role", "speaker", "time")}
    return StreamTurn(_text(turn, "text", where), messages=tuple(messages), **about)


def _query(value: object, where: str, num_turns: int) -> StreamQuery:
    query = _mapping(value, where)
    words = _text(query, "query", where)
    if not words.strip():
        raise InputError(f"{where}.query: it is empty. Write the question, or leave the query out.")
    asked_at = query.get("asked_at")
    asked_at = num_turns if asked_at is None else asked_at
    if not _is_int(asked_at) or not 1 <= asked_at <= num_turns:
        raise InputError(
            f"{where}.asked_at: {asked_at!r} was found, but the stream has {num_turns} turns. Expected a number from 1 "
            f"to {num_turns}: how many turns were seen."
        )
    answer = query.get("answer")
    return StreamQuery(
        qid=_text(query, "qid", where),
        query=words,
        evidence_turns=_turn_numbers(query, "evidence_turns", where, asked_at),
        asked_at=asked_at,
        category=_text(query, "category", where, default="all") or "all",
        answer=None if answer is None else str(answer),
        kind=_text(query, "kind", where, default=""),
        mentions=_turn_numbers(query, "mentions", where, asked_at, default=()),
        group=_text(query, "group", where, default=""),
        template=_text(query, "template", where, default=""),
        asked_date=_text(query, "asked_date", where, default=""),
        same_value_turns=_turn_numbers(query, "same_value_turns", where, asked_at, default=()),
    )


def _turn_numbers(
    query: Mapping[str, Any], name: str, where: str, asked_at: int, default: Sequence[int] | None = None
) -> tuple[int, ...]:
    numbers = _list(query, name, where, default=default)
    for number in numbers:
        if not _is_int(number) or not 0 <= number < asked_at:
            raise InputError(
                f"{where}.{name}: {number!r} is not among the turns seen when the query is asked. Expected numbers "
                f"from 0 to {asked_at - 1}."
            )
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{where}.{name}: {list(numbers)} names a turn twice. Name every turn once.")
    return tuple(sorted(numbers))


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: an object is expected here, but {type(value).__name__} was found.")
    return value


def _list(value: Mapping[str, Any], name: str, where: str, default: Sequence[Any] | None = None) -> Sequence[Any]:
    found = value.get(name)
    found = default if found is None else found
    if found is None:
        raise InputError(f"{where}: there is no {name!r}. Add it, as a list.")
    if not isinstance(found, list | tuple):
        raise InputError(f"{where}.{name}: a list is expected here, but {type(found).__name__} was found.")
    return found


def _text(value: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if found is None and name in value and default is not None:
        return default
    if found is None:
        raise InputError(f"{where}: there is no {name!r}. Add it, as a string.")
    if not isinstance(found, str):
        raise InputError(f"{where}.{name}: a string is expected here, but {type(found).__name__} was found.")
    try:
        found.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}.{name}: character {error.start} is half of a surrogate pair. Repair the encoding."
        ) from error
    return found


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(item: StreamTurn | StreamQuery) -> dict[str, Any]:
    """A turn or query as a JSON object, without what is empty; evidence always stands, empty or not."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    kept = {name: value for name, value in values.items() if value not in ("", None, ()) or name == "evidence_turns"}
    if isinstance(item, StreamTurn):
        kept["text"] = item.text
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
