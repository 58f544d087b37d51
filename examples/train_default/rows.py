"""Training rows: generated streams and excerpts of SGD conversations, each with a few questions of other rows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from generator.streams import Shape, make_stream

from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.streams import read_streams

Row = dict[str, Any]


def make_rows(
    count: int,
    seed: int,
    *,
    shape: Shape,
    queries: int,
    foreign: int,
    sgd_file: str | None = None,
    sgd_share: float = 0.0,
    sgd_turns: int = 32,
) -> list[Row]:
    """Give ``count`` training rows; the same arguments give the same rows.

    Args:
        shape: Of the generated streams.
        queries: Questions of a row at most.
        foreign: Questions of other rows put into each row without evidence: nothing in memory concerns them.
        sgd_file: SGD conversations in evoemb's stream format; None for generated streams alone.
        sgd_share: Share of the rows that come from there.
        sgd_turns: Turns of such a row at most.
    """
    chance = random.Random(f"rows {seed}")
    conversations = read_streams(sgd_file) if sgd_file and sgd_share else []
    rows = []
    for number in range(count):
        if conversations and chance.random() < sgd_share:
            rows.append(_sgd_row(chance, conversations, queries, sgd_turns))
        else:
            stream = make_stream(1_000_000 * (seed + 1) + number, "train", shape, str(number))
            rows.append(_row([turn["text"] for turn in stream["turns"]], stream["queries"], chance, queries))
    return list(_with_foreign(rows, chance, foreign))


def _row(turns: Sequence[str], queries: Sequence[Row], chance: random.Random, most: int) -> Row:
    """Choose questions, all categories in turn, and at most one moment before the end."""
    early = [query["asked_at"] for query in queries if query["asked_at"] < len(turns)]
    moments = {len(turns), chance.choice(early)} if early else {len(turns)}
    kinds: dict[str, list[Row]] = defaultdict(list)
    for query in queries:
        if query["asked_at"] in moments:
            kinds[query["category"]].append(query)
    for group in kinds.values():
        chance.shuffle(group)
    order = list(kinds)
    chance.shuffle(order)
    chosen: list[Row] = []
    while len(chosen) < most and any(kinds.values()):
        for kind in order:
            if kinds[kind] and len(chosen) < most:
                chosen.append(kinds[kind].pop())
    return {
        "turns": list(turns),
        "query": [query["query"] for query in chosen],
        "evidence": [list(query["evidence_turns"]) for query in chosen],
        "asked_at": [query["asked_at"] for query in chosen],
    }


def _sgd_row(chance: random.Random, conversations: Sequence[EvalStream], queries: int, most_turns: int) -> Row:
    """Take some sessions of a conversation, whole and in order, and the questions all of whose turns lie in them."""
    while True:
        stream = chance.choice(conversations)
        sessions: dict[str, list[int]] = defaultdict(list)
        for index, turn in enumerate(stream.turns):
            sessions[turn.time].append(index)
        # Questions with competitors say which sessions belong together.
        contested = [query for query in stream.scored if query.mentions]
        if not contested:
            continue
        wanted = {stream.turns[at].time for at in chance.choice(contested).mentions}
        names = list(sessions)
        chance.shuffle(names)
        for name in names:
            if sum(len(sessions[one]) for one in {*wanted, name}) <= most_turns:
                wanted.add(name)
        kept = [index for index, turn in enumerate(stream.turns) if turn.time in wanted]
        if len(kept) > most_turns + 8:
            continue
        place = {index: number for number, index in enumerate(kept)}
        found = []
        for query in stream.scored:
            if not all(at in place for at in (*query.mentions, *query.evidence_turns)):
                continue
            asked_at = sum(index < query.asked_at for index in kept)
            evidence = [place[at] for at in query.evidence_turns]
            found.append(
                {"query": query.query, "evidence_turns": evidence, "category": query.category, "asked_at": asked_at}
            )
        if found:
            return _row([stream.turns[index].text for index in kept], found, chance, queries)


def _with_foreign(rows: Sequence[Row], chance: random.Random, foreign: int) -> Iterator[Row]:
    """Add questions of other rows, without evidence, asked at the end."""
    for number, row in enumerate(rows):
        others = [chance.randrange(len(rows)) for _ in range(foreign)]
        asked = [chance.choice(rows[other]["query"]) for other in others if other != number and rows[other]["query"]]
        asked = [query for query in asked if query not in row["query"]]
        yield {
            "turns": row["turns"],
            "query": [*row["query"], *asked],
            "evidence": [*row["evidence"], *([] for _ in asked)],
            "asked_at": [*row["asked_at"], *(len(row["turns"]) for _ in asked)],
        }
