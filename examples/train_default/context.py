"""Questions about natural turns that need the turns before: a name from earlier turns, and words of the turn itself.

No annotation is needed. In "User: What time does it begin?" the event is named two turns before; the question asked of
that turn is made of the event's name and a few of the turn's own words, in no sentence. Dialogues on the same matter
stand beside it, so words alone name several turns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

# Several words that begin with a capital (not at the start of a sentence), or one of four letters or more.
_NAME = re.compile(
    r"(?<![.!?:] )(?<!^)\b[A-Z][\w'&-]+(?: (?:[A-Z0-9][\w'&-]*|of|the|and|at|&))* ?[A-Z0-9][\w'&-]*\b"
    r"|\b[A-Z][a-z]{3,}\b"
)
_WORD = re.compile(r"[A-Za-z][a-z']{2,}")
_COMMON = frozenset(
    [
        "user",
        "assistant",
        "yes",
        "okay",
        "thanks",
        "thank",
        "please",
        "sure",
        "sorry",
        "what",
        "which",
        "when",
        "where",
        "how",
        "could",
        "would",
        "should",
        "there",
        "here",
        "this",
        "that",
        "these",
        "those",
        "have",
        "with",
        "your",
        "you",
        "the",
        "and",
        "for",
        "are",
        "was",
        "were",
        "will",
        "want",
        "need",
        "like",
        "can",
        "does",
        "did",
        "not",
        "any",
        "some",
        "great",
        "good",
        "anything",
        "else",
        "help",
        "else",
        "nice",
        "day",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
        "from",
        "about",
        "just",
        "them",
        "they",
    ]
)
_FORMS = ("{name} {words}", "{words} {name}", "{name}: {words}", "What about {name}, {words}?", "{name}, {words}?")


def names_in(text: str) -> set[str]:
    """Give the capitalised names of a text."""
    found = (one.strip() for one in _NAME.findall(text))
    return {one for one in found if one.lower().split()[0] not in _COMMON and len(one) > 3}


def context_questions(
    texts: Sequence[str], sessions: Sequence[str], chance: random.Random, most: int, max_distance: int = 5
) -> list[dict[str, Any]]:
    """Ask for turns by a name that stands only in turns before them.

    Args:
        texts: The turns.
        sessions: The session each belongs to; a name counts if no other session has it.
        chance: Random numbers.
        most: Questions at most.
        max_distance: Turns back to the name at most.

    Returns:
        Questions with ``query``, ``evidence_turns``, ``category`` and ``asked_at`` (the end).
    """
    places: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        for name in sorted(names_in(text)):  # a set has another order in every process
            places.setdefault(name, []).append(index)
    found = []
    for name, named in places.items():
        session = sessions[named[0]]
        if any(sessions[index] != session for index in named):
            continue
        # A name may hide in another's words: "Pier" in "Pier 17".
        near = range(named[0] + 1, min(len(texts), named[0] + 1 + max_distance))
        after = [at for at in near if sessions[at] == session and name.lower() not in texts[at].lower()]
        words = {at: [w for w in _WORD.findall(texts[at]) if w.lower() not in _COMMON] for at in after}
        after = [at for at in after if len(words[at]) >= 2]
        if not after:
            continue
        at = chance.choice(after)
        own = chance.sample(words[at], min(len(words[at]), chance.randint(2, 4)))
        text = chance.choice(_FORMS).format(name=name, words=" ".join(own))
        found.append({"query": text, "evidence_turns": [at], "category": "context", "asked_at": len(texts)})
    chance.shuffle(found)
    return found[:most]
