"""Templates of turns and questions. Every list is cut into a part for training and one for tests.

Fields: ``{Poss}``/``{poss}`` "Nora's" or "my"; ``{who}`` "Nora"; ``{slot}``; ``{v}`` a value; ``{x}`` a value that the
question names; ``{event}``.
"""

from __future__ import annotations

from generator.unit import Unit
from generator.units_test import UNITS_TEST
from generator.units_train import UNITS_TRAIN
from generator.words import Split

Parts = tuple[tuple[str, ...], tuple[str, ...]]

# One wording serves every value of a slot, so that no word tells a first value from a change.
_SET: Parts = (
    (
        "{Poss} {slot} is {v}.",
        "For {poss} {slot} it is {v}.",
        "I noted {v} as {poss} {slot}.",
        "{Poss} {slot}: {v}.",
        "We put down {v} for {poss} {slot}.",
        "With {poss} {slot} we go for {v}.",
        "{who} has {v} as {slot}.",
        "Note for {who}, {slot}: {v}.",
        "The {slot} of {who} is {v}.",
        "When it comes to {poss} {slot}, it is {v}.",
        "{who} says the {slot} is {v}.",
        "{v} will be {poss} {slot}.",
        "Put {v} under {poss} {slot}.",
        "They told me that {poss} {slot} is {v}.",
        "Let's say {v} for {poss} {slot}.",
        "I want {v} for {poss} {slot}.",
    ),
    (
        "{v} it is, as far as {poss} {slot} goes.",
        "Please write {v} down as {poss} {slot}.",
        "As {poss} {slot}, take {v}.",
        "About {poss} {slot}, I hear {v}.",
    ),
)

