"""One evaluation run: every system over every stream, kept on disk as it goes, so that it can be taken up again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.evaluation.metrics import Outcome, outcome
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.systems import System

OnProgress = Callable[[int], object]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemRun:
    """What one system did: its outcomes in the order of streams and questions, and the seconds it took."""

    name: str
    outcomes: list[Outcome]
    seconds: float


class Ledger:
    """Outcomes on disk, mostly a line for each system and stream, behind a header that says what they belong to.

    Args:
        path: A file that is made or gone on with.
        header: Says benchmark, model and options; a file with another header is refused.
        key: Fields that tell entries apart.

    Raises:
        InputError: The file belongs to another run.
    """

    def __init__(self, path: Path, header: dict[str, Any], key: tuple[str, ...] = ("system", "stream_id")) -> None:
        self._path = path
        self._key = key
        self.done: dict[tuple[str, ...], dict[str, Any]] = {}
        wanted = json.loads(json.dumps(header))
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines:
            path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            return
        found = _object(lines[0])
        if found != wanted:
            other = sorted(key for key in wanted if (found or {}).get(key) != wanted[key])
            raise InputError(
                f"{path} holds outcomes of another run (different: {', '.join(other)}). Pass --restart to begin anew, "
                "or another -o."
            )
        whole = [line for line in lines[1:] if self._take(line)]
        if len(whole) < len(lines) - 1:
            if lines[-1].endswith(b"\n") or len(whole) < len(lines) - 2:  # else a run was stopped in its last line
                message = "%s: %d damaged lines were dropped; what they held is run again."
                logger.warning(message, path, len(lines) - 1 - len(whole))
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(b"".join([lines[0], *whole]))
            beside.replace(path)

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Append entries; they are on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self.done.update({self._key_of(entry): entry for entry in entries})

    def _take(self, line: bytes) -> bool:
        """Note the entry of a line, if it is whole."""
        entry = _object(line)
        if entry is None or not all(name in entry for name in self._key):
            return False
        self.done[self._key_of(entry)] = entry
        return True

    def _key_of(self, entry: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(entry[name]) for name in self._key)


def run_systems(
    systems: Sequence[System],
    streams: Sequence[EvalStream],
    ledger: Ledger | None = None,
    *,
    group_size: int = 8,
    on_progress: OnProgress | None = None,
) -> list[SystemRun]:
    """Score all systems on all streams.

    Args:
        systems: With different names.
        streams: At least one; those without scored questions are passed over.
        ledger: Where outcomes are kept and found again; None keeps them in memory only.
        group_size: Streams read side by side.
        on_progress: Called with the number of questions answered, as the run goes.

    Returns:
        One run a system, in order.
    """
    asked = [stream for stream in streams if stream.scored]
    done = ledger.done if ledger is not None else {}
    for start in range(0, len(asked), group_size):
        group = asked[start : start + group_size]
        for system in systems:
            missing = [stream for stream in group if (system.name, stream.stream_id) not in done]
            entries = _score(system, missing)
            if ledger is not None:
                ledger.add(entries)
            else:
                done.update({(entry["system"], entry["stream_id"]): entry for entry in entries})
            if on_progress is not None:
                on_progress(sum(len(stream.scored) for stream in group))
    return [
        SystemRun(
            system.name,
            [one for stream in asked for one in _outcomes(stream, done[system.name, stream.stream_id])],
            sum(done[system.name, stream.stream_id]["seconds"] for stream in asked),
        )
        for system in systems
    ]


def digest_of(streams: Sequence[EvalStream]) -> str:
    """Digest streams by content, so that a ledger knows its benchmark whatever file it came from."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(json.dumps(stream.to_json(), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a whole line; None for a damaged one."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _score(system: System, streams: Sequence[EvalStream]) -> list[dict[str, Any]]:
    if not streams:
        return []
    begun = time.perf_counter()
    scored = system.score(streams)
    share = (time.perf_counter() - begun) / len(streams)
    entries = []
    for stream, scores in zip(streams, scored, strict=True):
        found = [outcome(stream, query, one) for query, one in zip(stream.scored, scores, strict=True)]
        entries.append(
            {
                "system": system.name,
                "stream_id": stream.stream_id,
                "seconds": round(share, 4),
                "ranks": [one.ranks for one in found],
                "order": [one.order for one in found],
                "top": [one.top for one in found],
            }
        )
    return entries


def _outcomes(stream: EvalStream, entry: dict[str, Any]) -> list[Outcome]:
    lists = zip(stream.scored, entry["ranks"], entry["order"], entry["top"], strict=True)
    return [Outcome(stream.stream_id, query, tuple(ranks), order, top) for query, ranks, order, top in lists]
