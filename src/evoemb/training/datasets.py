"""Rows from a list, a file or ``datasets`` to a checked data set that trainers take."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.data.files import STANDARD_INPUT, json_items
from evoemb.data.parts import kind_of
from evoemb.data.tables import records_of
from evoemb.training.columns import RowError, StreamExample, parse_row

logger = logging.getLogger(__name__)

_SHOWN = 5
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".parquet")


def load_rows(source: str, *, split: str = "train", streaming: bool = False) -> Any:
    """Load rows from a JSONL or Parquet file, or from the Hub, unchecked.

    Args:
        source: A file (gzip or not), a glob of files, ``"-"`` for standard input, or the id of a data set on the Hub.
        split: Of a data set on the Hub.
        streaming: Read rows as they are needed, for data that does not fit on the disk.

    Returns:
        A list of rows for JSON, a ``datasets.Dataset`` for the rest, or an ``IterableDataset`` when streaming.

    Raises:
        InputError: The file is of another kind or cannot be read, or the ``datasets`` library is missing.
        FileNotFoundError: There is no such file.
    """
    if source == STANDARD_INPUT:
        return _read_json(source)
    parts = Path(source.lower())
    suffix = "".join(parts.suffixes[-2:]) if parts.suffix == ".gz" else parts.suffix
    # Names on the Hub may end in a version: org/chats-1.5.
    is_named_as_file = bool(suffix) and not suffix[1:2].isdigit()
    if not (Path(source).exists() or is_named_as_file or "*" in source):
        return _datasets().load_dataset(source, split=split, streaming=streaming)
    if suffix not in _SUFFIXES:
        raise InputError(f"{source} ends in {suffix or 'nothing'}, expected {', '.join(_SUFFIXES)}. Convert the file.")
    if "*" not in source and not Path(source).exists():
        raise FileNotFoundError(f"{source} does not exist.")
    if suffix == ".parquet":
        return _datasets().load_dataset("parquet", data_files=source, split="train", streaming=streaming)
    if streaming:
        return _datasets().IterableDataset.from_generator(_json_rows, gen_kwargs={"names": _names(source)})
    return _read_json(source)


def stream_dataset(rows: Any, *, bad_rows: str = "raise") -> Any:
    """Check rows and give the data set a trainer takes.

    Args:
        rows: A list of rows, a file or Hub id (see :func:`load_rows`), or a ``datasets`` object, or a dictionary of
            them by name.
        bad_rows: ``"raise"`` or ``"skip"``. Rows of a streaming data set are checked when they are read: broken ones
            are skipped with a warning, or raise. One without known columns gets evoemb's own.

    Returns:
        A ``Dataset`` or ``IterableDataset`` as it was given. Rows of a list or file become a ``Dataset`` of evoemb's
        own columns, for Arrow takes no mixture of forms; to keep columns of your own, give a ``Dataset``.

    Raises:
        InputError: Rows are broken (the message shows the first few), or no row is left.
    """
    datasets = _datasets()
    if isinstance(rows, str | Path):
        rows = load_rows(str(rows))
    if isinstance(rows, Mapping):
        return datasets.DatasetDict({name: stream_dataset(one, bad_rows=bad_rows) for name, one in rows.items()})
    if isinstance(rows, datasets.IterableDataset):
        if rows.column_names is None:
            return _in_own_columns(rows, bad_rows)
        return rows.filter(_keeps_good_rows) if bad_rows == "skip" else rows
    good, errors = check_rows(rows)
    if errors and bad_rows == "raise":
        listed = "\n".join(f"- {error}" for error in errors[:_SHOWN])
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError(
            f"{len(errors)} of {len(good) + len(errors)} rows are broken:\n{listed}{more}\nRepair them, or pass "
            'bad_rows="skip" to leave them out.'
        )
    if not good:
        raise InputError("No row is left to train on. Give at least one stream with a query.")
    if errors:
        logger.warning("%d broken rows were left out; the first: %s", len(errors), errors[0])
    if isinstance(rows, datasets.Dataset):
        return rows.select(sorted(good)) if errors else rows
    return datasets.Dataset.from_list([_plain_row(good[index]) for index in sorted(good)])


def check_rows(rows: Iterable[Any]) -> tuple[dict[int, StreamExample], list[RowError]]:
    """Check every row: the good ones by number, and an error for each broken one."""
    good: dict[int, StreamExample] = {}
    errors: list[RowError] = []
    for index, row in enumerate(records_of(rows)):
        try:
            good[index] = parse_row(row, index)
        except RowError as error:
            errors.append(error)
    return good, errors


def _datasets() -> Any:
    """Return the ``datasets`` library."""
    try:
        import datasets
    except ImportError as error:
        raise InputError('This needs the datasets library. Install it with `pip install "evoemb[train]"`.') from error
    return datasets


def _keeps_good_rows(row: Any) -> bool:
    try:
        parse_row(row, "of a streaming data set")
    except RowError as error:
        logger.warning("A broken row was left out: %s", error)
        return False
    return True


def _in_own_columns(rows: Any, bad_rows: str) -> Any:
    """Return a streaming data set in evoemb's own columns, checked as it is read; a trainer must know its columns."""
    datasets = _datasets()
    text, number = datasets.Value("string"), datasets.Value("int64")
    kinds = {"turns": text, "query": text, "evidence": [number], "asked_at": number, "answer": text, "timestamps": text}
    count = rows.num_shards
    parts = [rows.shard(num_shards=count, index=index) for index in range(count)] if count > 1 else [rows]
    return datasets.IterableDataset.from_generator(
        _plain_rows,
        features=datasets.Features({name: [kind] for name, kind in kinds.items()}),
        gen_kwargs={"parts": parts, "bad_rows": bad_rows},
    )


def _plain_rows(parts: Sequence[Any], bad_rows: str) -> Iterator[dict[str, Any]]:
    for part in parts:
        for row in part:
            if bad_rows != "skip" or _keeps_good_rows(row):
                yield _plain_row(parse_row(row, "of a streaming data set"))


def _plain_row(example: StreamExample) -> dict[str, Any]:
    """Bring a checked example to one set of columns, whatever form its row had; Arrow takes no mixture."""
    answers = [question.answer for question in example.questions]
    return {
        "turns": list(example.turns),
        "query": [question.text for question in example.questions],
        "evidence": [list(question.evidence) for question in example.questions],
        "asked_at": [question.asked_at for question in example.questions],
        # Lists in every row, empty or of nothing: the model card cannot describe a column that is null in some rows.
        "answer": answers,
        "timestamps": list(example.timestamps or ()),
    }


def _read_json(path: str) -> list[Any]:
    """Read JSON or JSON Lines row by row, so that rows of differing form do not break the load."""
    return [item.value for name in _names(path) for item in json_items(name)]


def _json_rows(names: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of files one at a time; a list of names can be shared among workers."""
    for name in names:
        for value, where in json_items(name):
            if not isinstance(value, dict):
                raise InputError(f"{where}: a row is an object, but {kind_of(value)} was found. Repair the file.")
            yield value


def _names(path: str) -> list[str]:
    """Return the names of the files that a path or pattern stands for."""
    return [path] if path == STANDARD_INPUT else sorted(glob.glob(path)) or [path]
