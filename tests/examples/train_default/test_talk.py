"""The talk written by hand can be read, and every question's marks lie where they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evoemb.evaluation.schema import parse_stream

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_default"
sys.path.insert(0, str(EXAMPLE))

from talk.chats import read_chats  # noqa: E402
from talk.streams import is_dev, make_stream, read_kinds  # noqa: E402

LISTS = (
    "first",
    "update",
    "correct",
    "back",
    "cancel",
    "late",
    "maybe",
    "talk",
    "other_first",
    "other_update",
    "replies",
)
ASKS = ("last", "still", "first", "previous", "before", "before_event", "after_event", "other", "cancelled")


def test_every_chat_is_a_stream_of_evoembs_format():
    chats = read_chats()
    assert len({chat["stream_id"] for chat in chats}) == len(chats) >= 80
    for chat in chats:
        stream = parse_stream(chat, chat["stream_id"])
        assert len(stream.queries) >= 10
        assert all((query.kind == "none") == (not query.evidence_turns) for query in stream.queries)


def test_every_kind_of_fact_has_all_its_wordings():
    kinds = read_kinds()
    assert len({kind["id"] for kind in kinds}) == len(kinds) >= 120
    for kind in kinds:
        assert len(set(kind["values"])) >= 8, kind["id"]
        assert all(kind[name] for name in LISTS), kind["id"]
        assert all(kind["asks"][name] for name in ASKS), kind["id"]
        assert all("{v}" in text for text in kind["update"] + kind["late"] + kind["maybe"]), kind["id"]
        assert all("{v}" in pair["tail"] and "{v}" not in pair["lead"] for pair in kind["elliptic"]), kind["id"]


@pytest.mark.parametrize("seed", range(20))
def test_a_made_stream_marks_turns_that_hold_the_value(seed):
    kinds = read_kinds()
    filler = [text for kind in kinds for text in kind["talk"]]
    stream = make_stream(kinds, seed, filler)
    assert stream == make_stream(kinds, seed, filler)
    parsed = parse_stream(stream, "made")
    assert parsed.queries
    assert "{" not in " ".join([*parsed.texts, *(query.query for query in parsed.queries)])
    for query in parsed.queries:
        assert set(query.evidence_turns) <= set(query.mentions) or query.category == "none"


def test_some_kinds_are_kept_for_development():
    kinds = read_kinds()
    assert 0.04 < sum(map(is_dev, kinds)) / len(kinds) < 0.3
