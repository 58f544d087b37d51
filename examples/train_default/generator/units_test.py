"""Units for tests."""

from __future__ import annotations

from generator.unit import Unit

UNITS_TEST: tuple[Unit, ...] = (
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
)
