"""Tables of pandas, polars, pyarrow, datasets and numpy are read by their columns; iterating one gives only names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evoemb._errors import InputTypeError

_TEXT_COLUMNS = ("text", "turn", "content")
_ROLE_COLUMNS, _SPEAKER_COLUMNS, _MESSAGE_COLUMNS = ("role", "from"), ("speaker", "name"), ("content", "text", "value")


def is_table(value: object) -> bool:
    """Return whether a value has named columns."""
    return bool(_names(value))


def items_of(values: Any, *, texts: bool = False) -> list[Any]:
    """Return what a sequence holds, in order: the rows of a table, the elements of a column or of anything else.

    Args:
        texts: Whether the rows of a table are texts by themselves, as candidates are, whoever wrote them.

    Raises:
        InputTypeError: It is a table without a column of texts or of messages.
    """
    if is_table(values):
        return rows_of(values, texts=texts)
    return list(values.to_pylist()) if hasattr(values, "to_pylist") else list(values)


def records_of(rows: Any) -> Iterable[Any]:
    """Return the rows of a table as mappings, without empty cells; what is no table as it is."""
    if not is_table(rows) or not len(rows) or isinstance(next(iter(rows), None), Mapping):  # a Dataset gives mappings
        return rows  # type: ignore[no-any-return]
    return _records(rows, _names(rows))


def rows_of(table: Any, *, texts: bool = False) -> list[Any]:
    """Return the rows of a table: messages where it has columns of roles or speakers and of contents, else texts.

    Args:
        texts: Whether the rows are texts even where a column names speakers.

    Raises:
        InputTypeError: It has neither; the text names its columns.
    """
    names = _names(table)
    content = next((name for name in _MESSAGE_COLUMNS if name in names), None)
    has_speakers = not texts and any(name in names for name in _SPEAKER_COLUMNS)
    if content is not None and (has_speakers or any(name in names for name in _ROLE_COLUMNS)):
        about = [name for name in names if name not in (*_TEXT_COLUMNS, *_MESSAGE_COLUMNS)]
        records = _records(table, about)
        role = {} if any(name in names for name in _ROLE_COLUMNS) else {"role": "user"}
        cells = (None if _is_empty(one) else one for one in _column(table, content))
        return [{**role, **record, "content": cell} for record, cell in zip(records, cells, strict=True)]
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
    """Return whether a table's cell holds nothing; NaN is the only number that differs from itself."""
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )
