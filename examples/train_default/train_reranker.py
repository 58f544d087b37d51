"""Train the score that tells what is current: ``python train_reranker.py OUTPUT --convqa convqa.train.jsonl.gz``.

Writes OUTPUT/score (what ``EvoReranker`` loads behind the default model), OUTPUT/checkpoint.pt to go on from
with ``--resume``, and OUTPUT/log.jsonl. The streams are run through the frozen base once and kept in OUTPUT/streams.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections import defaultdict
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reranker_data import Asked, Prepared, prepared_streams
from talk.chats import read_chats
from talk.streams import is_dev, make_stream, read_kinds
from torch import Tensor

from evoemb import EvoEmbedding
from evoemb.data.files import json_items
from evoemb.modules import TimeOrderedScore
from evoemb.ranking import standardised
from evoemb.time_ordered import CandidateSet, time_ordered

LAYERS = [3, 6]
# Questions that need no thought are asked less often.
WEIGHTS = {"updated": 2.2, "no rival": 1.6, "first": 2.5, "previous": 2.5, "event": 2.5, "single": 2.0,
           "cancelled": 2.0, "coref": 2.0, "other": 1.2}  # fmt: skip
SHARES = {"talk": 0.35, "chats": 0.55, "convqa": 0.10}
MENTION_WEIGHT = 0.3

Sample = tuple[Prepared, Asked]


def streams_of(told: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the streams of every source, split into training and development by wording and by chat."""
    kinds = read_kinds()
    parts = {"talk": [k for k in kinds if not is_dev(k)], "talk dev": [k for k in kinds if is_dev(k)]}
    found: dict[str, list[dict[str, Any]]] = {}
    for first, (name, own) in enumerate(parts.items()):
        filler = [text for kind in own for text in kind["talk"]]
        count = told.generated if name == "talk" else min(40, told.generated)
        found[name] = [make_stream(own, (first + 1) * 1_000_003 + number, filler) for number in range(count)]
    chats = read_chats()
    found["chats"] = [chat for chat in chats if zlib.crc32(chat["stream_id"].encode()) % 8]
    found["chats dev"] = [chat for chat in chats if not zlib.crc32(chat["stream_id"].encode()) % 8]
    if told.convqa:
        found["convqa"] = [item.value for item in islice(json_items(told.convqa), told.conversations)]
    return found


def batch_of(samples: list[Sample], dropped: float, rng: random.Random) -> tuple[list[CandidateSet], list[Asked]]:
    """Return questions with some of their wrong candidates left out, and sometimes scored among the rest alone."""
    questions = []
    for stream, one in samples:
        kept = [n for n, turn in enumerate(one.chosen) if turn in one.right or rng.random() > dropped * rng.random()]
        if len(kept) < 3:
            kept = list(range(len(one.chosen)))
        scores = one.first_stage[kept]
        if dropped and len(kept) > 2 and rng.random() < 0.3:
            scores = np.stack([standardised(column) for column in scores.T], -1).astype(np.float32)
        turns = stream.turns[: one.asked_at]
        questions.append(CandidateSet(one.query.float(), turns, [one.chosen[n] for n in kept], scores))
    return questions, [one for _, one in samples]


def loss_of(module: TimeOrderedScore, questions: list[CandidateSet], asked: list[Asked]) -> Tensor:
    """Return the cross-entropy of the right candidates, or of none, and of which candidates mention the fact."""
    batch = time_ordered(questions)
    found = module.score(batch)
    said = torch.cat([found.current, found.nothing.unsqueeze(1)], 1).log_softmax(-1)
    right = torch.zeros_like(said)
    mentions, known = torch.zeros_like(found.mentions), torch.zeros_like(found.mentions)
    for row, (question, one) in enumerate(zip(questions, asked, strict=True)):
        places = [place for place, turn in enumerate(question.chosen) if turn in one.right]
        right[row, places or [-1]] = 1
        if one.mentions:
            known[row, : len(question.chosen)] = 1
            mentions[row, [place for place, turn in enumerate(question.chosen) if turn in one.mentions]] = 1
    missed = -torch.logsumexp(said.masked_fill(right == 0, -1e4), -1).mean()
    mentioned = F.binary_cross_entropy_with_logits(found.mentions, mentions, weight=known, reduction="sum")
    return missed + MENTION_WEIGHT * mentioned / known.sum().clamp(min=1)


@torch.no_grad()
def first_hits(module: TimeOrderedScore, streams: list[Prepared]) -> dict[str, float]:
    """Return the share of first hits that are right, by what is asked; of the first stage behind ``first stage``."""
    module.eval()
    hits = defaultdict(list)
    groups = defaultdict(list)
    for stream in streams:
        answerable = [(stream, one) for one in stream.questions if one.right]
        if not answerable:
            continue
        questions, asked = batch_of(answerable, 0.0, random.Random(0))
        best = module.score(time_ordered(questions)).current.argmax(-1).tolist()
        for place, question, one in zip(best, questions, asked, strict=True):
            right = question.chosen[place] in one.right
            for name in (one.kind, "all"):
                hits[name].append(right)
            hits["first stage"].append(one.chosen[int(one.first_stage[:, 0].argmax())] in one.right)
            groups[one.group].append((frozenset(one.right), right))
    module.train()
    several = [all(ok for _, ok in one) for one in groups.values() if len({right for right, _ in one}) > 1]
    return {name: round(100 * float(np.mean(one)), 1) for name, one in [*sorted(hits.items()), ("evolving", several)]}


def main() -> None:
    """Read the command line, prepare, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--convqa", type=Path, help="conversations with rewritten questions, as JSON Lines of streams")
    parser.add_argument(
        "--conversations", type=int, default=250, help="conversations of --convqa (default: %(default)s)"
    )
    parser.add_argument(
        "--generated", type=int, default=900, help="streams made of kinds of facts (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT")
    told = parser.parse_args()
    train(told)


def train(told: argparse.Namespace) -> None:
    """Train and write; every 300 steps a checkpoint and the figures of the development streams."""
    torch.manual_seed(told.seed)
    rng = random.Random(told.seed)
    model = EvoEmbedding(device="cpu")
    transformer: Any = model[0]
    size = len(LAYERS) * int(transformer.model.config.hidden_size)
    module = TimeOrderedScore(size, LAYERS, dropout=told.dropout)
    prepared = {
        name: list(prepared_streams(model, own, told.output / "streams" / name, LAYERS, module.num_candidates, 1))
        for name, own in streams_of(told).items()
    }
    sources = {name: _weighted(prepared[name]) for name in SHARES if prepared.get(name)}
    optimizer = torch.optim.AdamW(module.parameters(), lr=told.lr, weight_decay=0.1, betas=(0.9, 0.98))
    warm_and_down = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.51 + 0.5 * float(np.cos(np.pi * step / told.steps)))
    )
    start, checkpoint = 0, told.output / "checkpoint.pt"
    if told.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        start = saved["step"]
        for part, name in ((module, "module"), (optimizer, "optimizer"), (warm_and_down, "schedule")):
            part.load_state_dict(saved[name])
    module.train()
    begun, losses = time.monotonic(), []
    for step in range(start, told.steps):
        samples: list[Sample] = []
        for name in rng.choices(list(sources), [SHARES[name] for name in sources], k=5):
            stream, weights = rng.choice(sources[name])
            picked = {rng.choices(range(len(weights)), cum_weights=weights)[0] for _ in range(10)}
            samples += [(stream, stream.questions[number]) for number in sorted(picked)]
        loss = loss_of(module, *batch_of(samples, 0.6, rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        warm_and_down.step()
        losses.append(loss.item())
        if (step + 1) % 300 == 0 or step + 1 == told.steps:
            row: dict[str, Any] = {
                "step": step + 1,
                "seconds": round(time.monotonic() - begun),
                "loss": np.mean(losses),
            }
            row |= {name: first_hits(module, prepared[name]) for name in ("talk dev", "chats dev")}
            print(json.dumps(row), flush=True)
            with (told.output / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            losses.clear()
            parts: dict[str, Any] = {"module": module, "optimizer": optimizer, "schedule": warm_and_down}
            torch.save({"step": step + 1, **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)
    (told.output / "score").mkdir(exist_ok=True)
    module.save(str(told.output / "score"))


def _weighted(streams: list[Prepared]) -> list[tuple[Prepared, list[float]]]:
    """Pair streams with the cumulated weights of their questions, those whose answer is no candidate left out."""
    found = []
    for stream in streams:
        weights = [
            WEIGHTS.get(one.kind, 1.0) if not one.right or set(one.right) & set(one.chosen) else 0.0
            for one in stream.questions
        ]
        if any(weights):
            found.append((stream, list(accumulate(weights))))
    return found


if __name__ == "__main__":
    main()
