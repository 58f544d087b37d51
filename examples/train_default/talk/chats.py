"""Whole chats written by hand, from their text format to evoemb's stream format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "chats"
_QUESTION = re.compile(r"Q (\w+) @(\d+) \[([\d, ]*)\] m\[([\d, ]*)\] (.+?) = (.+)$")
_TURN = re.compile(r"(\d+) ([^:]{1,40}): (.+)$")


def read_chats(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return every chat of a folder's text files as a stream, a JSON object each.

    Raises:
        ValueError: A line is none of the format's; file and line are named.
    """
    return [stream for path in sorted(folder.glob("*.txt")) for stream in _chats(path)]


def _chats(path: Path) -> Iterator[dict[str, Any]]:
    stream: dict[str, Any] = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        if line.startswith("## "):
            if stream:
                yield stream
            name, domain, form, _voice = (part.strip() for part in line[3:].split("|"))
            about = {"stream_id": name, "dataset": "talk", "licence": "CC0-1.0", "domain": domain}
            stream = {**about, "form": "pairs" if form == "pairs" else "utterances", "turns": [], "queries": []}
        elif found := _QUESTION.match(line):
            stream["queries"].append(_question(found, len(stream["queries"]), stream["stream_id"]))
        elif found := _TURN.match(line):
            _add(stream, int(found[1]), found[2], found[3])
        elif line:
            raise ValueError(f"{path}, line {number}: expected a head, a turn or a question, but found {line[:60]!r}.")
    if stream:
        yield stream


def _add(stream: dict[str, Any], number: int, speaker: str, text: str) -> None:
    turns = stream["turns"]
    if stream["form"] == "utterances":
        turns.append({"role": "user", "speaker": speaker, "text": text})
        return
    said = f"{'User' if speaker == 'U' else 'Assistant'}: {text}"
    if number == len(turns):
        turns.append({"role": "user+assistant", "text": said})
    else:
        turns[number]["text"] += f"\n{said}"


def _question(found: re.Match[str], number: int, stream_id: str) -> dict[str, Any]:
    evidence, mentions = ([int(one) for one in found[group].replace(" ", "").split(",") if one] for group in (3, 4))
    return {
        "qid": f"{stream_id}-{number}",
        "query": found[5],
        "evidence_turns": sorted(set(evidence)),
        "asked_at": int(found[2]),
        "answer": found[6],
        "category": found[1],
        "kind": found[1],
        "mentions": sorted(set(mentions) | set(evidence)),
    }
