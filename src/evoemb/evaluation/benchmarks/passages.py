"""EvoTrain, NQ320k and MS MARCO as streams, replayed in the order of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evoemb._errors import InputError
from evoemb.data.files import json_items, lines_of, read_json
from evoemb.evaluation.benchmarks.common import need
from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn

NQ_QUERIES = "dev.json"
NQ_SPLITS = {"seen": "dev.json.seen", "unseen": "dev.json.unseen"}


def read_evotrain(path: Path) -> list[EvalStream]:
    """Read EvoTrain's schema from JSON Lines: the last of ``meta.turns`` is the query.

    Source: the README of github.com/MiG-NJU/EvoEmbedding (at 6b9a653); on the Hub as MiG-NJU/EvoTrain-180K.
    """
    streams = []
    for number, (row, where) in enumerate(json_items(path), 1):
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
    """Read NQ320k in GenRet's files, where a document's number is its place in ``corpus_lite.json``.

    ``dev.json`` lists pairs of query and document number; ``dev.json.seen`` and ``dev.json.unseen`` list places in it.
    One stream of all documents; categories ``seen`` and ``unseen``, so that R@1 stands for both and for all.

    Source: github.com/sunnweiwei/GenRet, run.py (function ``test``) at a6afe33.
    """
    documents = read_json(folder / "corpus_lite.json")
    if not isinstance(documents, list) or not all(isinstance(one, str) for one in documents):
        raise InputError(f"{folder / 'corpus_lite.json'}: a list of texts is expected.")
    asked = read_json(folder / NQ_QUERIES)
    if not isinstance(asked, list):
        raise InputError(f"{folder / NQ_QUERIES}: a list of pairs is expected, but {type(asked).__name__} was found.")
    pairs = []
    for number, pair in enumerate(asked):
        where = f"{folder / NQ_QUERIES}, element {number}"
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0].strip():
            raise InputError(f"{where}: a pair [query, document number] is expected.")
        given = pair[1] if isinstance(pair[1], list) else [pair[1]]
        right = [int(one) if str(one).isdigit() else -1 for one in given]
        if bad := [one for one, at in zip(given, right, strict=True) if not 0 <= at < len(documents)]:
            raise InputError(f"{where}: document {bad[0]!r} is not among the {len(documents)} of the corpus.")
        pairs.append((pair[0], tuple(sorted(set(right)))))
    parts = {place: part for part, name in NQ_SPLITS.items() for place in _places(folder / name, len(asked))}
    queries = [
        StreamQuery(f"q{number}", words, evidence, len(documents), parts.get(number, "neither"))
        for number, (words, evidence) in enumerate(pairs)
    ]
    turns = tuple(StreamTurn(text, "document") for text in documents)
    return [EvalStream("nq320k", turns, tuple(queries), "nq320k", "passages")]


def _places(path: Path, number: int) -> list[int]:
    """Places in the list of queries."""
    places = read_json(path)
    if not isinstance(places, list):
        raise InputError(f"{path}: a list of numbers is expected, but {type(places).__name__} was found.")
    for at, place in enumerate(places):
        if not isinstance(place, int) or not 0 <= place < number:
            raise InputError(f"{path}, element {at}: {place!r} is no place among the {number} of {NQ_QUERIES}.")
    return places


def read_msmarco(folder: Path) -> list[EvalStream]:
    """Read MS MARCO passages: ``collection.tsv``, ``queries.tsv`` and ``qrels.tsv``, one stream in file order.

    The full collection has 8.8 million passages; cut ``collection.tsv`` to what you have time for. Queries whose right
    passages were cut are kept without evidence. qrels may have a header line.

    Source: the files that github.com/microsoft/msmarco lists in Datasets.md: id and text; qrels in TREC's columns.
    """
    passages: dict[str, str] = {}
    for row, where in columns(folder / "collection.tsv", 2):
        if row[0] in passages:
            raise InputError(f"{where}, id: {row[0]!r} stands twice.")
        passages[row[0]] = row[1]
    place = {name: index for index, name in enumerate(passages)}
    right: dict[str, set[int]] = {}
    for row, _ in columns(folder / "qrels.tsv", 4):
        if row[2] in place and row[3] != "0":
            right.setdefault(row[0], set()).add(place[row[2]])
    queries = tuple(
        StreamQuery(row[0], row[1], tuple(sorted(right.get(row[0], ()))), len(passages), "passage")
        for row, _ in columns(folder / "queries.tsv", 2)
    )
    turns = tuple(StreamTurn(text, "document") for text in passages.values())
    return [EvalStream("msmarco", turns, queries, "msmarco", "passages")]


def columns(path: Path, number: int) -> Iterator[tuple[list[str], str]]:
    """The rows of a file of tab-separated columns (qrels also with blanks)."""
    for line, where in lines_of(path):
        row = line.split("\t")  # the csv module refuses passages of more than 131072 characters
        row = line.split() if len(row) == 1 and number > 2 else row
        if len(row) < number:
            raise InputError(f"{where}: {number} columns are expected, but {len(row)} were found.")
        yield row, where
