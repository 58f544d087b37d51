"""Training rows: generated streams, excerpts of SGD conversations and bAbI stories, with questions of other rows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from context import context_questions
from generator import phrases
from generator.facts import STATE_CATEGORIES
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
    join_share: float = 0.0,
    context: int = 0,
    babi_file: str | None = None,
    babi_share: float = 0.0,
    lead: int = 0,
    lead_share: float = 0.0,
    values_share: float = 0.0,
) -> list[Row]:
    """Give ``count`` training rows; the same arguments give the same rows.

    Args:
        shape: Of the generated streams.
        queries: Questions of a row at most.
        foreign: Questions of other rows put into each row without evidence: nothing in memory concerns them.
        sgd_file: SGD conversations in evoemb's stream format; None for generated streams alone.
        sgd_share: Share of the rows that come from there.
        sgd_turns: Turns of such a row at most.
        join_share: Share of such rows whose turns are joined by two to four into longer ones, as people's often are.
        context: Questions of such a row that join a name to later turns, see :mod:`context`, beside the others.
        babi_file: bAbI stories in evoemb's stream format.
        babi_share: Share of the rows that come from there.
        lead: Short turns of small talk put before a row at most: with a queue that is full from the start, no turn can
            tell its place from how much is in memory.
        lead_share: Share of the rows that get them.
        values_share: Share of the generated streams that hold values that change and nothing else.
    """
    chance = random.Random(f"rows {seed}")
    conversations = read_streams(sgd_file) if sgd_file and sgd_share else []
    stories = _stories(babi_file) if babi_file and babi_share else []
    rows = []
    for number in range(count):
        drawn = chance.random()
        if conversations and drawn < sgd_share:
            joins = bool(join_share) and chance.random() < join_share
            rows.append(_sgd_row(chance, conversations, queries, sgd_turns, context, joins=joins))
        elif stories and drawn > 1 - babi_share:
            rows.append(_babi_row(chance, stories, queries))
        else:
            only = chance.random() < values_share
            form = replace(shape, only_values=True) if only else shape
            stream = make_stream(1_000_000 * (seed + 1) + number, "train", form, str(number))
            rows.append(_row([turn["text"] for turn in stream["turns"]], stream["queries"], chance, queries))
    rows = [_led(row, chance, lead) if chance.random() < lead_share else row for row in rows]
    return list(_with_foreign(rows, chance, foreign))


def _led(row: Row, chance: random.Random, most: int) -> Row:
    """Put up to ``most`` turns of small talk before everything."""
    count = chance.randint(0, most)
    said = phrases.chat("train")
    return {
        "turns": [*(chance.choice(said) for _ in range(count)), *row["turns"]],
        "query": row["query"],
        "evidence": [[at + count for at in places] for places in row["evidence"]],
        "asked_at": [at + count for at in row["asked_at"]],
        "anchors": [at + count if at >= 0 else at for at in row["anchors"]],
        "links": [[at + count for at in link] for link in row["links"]],
    }


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
        "anchors": [_anchor(query) for query in chosen],
        "links": _links(queries),
    }


def _anchor(query: Row) -> int:
    """Give the turn that leads to the evidence: the newest value to the one before it, a value to the one before it."""
    evidence, mentions = query["evidence_turns"][0], query.get("mentions", ())
    if query["category"] == "previous":
        return int(mentions[-1])
    if query["category"] == "before_x":
        return int(mentions[mentions.index(evidence) + 1])
    # What leads there in a conversation is not annotated.
    return -1 if query["category"] in ("ku-previous", "ku-middle") else int(evidence)


def _links(queries: Sequence[Row]) -> list[list[int]]:
    """Give each turn of a generated stream that changes a value with the turn that gave the value before it."""
    changes = [query["mentions"] for query in queries if query["category"] in STATE_CATEGORIES and "mentions" in query]
    return [list(link) for link in sorted({(at, before) for one in changes for before, at in pairwise(one)})]


def _stories(path: str) -> list[EvalStream]:
    """Read the bAbI stories whose order of turns is the order of time."""
    found = []
    for stream in read_streams(path):
        if stream.scored and not any(query.category.startswith("qa14") for query in stream.scored):
            found.append(stream)
    return found


def _babi_row(chance: random.Random, stories: Sequence[EvalStream], queries: int) -> Row:
    """Take one story with questions asked at several moments."""
    stream = chance.choice(stories)
    asked = chance.sample(stream.scored, min(queries, len(stream.scored)))
    return {
        "turns": [turn.text for turn in stream.turns],
        "query": [query.query for query in asked],
        "evidence": [list(query.evidence_turns) for query in asked],
        "asked_at": [query.asked_at for query in asked],
        "anchors": [-1 for _ in asked],
        "links": [],
    }


def _sgd_row(
    chance: random.Random,
    conversations: Sequence[EvalStream],
    queries: int,
    most_turns: int,
    context: int = 0,
    *,
    joins: bool = False,
) -> Row:
    """Take some sessions of a conversation, whole and in order, and the questions all of whose turns lie in them.

    Where turns are joined, questions go whose turns are no longer apart, or whose moment now lies within a turn.
    """
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
        times = [stream.turns[index].time for index in kept]
        groups = _groups(times, chance) if joins else [[number] for number in range(len(kept))]
        found = _questions_within(stream, [[kept[at] for at in group] for group in groups])
        if not found:
            continue
        texts = ["\n".join(stream.turns[kept[at]].text for at in group) for group in groups]
        row = _row(texts, found, chance, queries)
        for more in context_questions(texts, [times[group[0]] for group in groups], chance, context):
            row["query"].append(more["query"])
            row["evidence"].append(more["evidence_turns"])
            row["asked_at"].append(more["asked_at"])
            row["anchors"].append(more["evidence_turns"][0])
        return row


def _questions_within(stream: EvalStream, groups: Sequence[Sequence[int]]) -> list[Row]:
    """Give the questions of a conversation of which some turns are kept, in groups that are one turn each now."""
    place = {index: number for number, group in enumerate(groups) for index in group}
    found = []
    for query in stream.scored:
        if not all(index in place for index in (*query.mentions, *query.evidence_turns)):
            continue
        seen = {number for index, number in place.items() if index < query.asked_at}
        parted = any(number in seen for index, number in place.items() if index >= query.asked_at)
        if parted or len({place[index] for index in query.mentions}) < len(query.mentions):
            continue
        evidence = [place[index] for index in query.evidence_turns]
        found.append(
            {"query": query.query, "evidence_turns": evidence, "category": query.category, "asked_at": len(seen)}
        )
    return found


def _groups(times: Sequence[str], chance: random.Random) -> list[list[int]]:
    """Part the places of turns, in order, into groups of two to four of one session; what is left over stays alone."""
    groups: list[list[int]] = []
    size = 0
    for at, time in enumerate(times):
        if groups and len(groups[-1]) < size and times[groups[-1][0]] == time:
            groups[-1].append(at)
        else:
            groups.append([at])
            size = chance.randint(2, 4)
    return groups


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
            "anchors": [*row["anchors"], *(-1 for _ in asked)],
            "links": row["links"],
        }
