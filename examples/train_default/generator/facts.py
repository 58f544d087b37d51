"""What turns say as facts, and the answers to questions by replaying them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Act:
    """One fact that a turn gives.

    ``kind``: ``set`` (``owner``'s ``slot`` is ``value``), ``event`` (``value`` happened), ``plain`` (``value`` is a
    text that stands once), ``head`` and the tails ``remark``, ``correct``, ``cancel`` of the unit ``(owner, slot)``.
    """

    kind: str
    owner: str = ""
    slot: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A turn: its text and what it says."""

    text: str
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A question: its words, what it asks of the facts, and what it names (``x``: a value or an event)."""

    text: str
    category: str
    owner: str = ""
    slot: str = ""
    x: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Turns that answer a question, turns that compete with them (these included), and the value."""

    evidence: tuple[int, ...]
    mentions: tuple[int, ...]
    value: str


UNIT_CATEGORIES = ("coref", "ellipsis", "correction", "cancel", "next")
STATE_CATEGORIES = ("now", "first", "previous", "before_x", "after_x", "before_event", "after_event")
EASY_CATEGORIES = ("single", "plain")
_TAILS = ("remark", "correct", "cancel")


def replay(turns: Sequence[Said], ask: Ask) -> Answer | None:
    """Answer a question from the turns seen so far; None if they hold no answer, or more than one."""
    if ask.category == "plain":
        found = _turns_with(turns, "plain", value=ask.x)
        return Answer(tuple(found), (), ask.x) if len(found) == 1 else None
    if ask.category in UNIT_CATEGORIES:
        return _tail(turns, ask)
    return _state(turns, ask)


def _turns_with(turns: Sequence[Said], kind: str, **wanted: str) -> list[int]:
    return [
        index
        for index, turn in enumerate(turns)
        if any(act.kind == kind and all(getattr(act, name) == w for name, w in wanted.items()) for act in turn.acts)
    ]


def _tail(turns: Sequence[Said], ask: Ask) -> Answer | None:
    """Find the tail of a unit; every turn of the same words competes."""
    found = [at for kind in _TAILS for at in _turns_with(turns, kind, owner=ask.owner, slot=ask.slot)]
    if len(found) != 1:
        return None
    text = turns[found[0]].text
    return Answer((found[0],), tuple(i for i, turn in enumerate(turns) if turn.text == text), text)


def _state(turns: Sequence[Said], ask: Ask) -> Answer | None:
    """Find a value of a slot; every turn that gives the slot a value competes."""
    given = [
        (at, act.value)
        for at, turn in enumerate(turns)
        for act in turn.acts
        if act.kind == "set" and (act.owner, act.slot) == (ask.owner, ask.slot)
    ]
    if not given:
        return None
    chosen = _chosen(turns, given, ask)
    if chosen is None:
        return None
    mentions = tuple(at for at, _ in given)
    return Answer((given[chosen][0],), mentions if len(mentions) > 1 else (), given[chosen][1])


def _chosen(turns: Sequence[Said], given: list[tuple[int, str]], ask: Ask) -> int | None:
    """Which of the values is asked for."""
    count, category = len(given), ask.category
    if category == "single":
        return 0 if count == 1 else None
    if count < 2:
        return None
    if category in ("now", "first", "previous"):
        return {"now": count - 1, "first": 0, "previous": count - 2}[category]
    if category in ("before_x", "after_x"):
        places = [index for index, (_, value) in enumerate(given) if value == ask.x]
        step = -1 if category == "before_x" else 1
        return places[0] + step if len(places) == 1 and 0 <= places[0] + step < count else None
    happened = _turns_with(turns, "event", value=ask.x)
    if len(happened) != 1:
        return None
    earlier = sum(at < happened[0] for at, _ in given)
    wanted = earlier - 1 if category == "before_event" else earlier
    return wanted if 0 <= wanted < count else None
