"""Streams of talk made of kinds of facts: first mentions, updates and all that only looks like one, mixed."""

from __future__ import annotations

import json
import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "facts"
DEV_SHARE = 8
"""One kind of fact in so many is kept for development."""

_REPLIES = ("Noted.", "Got it.", "Okay.", "Thanks for telling me.", "Alright, I have that.", "Understood.", "Sure.", "")
_PEOPLE = ("Mia", "Jonas", "Priya", "Tomasz", "Leila", "Ben", "Aiko", "Carlos", "Wanda", "Idris", "Sofie", "Duncan")
_EVENTS = (
    ("the office party", "The office party was last night, my feet hurt."),
    ("the storm", "big storm yesterday, the fence is gone"),
    ("my birthday", "It was my birthday on Saturday, thanks for the wishes."),
    ("the trip to Madrid", "back from Madrid, sunburnt"),
    ("the power cut", "we had a power cut for six hours"),
    ("the flood in the cellar", "Our cellar was flooded this morning, what a mess."),
    ("the marathon", "ran the marathon in the end, 4:31"),
    ("my cousin's wedding", "The wedding of my cousin was lovely, I cried."),
    ("the audit", "Audit is over, two findings, both small."),
    ("the fire drill", "fire drill today, everyone forgot their coats"),
    ("the strike", "No trains because of the strike, I walked."),
    ("the exhibition", "We finally saw the exhibition."),
    ("the big match", "what a match!! 3:2 in the last minute"),
    ("the summer holidays", "Summer holidays are over, back to the grind."),
    ("the hackathon", "hackathon done, slept four hours"),
    ("the snow day", "So much snow that everything was closed."),
)


def read_kinds(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return every kind of fact of a folder's JSON Lines files."""
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines())
    return [json.loads(line) for line in lines if line.strip()]


def is_dev(kind: dict[str, Any]) -> bool:
    """Return whether a kind is kept for development: by a hash of its name, so that new kinds move no old one."""
    return zlib.crc32(kind["id"].encode()) % DEV_SHARE == 0


@dataclass(slots=True)
class _Turn:
    user: str
    reply: str = ""
    fact: int = -1  # which fact it is about
    act: str = ""  # set, wrong, late, maybe, cancel, lead, event or empty
    value: str = ""


@dataclass(slots=True)
class _Fact:
    """One owner's fact of a kind; ``owner`` is empty for the speaker."""

    kind: dict[str, Any]
    owner: str
    blocks: list[list[_Turn]] = field(default_factory=list)


