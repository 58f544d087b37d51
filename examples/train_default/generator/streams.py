"""Putting threads together to streams, in evoemb's stream format."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from generator import phrases
from generator.facts import EASY_CATEGORIES, Ask, Said, replay
from generator.scenarios import Block, Cast, Thread, chatter, plain, single, state, units
from generator.words import Split

STYLES = ("bare", "bare", "pair", "lower")
"""How turns are written: as they are, as a user's message with an answer, without capitals and full stop."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How streams are made.

    Args:
        min_turns: Turns of a stream at least (it is filled up with small talk).
        max_turns: Turns at most.
        max_distance: Turns from a tail back to its head at most.
        max_leading: Turns of small talk before everything else at most.
        only_values: Values that change and nothing beside them: many questions of one kind, which are slow to learn.
    """

    min_turns: int = 10
    max_turns: int = 60
    max_distance: int = 6
    max_leading: int = 8
    only_values: bool = False


def make_stream(seed: int, split: Split, shape: Shape, stream_id: str) -> dict[str, Any]:
    """Give one stream with its questions, in evoemb's stream format; the same seed gives the same stream."""
    cast, turns, asks = _told(seed, split, shape)
    written, queries = _written(cast, turns), _queries(cast.chance, turns, asks)
    for number, query in enumerate(queries):
        query["qid"] = f"{stream_id}-q{number}"
    return {
        "stream_id": stream_id,
        "dataset": "generated",
        "form": "turns",
        "licence": "as evoemb",
        "split": split,
        "turns": [{"role": "user", "text": text} for text in written],
        "queries": queries,
    }


def make_streams(count: int, seed: int, split: Split, shape: Shape | None = None) -> Iterator[dict[str, Any]]:
    """Give ``count`` streams; stream ``i`` depends on ``seed + i`` only."""
    for number in range(count):
        yield make_stream(seed + number, split, shape or Shape(), f"generated-{split}-{seed + number:06d}")


def facts_of(seed: int, split: Split, shape: Shape) -> tuple[list[Said], list[Ask]]:
    """Give turns with their facts and all questions of the stream :func:`make_stream` writes, for checks."""
    _, turns, asks = _told(seed, split, shape)
    return turns, asks


def _told(seed: int, split: Split, shape: Shape) -> tuple[Cast, list[Said], list[Ask]]:
    """Choose what is said and what is asked."""
    chance = random.Random(f"{split} {seed}")
    cast = Cast(chance, split)
    wanted = chance.randint(shape.min_turns, shape.max_turns)
    # Leading and trailing small talk of random length, so that no place in the stream tells anything.
    lead = chance.randint(0, min(shape.max_leading, wanted // 3))
    threads = _threads(cast, wanted - lead, shape)
    turns = [chatter(cast) for _ in range(lead)] + _merge(chance, threads)
    while len(turns) < wanted:
        turns.append(chatter(cast))
    return cast, turns, [one for thread in threads for one in thread.asks]


def _threads(cast: Cast, wanted: int, shape: Shape) -> list[Thread]:
    """Choose scenarios until the stream is nearly full; at least one unit or one changing state is among them."""
    chance = cast.chance
    if shape.only_values:
        return _filled(cast, wanted, shape, [], [], ["state"])
    # Room for questions that need no memory is kept in every stream.
    threads: list[Thread] = [*plain(cast), *plain(cast), *single(cast)] if wanted >= 14 else plain(cast)
    makers = ["units", "units", "state", "state", "single", "plain"]
    # Small talk fills short streams quickly, so what takes room comes first; it is tried again with other gaps.
    chosen = [*["state"] * 2, *["units"] * 3] if chance.random() < 0.7 else [*["units"] * 2, *["state"] * 3]
    return _filled(cast, wanted, shape, threads, chosen, makers)


def _filled(
    cast: Cast, wanted: int, shape: Shape, threads: list[Thread], chosen: list[str], makers: list[str]
) -> list[Thread]:
    """Add what is chosen, from its end, then any of ``makers``, as long as it fits."""
    failures = 0
    while failures < 8:
        kind = chosen.pop() if chosen else cast.chance.choice(makers)
        made = {
            "units": lambda: units(cast, shape.max_distance),
            "state": lambda: state(cast, 1 + (wanted > 12) + (wanted > 24)),
            "single": lambda: single(cast),
            "plain": lambda: plain(cast),
        }[kind]()
        if made and _length([*threads, *made]) <= wanted:
            threads += made
        else:
            failures += 1
    return threads


def _length(threads: Sequence[Thread]) -> int:
    return sum(len(block) for thread in threads for block in thread.blocks)


def _merge(chance: random.Random, threads: Sequence[Thread]) -> list[Said]:
    """Interleave the threads' blocks at random, each thread in its order."""
    left: list[list[Block]] = [list(thread.blocks) for thread in threads]
    # Units of one kind come anywhere; a thread's next block is the likelier the more of it is left.
    turns: list[Said] = []
    while any(left):
        index = chance.choices(range(len(left)), weights=[len(blocks) for blocks in left])[0]
        turns += left[index].pop(0)
    return turns


def _queries(chance: random.Random, turns: Sequence[Said], asks: Sequence[Ask]) -> list[dict[str, Any]]:
    """Ask everything at the end, and some of it in the same words at one moment before."""
    queries = []
    early = chance.randint(max(1, len(turns) // 2), len(turns))
    for ask in asks:
        answer = replay(turns, ask)
        if answer is not None:
            queries.append(_query(ask, answer, len(turns)))
        before = replay(turns[:early], ask) if early < len(turns) and ask.category not in EASY_CATEGORIES else None
        if before is not None and (answer is None or before.evidence != answer.evidence):
            queries.append(_query(ask, before, early))
    return queries


def _query(ask: Ask, answer: Any, asked_at: int) -> dict[str, Any]:
    found = {
        "query": ask.text,
        "evidence_turns": list(answer.evidence),
        "category": ask.category,
        "asked_at": asked_at,
        "answer": answer.value,
    }
    if answer.mentions:
        found["mentions"] = list(answer.mentions)
    return found


def _written(cast: Cast, turns: Sequence[Said]) -> list[str]:
    """Write the turns in the stream's style; turns of the same words stay the same."""
    chance = cast.chance
    style = chance.choice(STYLES)
    noisy = chance.random() < 0.3
    replies = phrases.replies(cast.split)
    by_text: dict[str, str] = {}
    found = []
    for turn in turns:
        text = turn.text
        if text not in by_text:
            said = text
            if noisy and chance.random() < 0.3:
                filler = cast.pick(phrases.fillers(cast.split))
                said = filler + (said if said[:2] in ("I ", "I'") else said[0].lower() + said[1:])
            if style == "lower":
                said = said.lower().rstrip(".")
            if style == "pair":
                said = f"User: {said}\nAssistant: {chance.choice(replies)}"
            by_text[text] = said
        found.append(by_text[text])
    return found


__all__ = ["Shape", "facts_of", "make_stream", "make_streams"]
