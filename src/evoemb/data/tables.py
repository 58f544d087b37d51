"""Tables of pandas, polars, pyarrow, datasets and numpy are read by their columns; iterating one gives only names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evoemb._errors import InputTypeError

_TEXT_COLUMNS = ("text", "turn", "content")


def is_table(value: object) -> bool:
    """Return whether a value has named columns."""
    return bool(_names(value))


def items_of(values: Any) -> list[Any]:
    """Return what a sequence holds, in order: the rows of a table, the elements of a column or of anything else.

    Raises:
        InputTypeError: It is a table without a column of texts or of messages.
    """
    if is_table(values):
        return rows_of(values)
    return list(values.to_pylist()) if hasattr(values, "to_pylist") else list(values)


def records_of(rows: Any) -> Iterable[Any]:
    """Return the rows of a table as mappings, without empty cells; what is no table as it is."""
    if not is_table(rows) or not len(rows) or isinstance(next(iter(rows), None), Mapping):  # a Dataset gives mappings
        return rows  # type: ignore[no-any-return]
    return _records(rows, _names(rows))


def rows_of(table: Any) -> list[Any]:
    """Return the rows of a table: messages where it has the columns role and content, texts where it has one of texts.

    Raises:
        InputTypeError: It has neither; the text names its columns.
    """
    names = _names(table)
    if {"role", "content"} <= set(names):
        return _records(table, [name for name in names if name not in _TEXT_COLUMNS or name == "content"])
    for name in _TEXT_COLUMNS:
        if name in names:
            return _column(table, name)
    raise InputTypeError(
        f"A {type(table).__name__} with the columns {', '.join(map(repr, names))} was given. A table of messages has "
        'the columns "role" and "content", one of turns the column "text". Rename its columns, or pass one of them.'
    )


def _names(value: object) -> list[str]:
    """Return the names of a table's columns; none for what is no table."""
    dtype_names = getattr(getattr(value, "dtype", None), "names", None)
    for names in (dtype_names, getattr(value, "column_names", None), getattr(value, "columns", None)):
        if names is None or callable(names) or isinstance(names, str):
            continue
        try:
            found = list(names)
        except TypeError:
            continue
        if found and all(isinstance(name, str) for name in found):
            return found
        if found:
            return [str(name) for name in found]
    return []


def _records(table: Any, names: list[str]) -> list[dict[str, Any]]:
    columns = [_column(table, name) for name in names]
    return [
        {name: one for name, one in zip(names, row, strict=True) if not _is_empty(one)}
        for row in zip(*columns, strict=True)
    ]


def _column(table: Any, name: str) -> list[Any]:
    column = table[name]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _is_empty(value: object) -> bool:
    """Return whether a table's cell holds nothing; NaN is the only value that differs from itself."""
    return value is None or (isinstance(value, float) and value != value)
