"""Small streams with questions, for the tests of evaluation."""

from __future__ import annotations

from typing import Any

PLACES = ("paris", "rome", "lyon", "porto", "oslo", "bern")


def stream_value(name: str = "s0", shift: int = 0, **changes: Any) -> dict[str, Any]:
    """A stream of eight turns: where someone lives changes twice, with other talk between."""
    places = [PLACES[(shift + step) % len(PLACES)] for step in range(3)]
    turns = [
        f"user : i live in {places[0]}",
        "user : my dog has a blue key",
        "user : yesterday i lost the red book",
        f"user : i moved to {places[1]} , i live in {places[1]}",
        "user : what did you do ?",
        "user : my sister found the lamp",
        f"user : today i live in {places[2]}",
        "user : ok noted",
    ]
    asked = "where do i live ?"
    first = "where did i live first ?"
    queries = [
        {"qid": "last@8", "query": asked, "evidence_turns": [6], "asked_at": 8, "category": "ku-last", "kind": "last",
         "mentions": [0, 3, 6], "group": "home@8", "answer": places[2]},
        {"qid": "first@8", "query": first, "evidence_turns": [0], "asked_at": 8, "category": "ku-first",
         "kind": "first", "mentions": [0, 3, 6], "group": "home@8"},
        {"qid": "last@5", "query": asked, "evidence_turns": [3], "asked_at": 5, "category": "ku-last", "kind": "last",
         "mentions": [0, 3], "group": "home@5"},
        {"qid": "lamp", "query": "who found the lamp ?", "evidence_turns": [5], "asked_at": 8, "category": "single"},
        {"qid": "none", "query": "who is ?", "evidence_turns": [], "asked_at": 8, "category": "single"},
    ]  # fmt: skip
    value = {"stream_id": name, "dataset": "made", "form": "pairs", "turns": [{"text": text} for text in turns],
             "queries": queries}  # fmt: skip
    return {**value, **changes}
