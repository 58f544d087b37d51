"""LoCoMo and REALTALK: long conversations of two people in sessions, with questions on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from evoemb._errors import InputError
from evoemb.data.files import read_json
from evoemb.data.streams import UTTERANCES
from evoemb.evaluation.benchmarks.common import ChatMessage, Turns, need
from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn

Form = Literal["pairs", "utterances"]

LOCOMO_CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}

_SESSION = re.compile(r"session_(\d+)")
# Evidence is written "D8:6", sometimes "D8:6; D9:17" in one string, "D:11:26", or "D30:05".
_DIALOGUE_ID = re.compile(r"D:?(\d+):(\d+)")
_RANGE = re.compile(r"D:?(\d+):(\d+)\s*-\s*D:?(\d+):(\d+)")


def read_locomo(path: Path, form: Form = "pairs") -> list[EvalStream]:
    """Read LoCoMo as published (``locomo10.json``, a list of conversations).

    Args:
        path: The file.
        form: ``"pairs"``: a message of the first speaker and the second's right behind it are one turn, with date and
            names, as EvoEmbedding's evaluation builds them. ``"utterances"``: one message a turn.

    Source: data/locomo10.json of github.com/snap-research/LoCoMo (at 3eb6f2c); for pairs,
    github.com/MiG-NJU/EvoEmbedding, eval/locomoeval.py (at 08ce394). CC BY-NC 4.0.
    """
    samples = read_json(path)
    if not isinstance(samples, list):
        raise InputError(f"{path}: a list of conversations is expected, but {type(samples).__name__} was found.")
    streams = []
    for number, sample in enumerate(samples):
        where = f"{path}, element {number}"
        conversation = need(sample, "conversation", dict, where)
        people = tuple(need(conversation, f"speaker_{letter}", str, f"{where}.conversation") for letter in "ab")
        name = need(sample, "sample_id", str, where)
        streams.append(_stream(name, "locomo", conversation, people, sample, form, f"{where}.conversation", where))
    return streams


def read_realtalk(path: Path, form: Form = "pairs") -> list[EvalStream]:
    """Read REALTALK as published: a folder of chats, or one of its ``Chat_*.json`` files.

    Source: data/ of github.com/danny911kr/REALTALK (Lee et al. 2025), which states no licence. Its files could not be
    looked at again; the fields agree with what other public readers of them describe.
    """
    files = sorted(path.glob("Chat_*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no Chat_*.json. Give the folder of REALTALK's chats, or one chat.")
    streams = []
    for file in files:
        chat, where = read_json(file), str(file)
        names = need(chat, "name", dict, where)
        people = tuple(need(names, f"speaker_{number}", str, f"{where}.name") for number in (1, 2))
        streams.append(_stream(file.stem, "realtalk", chat, people, chat, form, where, where))
    return streams


def _stream(
    name: str,
    dataset: str,
    conversation: Mapping[str, Any],
    people: tuple[str, ...],
    holder: Mapping[str, Any],
    form: Form,
    where: str,
    asked_where: str,
) -> EvalStream:
    """One conversation with its questions."""
    sessions = sorted(int(found[1]) for key in conversation if (found := _SESSION.fullmatch(key)))
    if not sessions:
        raise InputError(f"{where}: there is no session_1. Is this a conversation as published?")
    turns = Turns()
    messages: list[ChatMessage] = []
    for session in sessions:
        date = str(conversation.get(f"session_{session}_date_time", ""))
        listed = need(conversation, f"session_{session}", list, where)
        place = f"{where}.session_{session}"
        messages += [_message(one, people, date, form, f"{place}[{number}]") for number, one in enumerate(listed)]
    if form == "pairs":
        turns.add(messages)
    else:
        for number, one in enumerate(messages):
            turns.turns.append(StreamTurn(one.content, one.role, one.speaker, one.time))
            turns.turn_of[one.key] = number
    asked = need(holder, "qa", list, asked_where)
    queries = tuple(
        _query(one, number, turns, dataset, f"{asked_where}.qa[{number}]") for number, one in enumerate(asked)
    )
    licence = "CC-BY-NC-4.0" if dataset == "locomo" else ""
    return EvalStream(name, tuple(turns.turns), queries, dataset, UTTERANCES if form == "utterances" else form, licence)


def _message(value: Any, people: tuple[str, ...], date: str, form: Form, where: str) -> ChatMessage:
    """A message; in pairs, names stand in its text, and the date in the first speaker's."""
    speaker = need(value, "speaker", str, where)
    if speaker not in people:
        raise InputError(f"{where}.speaker: {speaker!r} is neither of {' and '.join(map(repr, people))}.")
    text = need(value, "clean_text" if "clean_text" in value else "text", str, where)
    if caption := value.get("blip_caption"):
        text = f"{text} (image description: {caption})"
    role = "user" if speaker == people[0] else "assistant"
    content = text if form == "utterances" else f"{f'{date} ' if role == 'user' else ''}{speaker}\n{text}"
    return ChatMessage(role, content, _key(need(value, "dia_id", str, where)), speaker, date)


def _key(name: str) -> tuple[int, int] | str:
    found = _DIALOGUE_ID.fullmatch(name.strip())
    return (int(found[1]), int(found[2])) if found else name


def _keys(evidence: str) -> list[tuple[int, int]]:
    """The messages that a piece of evidence names: single ids, and all from one id to another, ``D1:3-D1:7``."""
    found = [(int(a), int(b)) for a, b in _DIALOGUE_ID.findall(evidence)]
    for a, first, b, last in _RANGE.findall(evidence):
        if a == b:
            found += [(int(a), number) for number in range(int(first), int(last) + 1)]
    return found


def _query(value: Any, number: int, turns: Turns, dataset: str, where: str) -> StreamQuery:
    words = need(value, "question", str, where)
    if not words.strip():
        raise InputError(f"{where}.question: it is empty.")
    category = need(value, "category", (int, str), where)
    label = LOCOMO_CATEGORIES.get(int(category), str(category)) if dataset == "locomo" else f"realtalk-{category}"
    evidence = value.get("evidence") or []
    given = [evidence] if isinstance(evidence, str) else evidence
    keys = [key for one in given for key in _keys(str(one))]
    answer = value.get("answer", value.get("adversarial_answer"))
    return StreamQuery(
        f"q{number}", words, turns.evidence(keys), len(turns.turns), label, None if answer is None else str(answer)
    )
