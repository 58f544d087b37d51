"""Rows of training data for tests."""

from __future__ import annotations

from typing import Any

PLACES = ("paris", "rome", "lyon", "porto", "oslo", "bern")


def rows(count: int = 8) -> list[dict[str, Any]]:
    """Streams of five to nine turns over the test vocabulary, with evidence and an answer."""
    made = []
    for number in range(count):
        place = PLACES[number % len(PLACES)]
        turns = [
            f"i live in {PLACES[(number + 1) % 6]}",
            "my sister has a red key",
            "ok",
            f"i moved to {place}",
            "the dog lost the lamp",
            *["yes i found the book today"] * (number % 5),
        ]
        made.append({"turns": turns, "query": "where do i live ?", "evidence": [3], "answer": place})
    return made


def evotrain_row() -> dict[str, Any]:
    """A row of EvoTrain's schema."""
    return {
        "messages": [
            {"role": "user", "content": "i live in paris"},
            {"role": "assistant", "content": "noted"},
            {"role": "user", "content": "i moved to rome"},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "where do i live"},
            {"role": "assistant", "content": "rome"},
        ],
        "meta": {
            "turns": [
                "User: i live in paris\nAssistant: noted",
                "User: i moved to rome\nAssistant: ok",
                "where do i live",
            ],
            "evidence_turns": [1],
        },
    }
