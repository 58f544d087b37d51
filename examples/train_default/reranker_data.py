"""What the reranker is trained on: streams with questions, run through the frozen base once and kept in files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from evoemb import EvoEmbedding
from evoemb.streaming.rows import Limits
from evoemb.time_ordered import QUERY_TOKENS, TURN_TOKENS, TextStates, candidates, first_stage, text_states

MOST_TURNS = 90  # of a stream; longer ones are cut to a window
MOST_QUESTIONS = 24


@dataclass(frozen=True)
class Asked:
    """One question of a prepared stream.

    Args:
        query: Token features ``(T, F)``.
        asked_at: Turns said before it.
        chosen: Its candidates, in time order.
        first_stage: Their scores ``(N, 2)``.
        right: The turns that hold the answer; empty if none does.
        mentions: The turns that state any value of what is asked; None if nobody says.
        kind: What is asked of the fact: ``updated``, ``no rival``, ``first``, ...
        group: The stream and the wording.
    """

    query: Tensor
    asked_at: int
    chosen: list[int]
    first_stage: np.ndarray[Any, np.dtype[np.float32]]
    right: list[int]
    mentions: list[int] | None
    kind: str
    group: str


@dataclass(frozen=True)
class Prepared:
    """A stream's turns as token features, and its questions."""

    turns: list[Tensor]
    questions: list[Asked]


def kind_of(question: Mapping[str, Any]) -> str:
    """Name what a question asks; of present values, whether another value was said too."""
    kind: str = question.get("kind") or question.get("category") or "plain"
    if kind != "last":
        return kind
    rivals = set(question.get("mentions") or ()) - set(question["evidence_turns"])
    return "updated" if rivals - set(question.get("same_value_turns") or ()) else "no rival"


def windowed(stream: Mapping[str, Any], rng: random.Random) -> dict[str, Any] | None:
    """Cut a stream to the turns that its questions need, and long ones to a window; None if no question is left."""
    asked = [q for q in stream["queries"] if q["asked_at"] >= 3]
    if not asked:
        return None
    low, high = 0, max(q["asked_at"] for q in asked)
    if high > MOST_TURNS:
        one = rng.choice(asked)
        low = min([max(0, one["asked_at"] - MOST_TURNS), *one["evidence_turns"]])
        high = low + MOST_TURNS
    kept = []
    for q in asked:
        if q["asked_at"] <= high and q["asked_at"] - low >= 3 and all(turn >= low for turn in q["evidence_turns"]):
            mentions = None if q.get("mentions") is None else [turn - low for turn in q["mentions"] if turn >= low]
            right = [turn - low for turn in q["evidence_turns"]]
            kept.append({**q, "asked_at": q["asked_at"] - low, "evidence_turns": right, "mentions": mentions})
    if not kept:
        return None
    return {**stream, "turns": stream["turns"][low:high], "queries": rng.sample(kept, min(len(kept), MOST_QUESTIONS))}


def text_of(stream: Mapping[str, Any], turn: Mapping[str, Any]) -> str:
    """Return a turn's text, who says it before it where several people speak."""
    said = stream.get("form") == "utterances" and turn.get("speaker")
    return f"{turn['speaker']}: {turn['text']}" if said else str(turn["text"])


def prepare(model: EvoEmbedding, stream: Mapping[str, Any], layers: list[int], most: int) -> Prepared:
    """Run a stream's turns and questions through the base, and rank them by the first stage."""
    transformer: Any = model[0]

    def states(texts: list[str]) -> list[TextStates]:
        return text_states(list(model), transformer.token_ids(texts), layers, Limits(64))

    turns = states([text_of(stream, turn) for turn in stream["turns"]])
    queries = stream["queries"]
    asked = []
    for question, query in zip(queries, states([q["query"] for q in queries]), strict=True):
        scores = first_stage(query, turns[: question["asked_at"]])
        chosen = candidates(scores, most)
        group = f"{stream['stream_id']}\n{question['query']}"
        asked.append(
            Asked(query.features[:QUERY_TOKENS].half(), question["asked_at"], chosen, scores[chosen],
                  question["evidence_turns"], question.get("mentions"), kind_of(question), group)
        )  # fmt: skip
    return Prepared([turn.features[:TURN_TOKENS].half() for turn in turns], asked)


def save(prepared: Prepared, path: Path) -> None:
    """Write one stream to a safetensors file."""
    tensors = {f"turn{number}": turn.contiguous() for number, turn in enumerate(prepared.turns)}
    facts = []
    for number, one in enumerate(prepared.questions):
        tensors[f"query{number}"] = one.query.contiguous()
        tensors[f"scores{number}"] = torch.from_numpy(one.first_stage)
        facts.append([one.asked_at, one.chosen, one.right, one.mentions, one.kind, one.group])
    save_file(tensors, path, metadata={"questions": json.dumps(facts), "turns": str(len(prepared.turns))})


def load(path: Path) -> Prepared:
    """Read what :func:`save` wrote."""
    with safe_open(path, "pt") as file:
        notes = file.metadata()
        turns = [file.get_tensor(f"turn{number}") for number in range(int(notes["turns"]))]
        questions = [
            Asked(file.get_tensor(f"query{n}"), at, chosen, file.get_tensor(f"scores{n}").numpy(), right, *rest)
            for n, (at, chosen, right, *rest) in enumerate(json.loads(notes["questions"]))
        ]
    return Prepared(turns, questions)


def prepared_streams(
    model: EvoEmbedding, streams: Iterable[Mapping[str, Any]], folder: Path, layers: list[int], most: int, seed: int
) -> Iterator[Prepared]:
    """Prepare streams, or take them from files of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, stream in enumerate(tqdm(list(streams), desc=folder.name, unit="stream")):
        path = folder / f"{number:05}.safetensors"
        if not path.exists():
            cut = windowed(stream, random.Random(seed * 1_000_003 + number))
            if cut is None:
                continue
            unfinished = path.with_suffix(".part")
            save(prepare(model, cut, layers, most), unfinished)
            unfinished.rename(path)
        yield load(path)
