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
        Unit(
            "coref",
            "thing",
            ("{who} was given a {item}.", "My parents sent {who} a {item}.", "{who} found a {item} in the street."),
            ("The colour is awful.", "That was a surprise.", "It needs new batteries.", "It is heavier than expected."),
            (
                "What do we know about the {item} of {who}?",
                "Tell me something about {poss} {item}.",
                "{Poss} {item}: how is it?",
            ),
        ),
        Unit(
            "coref",
            "brand",
            ("{who} has started at {item}.", "{who} called {item} this morning.", "{who} signed with {item}."),
            ("They were rather rude.", "So far it is quite pleasant.", "They asked for a lot of papers."),
            (
                "How is {item} treating {who}?",
                "What was {item} like for {who}?",
                "What did {who} experience with {item}?",
            ),
        ),
        Unit(
            "coref",
            "food",
            ("{who} cooked {item}.", "{who} ordered {item} for everybody.", "At {poss} place there was {item}."),
            ("Nobody touched it.", "We all asked for more.", "It was cold by then."),
            (
                "How was {poss} {item}?",
                "Did people like the {item} {who} made?",
                "What happened to the {item} at {poss} place?",
            ),
        ),
        Unit(
            "coref",
            "city",
            ("{who} is moving to {item}.", "{who} has family in {item}.", "{who} is looking for a flat in {item}."),
            ("It is not easy.", "The rents are absurd there.", "It rains there all the time."),
            ("What did we say about {who} and {item}?", "What is {item} like, going by {who}?"),
        ),
        Unit(
            "ellipsis",
            "food",
            ("Would {who} like some {item}?", "Does {who} eat {item}?", "How much {item} should I get for {who}?"),
            ("A little, thanks.", "Only at weekends.", "Better none at all.", "As much as there is."),
            (
                "What was the answer when {item} was offered to {who}?",
                "Does {who} want {item}?",
                "How about {item} for {who}?",
            ),
        ),
        Unit(
            "ellipsis",
            "city",
            ("When is {who} off to {item}?", "How does {who} get to {item}?", "Has {who} ever been to {item}?"),
            ("By train, most likely.", "In spring, if at all.", "Once, long ago."),
            ("What was said to the question about {who} and {item}?", "What do we know of {poss} way to {item}?"),
        ),
        Unit(
            "ellipsis",
            "course",
            ("Which level is {who} in for {item}?", "Who teaches {who} {item}?", "Is {who} still doing {item}?"),
            ("The same as before.", "I would have to look it up.", "Hard to say."),
            ("What was answered on {poss} {item}?", "What about {who} and {item}, then?"),
        ),
        Unit(
            "ellipsis",
            "pet",
            ("How old is the {item} of {who}?", "Does {poss} {item} bite?", "Who feeds {poss} {item}?"),
            ("Not that I know of.", "Maybe three.", "The neighbour, on Sundays."),
            ("What did they answer about {poss} {item}?", "What was said of the {item} of {who}?"),
        ),
        Unit(
            "correction",
            "slot",
            (
                "Somebody said that {poss} {slot} is {v}.",
                "So {v} is {poss} {slot}, right?",
                "{who} chose {v} as {slot}.",
            ),
            (
                "Wrong, it has to be {w}.",
                "I misspoke: {w}.",
                "Not that, but {w}.",
                "Let me correct this to {w}.",
                "Rather {w}.",
            ),
            (
                "What should {poss} {slot} have been?",
                "Corrected, {poss} {slot} is what?",
                "Which {slot} is meant for {who} in truth?",
                "Set right, what is the {slot} of {who}?",
            ),
            "correct",
        ),
        Unit(
            "cancel",
            "course",
            (
                "{who} wanted to take up {item}.",
                "{who} put down the name for {item}.",
                "{who} paid for {item} lessons.",
            ),
            ("It was dropped in the end.", "The money was returned.", "They gave up on it."),
            (
                "Did {who} go through with {item}?",
                "What happened with {poss} {item} plans?",
                "Was {item} dropped by {who}?",
            ),
            "cancel",
        ),
        Unit(
            "cancel",
            "city",
            ("{who} was about to fly to {item}.", "{who} bought tickets to {item}.", "{who} wanted to see {item}."),
            ("The journey was abandoned.", "In the end nobody went.", "They had to stay at home."),
            (
                "Did {who} make it to {item}?",
                "What came of the journey to {item} of {who}?",
                "Why did {who} never see {item}?",
            ),
            "cancel",
        ),
        Unit(
            "next",
            "place",
            ("{who} walked into {item}.", "{who} was waiting at {item}.", "{who} had just left {item}."),
            (
                "All of a sudden the phone rang.",
                "Next, somebody shouted.",
                "Then a door slammed.",
                "At that point it got dark.",
            ),
            (
                "What happened when {who} was at {item}?",
                "What came next for {who} at {item}?",
                "And then, after {who} and {item}?",
            ),
        ),
        Unit(
            "next",
            "food",
            ("{who} ate the {item}.", "{who} put the {item} on the table."),
            (
                "Straight after, the guests arrived.",
                "Two minutes on, the alarm went off.",
                "Thereupon everyone laughed.",
            ),
            ("What happened straight after {who} and the {item}?", "What followed on {poss} {item}?"),
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
