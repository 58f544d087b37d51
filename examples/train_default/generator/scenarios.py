"""Threads of a stream: blocks of turns in order, with the questions that may be asked about them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from generator import phrases
from generator.facts import Act, Ask, Said
from generator.words import Split, slots, words

Block = list[Said]
WORDINGS = {"train": 3, "test": 1}
"""How often one thing is asked, in other words each time: questions are cheap to train on beside the turns."""

ME = "me"
"""The owner that speaks of itself."""


@dataclass(slots=True)
class Thread:
    """Blocks that follow each other with anything in between, and questions; the turns of a block stay together."""

    blocks: list[Block]
    asks: list[Ask] = field(default_factory=list)


class Cast:
    """The words of one stream: no name, item or value is used twice where that would make a question ambiguous.

    Args:
        chance: The stream's random numbers.
        split: Which half of words and templates is used.
    """

    def __init__(self, chance: random.Random, split: Split) -> None:
        self.chance = chance
        self.split: Split = split
        self._names = words("name", split)
        chance.shuffle(self._names)
        self._used: set[tuple[str, str]] = set()

    def name(self) -> str:
        """Give a name that no other thread of the stream has had, as long as there is one."""
        return self._names.pop() if self._names else self.chance.choice(words("name", self.split))

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        """Choose one at random."""
        return self.chance.choice(options)

    def free(self, group: str, options: list[str]) -> str | None:
        """Choose one that was not chosen in this group before; None if there is none left."""
        left = [one for one in options if (group, one) not in self._used]
        if not left:
            return None
        found = self.chance.choice(left)
        self._used.add((group, found))
        return found


def fields(owner: str, **more: str) -> dict[str, str]:
    """Give what templates call owner and event, with ``more``."""
    poss = "my" if owner == ME else f"{owner}'s"
    event = more.get("event", "")
    who = "I" if owner == ME else owner
    return {
        "who": who,
        "poss": poss,
        "Poss": poss[0].upper() + poss[1:],
        "Event": event[:1].upper() + event[1:],
        **more,
    }


def ask(cast: Cast, category: str, owner: str, slot: str, x: str = "", event: str = "") -> Ask:
    """Word a question about a value of a slot."""
    template = cast.pick(phrases.questions(category, cast.split))
    text = template.format(**fields(owner, slot=slot, x=x, event=event))
    # The templates speak of a third person.
    text = re.sub(r"\bdoes I\b", "do I", text)
    text = re.sub(r"\bfor I\b", "for me", text)
    return Ask(text, category, owner, slot, x or event)


def state(cast: Cast, max_people: int = 3) -> list[Thread]:
    """Give one slot of one or several people, whose values change, with an event in between."""
    chance, split = cast.chance, cast.split
    slot = cast.free("slot", list(slots(split)))
    if slot is None:
        return []
    template = cast.pick(phrases.state_templates(split))
    event = cast.free("event", words("event", split)) if chance.random() < 0.5 else None
    threads: list[Thread] = []
    for number in range(chance.randint(1, max_people)):
        owner = ME if number == 0 and chance.random() < 0.25 else cast.name()
        options = words(slots(split)[slot], split)
        values = chance.sample(options, min(len(options), chance.choice((2, 2, 3, 3, 4, 5))))
        blocks = [
            [Said(template.format(**fields(owner, slot=slot, v=v)), (Act("set", owner, slot, v),))] for v in values
        ]
        if event and number == 0:
            told = cast.pick(phrases.events(split)).format(**fields(owner, event=event))
            blocks.insert(chance.randint(1, len(values) - 1), [Said(told, (Act("event", value=event),))])
        asks: list[Ask] = []
        for _ in range(WORDINGS[split]):
            asks += [ask(cast, category, owner, slot) for category in ("now", "first", "previous")]
            if len(values) > 2:
                asks.append(ask(cast, "before_x", owner, slot, x=chance.choice(values[1:])))
                asks.append(ask(cast, "after_x", owner, slot, x=chance.choice(values[:-1])))
            if event and number == 0:
                asks += [ask(cast, kind, owner, slot, event=event) for kind in ("before_event", "after_event")]
        threads.append(Thread(blocks, list(dict.fromkeys(asks))))
    return threads


def single(cast: Cast) -> list[Thread]:
    """Give a slot with one value: a question that needs no memory."""
    slot = cast.free("slot", list(slots(cast.split)))
    if slot is None:
        return []
    owner = cast.name()
    value = cast.pick(words(slots(cast.split)[slot], cast.split))
    text = cast.pick(phrases.state_templates(cast.split)).format(**fields(owner, slot=slot, v=value))
    return [Thread([[Said(text, (Act("set", owner, slot, value),))]], [ask(cast, "single", owner, slot)])]


def plain(cast: Cast) -> list[Thread]:
    """Give a turn that its own words identify."""
    turn, question = cast.pick(phrases.plain(cast.split))  # type: ignore[arg-type]
    thing = cast.free(f"plain {turn}", words("object", cast.split))
    place = cast.free(f"plain {turn}", words("place", cast.split))
    if thing is None or place is None:
        return []
    text = turn.format(object=thing, place=place)
    asked = [] if question.count("{") == 0 else [Ask(question.format(object=thing, place=place), "plain", x=text)]
    return [Thread([[Said(text, (Act("plain", value=text),))]], asked)]


def chatter(cast: Cast) -> Said:
    """Give a turn that says nothing."""
    if cast.chance.random() < 0.5:
        return Said(cast.pick(phrases.chat(cast.split)))
    found = plain(cast)
    return found[0].blocks[0][0] if found else Said(cast.pick(phrases.chat(cast.split)))


def units(cast: Cast, max_distance: int = 6) -> list[Thread]:
    """Give three to five units of one kind: different heads, and tails in the same words.

    Between head and tail stand up to ``max_distance - 1`` turns that name nobody.
    """
    chance, split = cast.chance, cast.split
    category = chance.choice(("coref", "coref", "ellipsis", "ellipsis", "correction", "correction", "cancel", "next"))
    form = chance.choice([one for one in phrases.units(split) if one.category == category])
    head, tail = cast.pick(form.heads), cast.pick(form.tails)
    questions = chance.sample(form.asks, min(WORDINGS[split], len(form.asks)))
    slot = chance.choice(list(slots(split))) if form.kind == "slot" else ""
    options = words(slots(split)[slot], split) if slot else words(form.kind, split)
    # All corrections give the same value, so that their words are the same.
    meant = chance.choice(options)
    items = [one for one in options if one != meant]
    chance.shuffle(items)
    same_item = chance.random() < 0.5 and not slot
    longest_gap = chance.randint(0, max_distance - 1)
    threads = []
    for number in range(chance.randint(3, 5)):
        item = items[0 if same_item else number % len(items)]
        owner = cast.name()
        named = fields(owner, slot=slot, item=item, v=item, w=meant)
        topic = slot or item
        gap = [chatter(cast) for _ in range(chance.randint(0, longest_gap))]
        block = [
            Said(head.format(**named), (Act("head", owner, topic, item),)),
            *gap,
            Said(tail.format(**named), (Act(form.act, owner, topic, meant if form.act == "correct" else ""),)),
        ]
        asks = [Ask(question.format(**named), form.category, owner, topic) for question in questions]
        threads.append(Thread([block], asks))
    return threads