_ASK: dict[str, Parts] = {
    "now": (
        (
            "What is {poss} {slot} now?",
            "What is {poss} current {slot}?",
            "Which {slot} is up to date for {who}?",
            "What did we say most recently about {poss} {slot}?",
            "What is the latest on {poss} {slot}?",
            "What {slot} was mentioned lastly for {who}?",
            "{Poss} {slot} at the moment?",
            "Tell me the newest {slot} of {who}.",
            "As things stand, what is {poss} {slot}?",
            "By now, which {slot} does {who} have?",
            "What is the {slot} of {who} today?",
            "And what did {poss} {slot} end up as?",
            "What is {poss} {slot} nowadays?",
            "Which {slot} is the last we heard of for {who}?",
            "What is {poss} {slot} in the end?",
            "Presently, what is the {slot} of {who}?",
        ),
        (
            "What is {poss} {slot} these days?",
            "Which {slot} does {who} have right now?",
            "What is {poss} {slot}, as of today?",
        ),
    ),
    "first": (
        (
            "What was {poss} first {slot}?",
            "What was {poss} {slot} originally?",
            "Which {slot} did {who} start out with?",
            "What {slot} was mentioned firstly for {who}?",
            "What {slot} came first for {who}?",
            "In the beginning, what was {poss} {slot}?",
            "What did {who} begin with as {slot}?",
            "Way back, what was the {slot} of {who}?",
            "Before any change, what was {poss} {slot}?",
            "What {slot} was I told first for {who}?",
            "What was {poss} {slot} to begin with?",
            "Which {slot} of {who} is the oldest?",
            "How did {poss} {slot} start?",
            "What was {poss} very first {slot}?",
        ),
        (
            "What was {poss} {slot} initially?",
            "Which {slot} did {who} have at the very start?",
            "What was {poss} earliest {slot}?",
        ),
    ),
    "previous": (
        (
            "What was {poss} previous {slot}?",
            "What was {poss} {slot} before the latest change?",
            "Which {slot} did {who} have just before the current one?",
            "What was {poss} last {slot} but one?",
            "What had {poss} {slot} been before this one?",
            "Which {slot} of {who} was replaced last?",
            "Go back one step: what was {poss} {slot}?",
            "What was {poss} {slot} one change ago?",
            "Which {slot} did {who} give up for the present one?",
            "What was the {slot} of {who} last time, before it changed to what it is?",
            "What is the second newest {slot} of {who}?",
            "Not the current one but the one before: what was {poss} {slot}?",
            "What did the newest {slot} of {who} replace?",
            "{Poss} {slot} just before now?",
            "And before the latest, what was {poss} {slot}?",
            "What was {poss} old {slot}, the one right before this?",
            "What was {poss} {slot} up to the last change?",
        ),
        ("What was {poss} {slot} until it last changed?", "Which {slot} did {who} have prior to the present one?"),
    ),
    "before_x": (
        (
            "What was {poss} {slot} before it was {x}?",
            "Before {x}, what was {poss} {slot}?",
            "Which {slot} did {who} have ahead of {x}?",
            "What did {x} replace as {poss} {slot}?",
            "What was there before {x} as {slot} of {who}?",
            "What was replaced by {x} as {poss} {slot}?",
            "{Poss} {slot} became {x}; what was it until then?",
            "Which {slot} of {who} gave way to {x}?",
            "From what did {poss} {slot} turn into {x}?",
            "What was {poss} {slot} up to {x}?",
            "Directly before {x}, which was the {slot} of {who}?",
            "What came ahead of {x} as the {slot} of {who}?",
            "When {x} was not yet {poss} {slot}, what was it?",
        ),
        ("What did {poss} {slot} change from when it became {x}?", "Prior to {x}, which {slot} did {who} have?"),
    ),
    "after_x": (
        (
            "What was {poss} {slot} after it was {x}?",
            "After {x}, what was {poss} {slot}?",
            "What came after {x} as {poss} {slot}?",
            "What replaced {x} as {slot} of {who}?",
            "{Poss} {slot} was {x}, and then?",
            "What did {x} turn into as {poss} {slot}?",
            "Which {slot} of {who} took the place of {x}?",
            "{who} gave up {x} as {slot}; for what?",
            "What came next when {x} was no longer {poss} {slot}?",
            "Directly after {x}, which was the {slot} of {who}?",
            "{x} was replaced as {poss} {slot} by what?",
            "Once {x} was gone, what was the {slot} of {who}?",
            "From {x}, where did {poss} {slot} go?",
        ),
        ("What did {poss} {slot} change to from {x}?", "Following {x}, which {slot} did {who} have?"),
    ),
    "before_event": (
        (
            "What was {poss} {slot} before {event}?",
            "Which {slot} did {who} have when {event} happened?",
            "At the time of {event}, what was {poss} {slot}?",
            "Until {event}, what was {poss} {slot}?",
            "What was the {slot} of {who} when {event} came?",
            "Up to {event}, which {slot} did {who} have?",
            "During {event}, what was {poss} {slot}?",
        ),
        ("What was {poss} {slot} just ahead of {event}?", "As {event} came, which {slot} did {who} have?"),
    ),
    "after_event": (
        (
            "What did {poss} {slot} become after {event}?",
            "Which new {slot} did {who} have first after {event}?",
            "After {event}, what did {poss} {slot} change to?",
            "What was {poss} new {slot} following the time of {event}?",
            "Since {event}, which {slot} came first for {who}?",
            "What was the {slot} of {who} changed to when {event} was past?",
            "With {event} behind us, what did {poss} {slot} become?",
        ),
        (
            "Once {event} was over, what did {poss} {slot} turn into?",
            "Following {event}, which was {poss} next {slot}?",
        ),
    ),
    "single": (
        ("What is {poss} {slot}?", "Which {slot} does {who} have?", "Do you know {poss} {slot}?"),
        ("Tell me {poss} {slot}.", "Can you recall {poss} {slot}?"),
    ),
}

_EVENT: Parts = (
    ("Then came {event}.", "Today was {event}.", "And so {event} is behind us.", "{Event} kept everybody busy."),
    ("We all lived through {event}.", "{Event} took place this morning."),
)

