"""Passage retrieval as streams: LMEB's layout, EvoTrain, NQ320k and MS MARCO, replayed in the order of their files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.evaluation.readers.common import need, read_json
from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn
from evoemb.evaluation.streams import lines_of, parse_json

NQ_SPLITS = {"seen": "dev.json.seen", "unseen": "dev.json.unseen"}


def read_lmeb(folder: Path) -> list[EvalStream]:
    """Read one task of LMEB: ``corpus.jsonl``, ``queries.jsonl``, ``qrels.tsv`` and, mostly, ``candidates.jsonl``.

    Queries with the same candidates are asked of one stream: the candidates in the order listed. Without a candidates
    file, the whole corpus is one stream.

    Source: KaLM-Embedding/LMEB on the Hub (arXiv 2603.12572); QASPER, PeerQA, COVID-QA, MLDR and ESG come so.
    """
    corpus = {name: _passage(row, where) for name, row, where in _rows(folder / "corpus.jsonl")}
    queries = {name: (need(row, "text", str, where), where) for name, row, where in _rows(folder / "queries.jsonl")}
    right = _qrels(folder / "qrels.tsv")
    listed = _candidates(folder / "candidates.jsonl", queries, corpus)
    streams = []
    for number, (candidates, asked) in enumerate(listed.items()):
        place = {name: index for index, name in enumerate(candidates)}
        found = []
        for name in asked:
            if unknown := [one for one in right.get(name, ()) if one not in corpus]:
                raise InputError(
                    f"{folder / 'qrels.tsv'}: {unknown[0]!r} is right for {name!r} but not in corpus.jsonl."
                )
            evidence = tuple(sorted(place[one] for one in right.get(name, ()) if one in place))
            found.append(StreamQuery(name, queries[name][0], evidence, len(candidates), folder.name))
        turns = tuple(StreamTurn(corpus[name], "document") for name in candidates)
        streams.append(EvalStream(f"{folder.name}-{number}", turns, tuple(found), folder.name, "passages"))
    return streams


def read_evotrain(path: Path) -> list[EvalStream]:
    """Read EvoTrain's schema from JSON Lines: the last of ``meta.turns`` is the query.

    Source: MiG-NJU/EvoTrain-180K on the Hub.
    """
    streams = []
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: an object is expected here, but {type(row).__name__} was found.")
        nested = row.get("meta")
        meta = nested if isinstance(nested, Mapping) else {key[5:]: row[key] for key in row if key.startswith("meta.")}
        turns, right = need(meta, "turns", list, where), need(meta, "evidence_turns", list, where)
        if len(turns) < 2 or not all(isinstance(turn, str) for turn in turns) or not turns[-1].strip():
            raise InputError(f"{where}.meta.turns: texts are expected, at least one turn and then the query.")
        last = len(turns) - 1
        if bad := [one for one in right if not isinstance(one, int) or not 0 <= one < last]:
            raise InputError(f"{where}.meta.evidence_turns: {bad[0]!r} is no turn before the query (0 to {last - 1}).")
        query = StreamQuery("q0", turns[-1], tuple(sorted(set(right))), last)
        said = tuple(StreamTurn(turn) for turn in turns[:-1])
        streams.append(EvalStream(f"evotrain-{number}", said, (query,), "evotrain"))
    return streams


def read_nq320k(folder: Path) -> list[EvalStream]:
    """Read NQ320k in GenRet's files: ``corpus_lite.json`` and pairs of query and document number for each part.

    One stream of all documents; categories ``seen`` and ``unseen``, so that R@1 stands for both and for all.
    """
    documents = read_json(folder / "corpus_lite.json")
    if not isinstance(documents, list) or not all(isinstance(one, str) for one in documents):
        raise InputError(f"{folder / 'corpus_lite.json'}: a list of texts is expected.")
    queries = []
    for part, name in NQ_SPLITS.items():
        for number, pair in enumerate(read_json(folder / name)):
            where = f"{folder / name}, element {number}"
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise InputError(f"{where}: a pair [query, document number] is expected.")
            document = int(pair[1]) if str(pair[1]).isdigit() else -1
            if not 0 <= document < len(documents):
                raise InputError(f"{where}: document {pair[1]!r} is not among the {len(documents)} of the corpus.")
            queries.append(StreamQuery(f"{part}-{number}", pair[0], (document,), len(documents), part))
    turns = tuple(StreamTurn(text, "document") for text in documents)
    return [EvalStream("nq320k", turns, tuple(queries), "nq320k", "passages")]


def read_msmarco(folder: Path) -> list[EvalStream]:
    """Read MS MARCO passages: ``collection.tsv``, ``queries.tsv`` and ``qrels.tsv``, one stream in file order.

    The full collection has 8.8 million passages; cut ``collection.tsv`` to what you have time for. Queries whose right
    passages were cut are kept without evidence.
    """
    passages = {row[0]: row[1] for row, _ in _columns(folder / "collection.tsv", 2)}
    place = {name: index for index, name in enumerate(passages)}
    right: dict[str, set[int]] = {}
    for row, _ in _columns(folder / "qrels.tsv", 4):
        if row[2] in place and row[3] != "0":
            right.setdefault(row[0], set()).add(place[row[2]])
    queries = tuple(
        StreamQuery(row[0], row[1], tuple(sorted(right.get(row[0], ()))), len(passages), "passage")
        for row, _ in _columns(folder / "queries.tsv", 2)
    )
    turns = tuple(StreamTurn(text, "document") for text in passages.values())
    return [EvalStream("msmarco", turns, queries, "msmarco", "passages")]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """The objects of a JSON Lines file with their ids, each of which stands once."""
    seen: set[str] = set()
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: an object is expected here, but {type(row).__name__} was found.")
        name = str(need(row, "_id" if "_id" in row else "id", (str, int), where))
        if name in seen:
            raise InputError(f"{where}, id: {name!r} stands twice.")
        seen.add(name)
        yield name, row, where


def _passage(row: Mapping[str, Any], where: str) -> str:
    text, title = need(row, "text", str, where), row.get("title")
    return f"{title}\n{text}" if title else str(text)


def _candidates(
    path: Path, queries: Mapping[str, tuple[str, str]], corpus: Mapping[str, str]
) -> dict[tuple[str, ...], list[str]]:
    """Queries by the candidates they rank. A line names a query, or a scene that begins the names of its queries."""
    if not path.exists():
        return {tuple(corpus): list(queries)}
    listed: dict[tuple[str, ...], list[str]] = {}
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        names = tuple(need(row, "candidate_doc_ids", list, where))
        if unknown := [name for name in names if name not in corpus]:
            raise InputError(f"{where}, candidate_doc_ids: {unknown[0]!r} is not in corpus.jsonl.")
        if isinstance(row, Mapping) and "query_id" in row:
            asked = [str(row["query_id"])]
        else:
            scene = need(row, "scene_id", str, where)
            asked = [name for name in queries if name == scene or name.startswith(f"{scene}_")]
        if missing := [name for name in asked if name not in queries]:
            raise InputError(f"{where}, query_id: {missing[0]!r} is not in queries.jsonl.")
        listed.setdefault(names, []).extend(asked)
    return listed


def _qrels(path: Path) -> dict[str, list[str]]:
    """Right documents of each query, from query, document and score with a header line."""
    right: dict[str, list[str]] = {}
    for row, where in _columns(path, 3):
        if row[2].strip() in ("score", "label"):
            continue
        try:
            score = float(row[2])
        except ValueError:
            raise InputError(f"{where}, score: {row[2]!r} is no number.") from None
        if score > 0:
            right.setdefault(row[0], []).append(row[1])
    return right


def _columns(path: Path, number: int) -> Iterator[tuple[list[str], str]]:
    """The rows of a file of tab-separated columns (qrels also with blanks)."""
    for line_number, line in lines_of(path):
        where = f"{path}, line {line_number}"
        row = next(csv.reader([line.rstrip("\r\n")], delimiter="\t", quoting=csv.QUOTE_NONE))
        row = line.split() if len(row) == 1 and number > 2 else row
        if len(row) < number:
            raise InputError(f"{where}: {number} columns are expected, but {len(row)} were found.")
        yield row, where
