"""Pairs of turns whose second is clear from the first only, for training and for tests.

Fields as in :mod:`generator.phrases`; ``{item}`` is what the pair is about, ``{w}`` the value of a correction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """A pair of turns: a head that names whom and what it is about, and a tail that only the head makes clear.

    ``kind`` is the kind of word ``{item}`` is taken from; ``slot`` takes a slot and values instead.
    """

    category: str
    kind: str
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    asks: tuple[str, ...]
    act: str = "remark"


UNITS: tuple[tuple[Unit, ...], tuple[Unit, ...]] = (
    (
        Unit(
            "coref",
            "thing",
            ("{who} bought a {item}.", "{who} came home with a {item}."),
            ("It already broke.", "It works like a charm.", "It was a real bargain."),
            ("What was said about {poss} {item}?", "How did {poss} {item} turn out?"),
        ),
        Unit(
            "coref",
            "pet",
            ("{who} has a {item} now.", "{who} adopted a {item}."),
            ("It sleeps all day.", "It bites everybody.", "It is afraid of thunder."),
            ("What is {poss} {item} like?", "How does the {item} of {who} behave?"),
        ),
        Unit(
            "coref",
            "course",
            ("{who} takes {item} lessons.", "{who} signed up to learn {item}."),
            ("It is harder than it looks.", "That goes very well.", "The teacher is strict."),
            ("How is it going with {poss} {item} lessons?", "What do we know about the {item} lessons of {who}?"),
        ),
        Unit(
            "coref",
            "city",
            ("{who} spent a week in {item}.", "{who} came back from {item}."),
            ("It was freezing there.", "The people there were lovely.", "It was far too expensive."),
            ("How was it in {item} for {who}?", "What did {who} say about {item}?"),
        ),
        Unit(
            "ellipsis",
            "slot",
            ("Which {slot} should we take for {who}?", "What about {poss} {slot}?"),
            ("The second one, please.", "The cheaper one.", "Same as last time.", "Whatever is closest."),
            ("What was the answer about {poss} {slot}?", "Which {slot} was chosen for {who}?"),
        ),
        Unit(
            "ellipsis",
            "thing",
            ("How many of the {item}s does {who} need?", "Does {who} want a {item}?"),
            ("Two, I think.", "Yes, but not today.", "Only if it is free."),
            ("What was the answer about the {item} for {who}?", "And what was decided on {poss} {item}?"),
        ),
        Unit(
            "ellipsis",
            "plan",
            ("When does the {item} of {who} begin?", "How long will {poss} {item} take?"),
            ("Later than planned.", "About an hour.", "Nobody knows yet."),
            ("What was the reply on {poss} {item}?", "What do we know about the timing of {poss} {item}?"),
        ),
        Unit(
            "correction",
            "slot",
            ("{Poss} {slot} is {v}.", "I noted {v} as {poss} {slot}.", "{Poss} {slot}: {v}."),
            ("Sorry, I meant {w}.", "No wait, {w}.", "Correction, {w}.", "Actually, make that {w}."),
            (
                "What was {poss} {slot} corrected to?",
                "What is {poss} {slot} after the correction?",
                "What is {poss} {slot} really?",
            ),
            "correct",
        ),
        Unit(
            "cancel",
            "plan",
            ("{who} booked a {item}.", "{who} is going on a {item}.", "There will be a {item} with {who}."),
            ("That has been called off.", "That is not happening any more.", "Scrap that one."),
            ("What became of {poss} {item}?", "Was the {item} of {who} called off?", "Is {poss} {item} still on?"),
            "cancel",
        ),
        Unit(
            "cancel",
            "thing",
            ("{who} ordered a {item}.", "{who} wants to buy a {item}."),
            ("The order was withdrawn.", "No, forget about it."),
            ("Was {poss} {item} cancelled?", "What happened to the {item} {who} wanted?"),
            "cancel",
        ),
        Unit(
            "next",
            "plan",
            ("{who} left for the {item}.", "{who} was at the {item}."),
            ("Right then it began to snow.", "A moment later the lights went out.", "After that everybody clapped."),
            ("What happened right after {who} was at the {item}?", "What followed {poss} {item}?"),
        ),
    ),
    (
        Unit(
            "coref",
            "thing",
            ("{who} got hold of a {item}.", "A {item} was delivered to {who}."),
            ("It leaks a little.", "It is in perfect shape."),
            ("In what state is {poss} {item}?", "How is the {item} that {who} got?"),
        ),
        Unit(
            "coref",
            "food",
            ("{who} tried the {item}.", "{who} had {item}."),
            ("That was far too salty.", "It tasted heavenly."),
            ("How did {who} like the {item}?", "What was the verdict of {who} on the {item}?"),
        ),
        Unit(
            "ellipsis",
            "slot",
            ("And for {who}, which {slot}?", "Have we settled {poss} {slot}?"),
            ("The one on the left.", "Not yet, ask again."),
            ("What was said when {poss} {slot} came up?", "What was the response on the {slot} of {who}?"),
        ),
        Unit(
            "ellipsis",
            "plan",
            ("Is {who} paying for the {item}?", "Who goes along to the {item} of {who}?"),
            ("Probably half.", "Only the neighbours."),
            ("What was replied about the {item} of {who}?", "What was the response on {poss} {item}?"),
        ),
        Unit(
            "correction",
            "slot",
            ("As {poss} {slot}, take {v}.", "Please write {v} down as {poss} {slot}."),
            ("Oops, {w} instead.", "My mistake, {w}."),
            ("What is the right {slot} of {who}?", "After the mix-up, what is {poss} {slot}?"),
            "correct",
        ),
        Unit(
            "cancel",
            "plan",
            ("A {item} is planned for {who}.", "{who} looks forward to the {item}."),
            ("It will not take place after all.", "It fell through."),
            ("Will the {item} of {who} take place?", "Did {poss} {item} fall through?"),
            "cancel",
        ),
        Unit(
            "next",
            "plan",
            ("{who} turned up at the {item}.", "{who} finished the {item}."),
            ("Just then a dog ran in.", "Moments later it began to hail."),
            ("What came directly after {poss} {item}?", "What occurred once {who} turned up at the {item}?"),
        ),
    ),
)