# Small talk that names nobody: (turn, question about it).
_PLAIN: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = (
    (
        ("The {object} in {place} is broken again.", "What is wrong with the {object} in {place}?"),
        ("Somebody painted the {object} in {place}.", "What was done to the {object} in {place}?"),
        ("There is a new {object} in {place}.", "What is new in {place}?"),
        ("The {object} in {place} makes a strange noise.", "What makes a noise in {place}?"),
        ("They finally repaired the {object} in {place}.", "Was the {object} in {place} repaired?"),
        ("I could not find the {object} in {place}.", "What could not be found in {place}?"),
        ("A cat was sitting on the {object} in {place}.", "Where was the cat sitting?"),
        ("The {object} from {place} has to be cleaned.", "Which thing from {place} needs cleaning?"),
    ),
    (
        ("Rain came in through the {object} in {place}.", "Where did rain come in at {place}?"),
        ("A pigeon lives behind the {object} in {place}.", "What lives behind the {object}?"),
        ("The {object} in {place} was stolen at night.", "What was stolen from {place}?"),
        ("Children drew on the {object} in {place}.", "Who drew on the {object} in {place}?"),
    ),
)

_CHAT: Parts = (
    (
        "It is raining again.",
        "I slept badly.",
        "What a long week.",
        "The coffee is cold.",
        "Let me check.",
        "Traffic was awful.",
        "I will be back in a minute.",
        "That reminds me of something.",
        "Thanks, that helps.",
        "Good to know.",
        "Could you say that again?",
        "I have to run soon.",
        "The news were boring.",
        "Sounds good to me.",
        "One moment, please.",
        "I am not sure about the weather.",
        "It smells of fresh bread here.",
        "The phone keeps ringing.",
        "Ha, very funny.",
        "We should take a break.",
        "Where were we?",
        "The music is too loud.",
        "I forgot my glasses.",
        "No worries at all.",
    ),
    (
        "The sun is out at last.",
        "My back hurts a little.",
        "Anyway.",
        "Give me a second.",
        "That was a good laugh.",
        "The connection is bad today.",
        "I need another tea.",
        "Fair enough.",
        "It got dark early.",
        "Let us move on.",
    ),
)

_REPLY: Parts = (
    (
        "Okay.",
        "I see.",
        "Got it, thanks.",
        "All right, I will remember that.",
        "Noted.",
        "Sure.",
        "Is there anything else?",
        "Thank you for telling me.",
    ),
    ("Understood.", "Alright then.", "Very well, what else can I do?", "Good, I have that."),
)

_FILLER: Parts = (
    ("Oh, ", "Well, ", "By the way, ", "Uh, ", "So, ", "Just so you know: "),
    ("Hm, ", "Listen, ", "Also, "),
)


def of_split(parts: tuple[tuple, tuple], split: Split) -> tuple:  # type: ignore[type-arg]
    """Give the part of a list that belongs to a split."""
    return parts[split == "test"]


def state_templates(split: Split) -> tuple[str, ...]:
    """Turns that give a value."""
    return of_split(_SET, split)


def questions(category: str, split: Split) -> tuple[str, ...]:
    """Questions about a value."""
    return of_split(_ASK[category], split)


def events(split: Split) -> tuple[str, ...]:
    """Turns that tell an event."""
    return of_split(_EVENT, split)


def plain(split: Split) -> tuple[tuple[str, str], ...]:
    """Turns that anybody finds by their words, with their questions."""
    return of_split(_PLAIN, split)


def chat(split: Split) -> tuple[str, ...]:
    """Turns without content."""
    return of_split(_CHAT, split)


def replies(split: Split) -> tuple[str, ...]:
    """What an assistant answers."""
    return of_split(_REPLY, split)


def fillers(split: Split) -> tuple[str, ...]:
    """What a turn may begin with."""
    return of_split(_FILLER, split)


def units(split: Split) -> tuple[Unit, ...]:
    """Pairs of turns whose second is clear from the first only."""
    return of_split((UNITS_TRAIN, UNITS_TEST), split)


def all_templates(split: Split) -> set[str]:
    """Every template of a split, for the test that the two splits share none."""
    found = {one for parts in (_SET, _EVENT, _CHAT, _REPLY, _FILLER, *_ASK.values()) for one in parts[split == "test"]}
    found |= {text for pair in plain(split) for text in pair}
    return found | {text for unit in units(split) for part in (unit.heads, unit.tails, unit.asks) for text in part}