class _Writer:
    """Writes the blocks of one stream's facts."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def fact(self, kind: dict[str, Any], owner: str, number: int, taken: set[str]) -> _Fact:
        values = [one for one in kind["values"] if one not in taken]
        self.chance.shuffle(values)
        fact = _Fact(kind, owner)
        changes = self.chance.choices((0, 1, 2, 3), (3, 4, 4, 2))[0]
        current, spare = "", list(values)
        fact.blocks.append(self._set(fact, number, "first", current, spare))
        known = [fact.blocks[-1][-1].value]
        for _ in range(changes):
            self._between(fact, number, known, spare)
            if len(spare) < 3:
                break
            if len(known) > 1 and not owner and self.chance.random() < 0.15:
                value = self.chance.choice(known[:-1])
                if value != known[-1]:
                    fact.blocks.append([self._turn(fact, number, "back", "set", value)])
                    known.append(value)
                continue
            fact.blocks.append(self._set(fact, number, "update", known[-1], spare))
            known.append(fact.blocks[-1][-1].value)
        self._between(fact, number, known, spare)
        if not owner and self.chance.random() < 0.12:
            fact.blocks.append([self._turn(fact, number, "cancel", "cancel")])
        return fact

    def _between(self, fact: _Fact, number: int, known: list[str], spare: list[str]) -> None:
        """Add what only looks like an update."""
        if fact.owner:
            return
        if len(set(known)) > 1 and self.chance.random() < 0.45:
            old = self.chance.choice([one for one in known if one != known[-1]])
            fact.blocks.append([self._turn(fact, number, "late", "late", old)])
        if self.chance.random() < 0.3 and spare:
            fact.blocks.append([self._turn(fact, number, "maybe", "maybe", spare[-1])])
        if self.chance.random() < 0.35:
            fact.blocks.append([self._turn(fact, number, "talk", "")])

    def _set(self, fact: _Fact, number: int, way: str, current: str, spare: list[str]) -> list[_Turn]:
        """Return the turns that give the fact a new value; the last one holds it."""
        value, kind = spare.pop(), fact.kind
        if fact.owner:
            return [self._turn(fact, number, f"other_{way}", "set", value)]
        roll = self.chance.random()
        if roll < 0.12 and kind.get("offer"):
            offer = self.chance.choice(kind["offer"])
            ask = _Turn(offer["ask"], _fill(offer["offer"], value), number, "set", value)
            return [ask, _Turn(offer["yes"], self.chance.choice(_REPLIES), number, "set", value)]
        if roll < 0.38 and way == "update":
            pair = self.chance.choice(kind["elliptic"])
            lead = _Turn(pair["lead"], self.chance.choice(_REPLIES), number, "lead")
            tail = _Turn(_fill(pair["tail"], value), self._reply(kind, value), number, "set", value)
            return [lead, tail]
        if roll < 0.5 and spare:
            wrong = spare.pop()
            first = self._turn(fact, number, way, "wrong", wrong)
            return [first, _Turn(_fill(self.chance.choice(kind["correct"]), value, wrong), "", number, "set", value)]
        return [self._turn(fact, number, way, "set", value)]

    def _turn(self, fact: _Fact, number: int, way: str, act: str, value: str = "") -> _Turn:
        text = _fill(self.chance.choice(fact.kind[way]), value, owner=fact.owner)
        sets = act in ("set", "wrong") and not fact.owner
        reply = self._reply(fact.kind, value) if sets else self.chance.choice(_REPLIES)
        return _Turn(text, reply, number, act, value)

    def _reply(self, kind: dict[str, Any], value: str) -> str:
        replies = kind["replies"] if self.chance.random() < 0.5 else _REPLIES
        return _fill(self.chance.choice(replies), value)


def make_stream(kinds: list[dict[str, Any]], seed: int, filler: list[str]) -> dict[str, Any]:
    """Return a stream with questions, as a JSON object in evoemb's stream format.

    Args:
        kinds: What its facts are drawn from.
        seed: The same one gives the same stream.
        filler: Turns that state no fact, as users write them.
    """
    chance = random.Random(seed)
    writer = _Writer(chance)
    facts: list[_Fact] = []
    for kind in chance.sample(kinds, min(len(kinds), chance.randint(3, 7))):
        owners = [""] + ([chance.choice(kind["others"])] if chance.random() < 0.5 else [])
        taken: set[str] = set()
        for owner in owners:
            facts.append(writer.fact(kind, owner, len(facts), taken))
            taken |= {turn.value for block in facts[-1].blocks for turn in block}
    turns = _mixed(facts, filler, chance)
    form = "pairs" if chance.random() < 0.75 else "utterances"
    speaker = chance.choice(_PEOPLE)
    queries = _questions(facts, turns, chance, kinds, f"talk-{seed}")
    return {
        "stream_id": f"talk-{seed}",
        "dataset": "talk",
        "licence": "CC0-1.0",
        "form": form,
        "turns": [_json(turn, form, speaker) for turn in turns],
        "queries": queries,
    }


def _mixed(facts: list[_Fact], filler: list[str], chance: random.Random) -> list[_Turn]:
    """Return all turns, those of a fact in their order; the turns of a block stay near each other."""
    waiting = [list(fact.blocks) for fact in facts]
    turns: list[_Turn] = []
    filled = chance.uniform(0.05, 0.5)
    events = chance.sample(_EVENTS, 3)
    while any(waiting):
        if chance.random() < 0.06 and events:
            name, text = events.pop()
            turns.append(_Turn(text, chance.choice(_REPLIES), act="event", value=name))
        while chance.random() < filled:
            turns.append(_Turn(chance.choice(filler), chance.choice(_REPLIES)))
        left = [number for number, blocks in enumerate(waiting) if blocks]
        block = waiting[chance.choice(left)].pop(0)
        for position, turn in enumerate(block):
            if position and block[0].act == "lead" and chance.random() < 0.35:
                turns.append(_Turn(chance.choice(filler), chance.choice(_REPLIES)))
            turns.append(turn)
    return turns


def _json(turn: _Turn, form: str, speaker: str) -> dict[str, str]:
    if form == "utterances":
        # A value that only the assistant named stays in the turn.
        offered = turn.act == "set" and turn.value in turn.reply and turn.value not in turn.user
        text = f"{turn.user} ({turn.reply})" if offered else turn.user
        return {"role": "user", "speaker": speaker, "text": text}
    reply = f"\nAssistant: {turn.reply}" if turn.reply else ""
    return {"role": "user+assistant" if reply else "user", "text": f"User: {turn.user}{reply}"}


def _questions(
    facts: list[_Fact], turns: list[_Turn], chance: random.Random, kinds: list[dict[str, Any]], name: str
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, fact in enumerate(facts):
        moments = {len(turns), *(chance.randint(2, len(turns)) for _ in range(2))} if len(turns) > 2 else {len(turns)}
        for at in sorted(moments):
            for way in _ways(fact, chance):
                if asked := _asked(fact, number, turns[:at], way, chance):
                    found.append(asked)
    there = {fact.kind["id"] for fact in facts}
    absent = [kind for kind in kinds if kind["id"] not in there]
    for kind in chance.sample(absent, min(2, len(absent))):
        found.append(_none(chance.choice(kind["asks"]["last"]), chance.randint(2, len(turns))))
    alone = [fact.kind for fact in facts if not fact.owner and not any(o.owner and o.kind is fact.kind for o in facts)]
    for kind in chance.sample(alone, min(2, len(alone))):
        words = _fill(chance.choice(kind["asks"]["other"]), owner=chance.choice(kind["others"]))
        found.append(_none(words, len(turns)))
    return [{"qid": f"{name}-{index}", **query} for index, query in enumerate(found)]


def _none(query: str, at: int) -> dict[str, Any]:
    return {"query": query, "evidence_turns": [], "asked_at": at, "category": "none", "kind": "none", "mentions": []}


def _ways(fact: _Fact, chance: random.Random) -> list[str]:
    if fact.owner:
        return ["other"]
    more = chance.choices(
        ("still", "first", "previous", "before", "before_event", "after_event", "cancelled"), (3, 4, 5, 3, 2, 2, 1)
    )[0]
    return ["last", more] if chance.random() < 0.6 else ["last"]


def _asked(fact: _Fact, number: int, turns: list[_Turn], way: str, chance: random.Random) -> dict[str, Any] | None:
    """Return a question about a fact with the turns that answer it, or None where they answer none of that kind."""
    mine = [at for at, turn in enumerate(turns) if turn.fact == number]
    mentions = [at for at in mine if turns[at].act in ("set", "wrong", "late", "maybe")]
    runs: list[tuple[str, list[int]]] = []
    ended = False
    for at in mine:
        turn = turns[at]
        if turn.act == "cancel":
            runs.append(("", [at]))
            ended = True
        elif turn.act == "set":
            if runs and runs[-1][0] == turn.value:
                runs[-1][1].append(at)
            else:
                runs.append((turn.value, [at]))
    values = [run for run in runs if run[0]]
    if not runs or not values:
        return None
    asks, x, e = fact.kind["asks"], "", ""
    if way in ("last", "other"):
        chosen: list[int] | None = runs[-1][1]
    elif way == "still":
        x, chosen = chance.choice(values)[0], runs[-1][1]
    elif way == "cancelled":
        chosen = runs[-1][1]
    elif way == "first":
        chosen = values[0][1]
    elif way == "previous":
        chosen = values[-2][1] if len(values) > 1 and not ended else None
    elif way == "before":
        later = [i for i in range(1, len(values)) if [v for v, _ in values].count(values[i][0]) == 1]
        chosen = None
        if later:
            place = chance.choice(later)
            x, chosen = values[place][0], values[place - 1][1]
    else:
        chosen, e = _by_event(turns, values, way, chance)
    if not chosen:
        return None
    words = _fill(chance.choice(asks[way]), owner=fact.owner, x=x, e=e)
    kind = {"still": "last", "before": "previous", "before_event": "event", "after_event": "event"}.get(way, way)
    return {
        "query": words,
        "evidence_turns": sorted(chosen),
        "asked_at": len(turns),
        "category": way,
        "kind": kind,
        "mentions": sorted({*mentions, *chosen}),
    }


def _by_event(
    turns: list[_Turn], values: list[tuple[str, list[int]]], way: str, chance: random.Random
) -> tuple[list[int] | None, str]:
    happened = [(at, turn.value) for at, turn in enumerate(turns) if turn.act == "event"]
    chance.shuffle(happened)
    for at, name in happened:
        before = [places for _, places in values if places[-1] < at]
        after = [places for _, places in values if places[0] > at]
        if before and after:
            return (before[-1] if way == "before_event" else after[0]), name
    return None, ""


def _fill(template: str, value: str = "", wrong: str = "", owner: str = "", x: str = "", e: str = "") -> str:
    told = {"v": value, "w": wrong, "o": owner, "x": x, "e": e}
    text = re.sub(r"\{([vwoxe])\}", lambda found: told[found[1]], template)
    return text[:1].upper() + text[1:] if template.startswith(("{o}", "{e}")) else text
