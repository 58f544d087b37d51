"""LMEB's layout: passages, queries and the candidates of each, replayed in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.data.files import json_items
from evoemb.evaluation.benchmarks.common import need
from evoemb.evaluation.benchmarks.passages import columns
from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn

_CORPUS, _QUERIES, _CANDIDATES, _QRELS = "corpus.jsonl", "queries.jsonl", "candidates.jsonl", "qrels.tsv"


@dataclass(slots=True)
class _Part:
    """A folder with queries and the passages they rank."""

    folder: Path
    shared: Path
    corpus: dict[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Return a file of this part, or the task's where all its parts share one."""
        own = self.folder / name
        return own if own.exists() else self.shared / name


def read_lmeb(folder: Path) -> list[EvalStream]:
    """Read one task of LMEB: ``corpus.jsonl``, ``queries.jsonl``, ``qrels.tsv`` and, mostly, ``candidates.jsonl``.

    A task with parts (LoCoMo, LongMemEval, REALTALK and more) has a folder for each with its queries and qrels; corpus
    and candidates stand there too, or above for all parts. Parts become categories. Queries with the same candidates
    are asked of one stream: the candidates in the order listed, each as title and text. A query that no candidates are
    listed for ranks the whole corpus. BEIR's ``_id`` is read where there is no ``id``.

    Source: github.com/KaLM-Embedding/LMEB, src/abstasks/LocalRetrieval.py and SubsetRetrieval.py at 753bfc5 (arXiv
    2603.12572): a line of candidates names a query, or a scene, the first two of its queries' parts between ``_``.
    """
    parts = [_Part(folder, folder)]
    if not (folder / _QUERIES).exists():
        parts = [_Part(path.parent, folder) for path in sorted(folder.glob(f"*/{_QUERIES}"))]
    if not parts:
        raise InputError(f"{folder} holds no {_QUERIES}, nor does a folder in it. Give one task's folder of LMEB.")
    read: dict[Path, dict[str, str]] = {}
    found: dict[tuple[Path, tuple[str, ...]], list[StreamQuery]] = {}
    for part in parts:
        source = part.file(_CORPUS)
        if source not in read:
            read[source] = {name: _passage(row, where) for name, row, where in _rows(source)}
        part.corpus = read[source]
        for names, queries in _asked(part).items():
            found.setdefault((source, names), []).extend(queries)
    return [
        EvalStream(
            f"{folder.name}-{number}",
            tuple(StreamTurn(read[source][name], "document") for name in names),
            tuple(queries),
            folder.name,
            "passages",
        )
        for number, ((source, names), queries) in enumerate(found.items())
    ]


def _asked(part: _Part) -> dict[tuple[str, ...], list[StreamQuery]]:
    """The questions of a part by the candidates they rank."""
    queries = {}
    for name, row, where in _rows(part.folder / _QUERIES):
        queries[name] = need(row, "text", str, where)
        if not queries[name].strip():
            raise InputError(f"{where}, text: it is empty. Leave the query out.")
    right = _qrels(part)
    found = {}
    for names, asked in _candidates(part, queries).items():
        place = {name: index for index, name in enumerate(names)}
        found[names] = [
            StreamQuery(
                name if part.folder == part.shared else f"{part.folder.name}/{name}",
                queries[name],
                tuple(sorted({place[one] for one in right.get(name, ()) if one in place})),
                len(names),
                part.folder.name,
            )
            for name in asked
        ]
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The objects of a JSON Lines file with their ids, each of which stands once."""
    seen: set[str] = set()
    for row, where in json_items(path):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: an object is expected here, but {type(row).__name__} was found.")
        name = str(need(row, "_id" if "_id" in row and "id" not in row else "id", (str, int), where))
        if name in seen:
            raise InputError(f"{where}, id: {name!r} stands twice.")
        seen.add(name)
        yield name, row, where


def _passage(row: Mapping[str, Any], where: str) -> str:
    """Title and text with a blank between them, as LMEB and mteb join them."""
    return f"{row.get('title') or ''} {need(row, 'text', str, where)}".strip()


def _candidates(part: _Part, queries: Mapping[str, str]) -> dict[tuple[str, ...], list[str]]:
    """Queries by the candidates they rank."""
    by_scene: dict[str, list[str]] = {}
    for name in queries:
        by_scene.setdefault("_".join(name.split("_")[:2]), []).append(name)
    listed: dict[tuple[str, ...], list[str]] = {}
    left = dict.fromkeys(queries)
    path = part.file(_CANDIDATES)
    for row, where in json_items(path) if path.exists() else ():
        names = tuple(map(str, need(row, "candidate_doc_ids", list, where)))
        scene = str(need(row, "scene_id", (str, int), where))
        if unknown := [name for name in names if name not in part.corpus]:
            raise InputError(f"{where}, candidate_doc_ids: {unknown[0]!r} is not in {part.file(_CORPUS).name}.")
        if len(set(names)) < len(names):
            raise InputError(f"{where}, candidate_doc_ids: a passage stands twice.")
        # The scenes of other parts stand in a shared file too.
        asked = [scene] if scene in queries else by_scene.get(scene, [])
        asked = [name for name in asked if name in left and names]  # an empty list is none: all passages are ranked
        for name in asked:
            del left[name]
        if asked:
            listed.setdefault(names, []).extend(asked)
    if left:
        listed.setdefault(tuple(part.corpus), []).extend(left)
    return listed


def _qrels(part: _Part) -> dict[str, list[str]]:
    """Right passages of each query, from query, passage and score; LMEB writes no header line, BEIR does."""
    right: dict[str, list[str]] = {}
    path = part.folder / _QRELS
    for row, where in columns(path, 3):
        if row[2].strip() in ("score", "label"):
            continue
        try:
            score = float(row[2])
        except ValueError:
            raise InputError(f"{where}, score: {row[2]!r} is no number.") from None
        if row[1] not in part.corpus:
            raise InputError(f"{where}: {row[1]!r} is right for {row[0]!r} but not in {part.file(_CORPUS).name}.")
        if score > 0:
            right.setdefault(row[0], []).append(row[1])
    return right
