"""A table is read by its columns, never as the names of its columns."""

from __future__ import annotations

import numpy as np
import pytest

from evoemb._errors import InputTypeError
from evoemb.data.turns import as_streams, as_turns

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

CHAT = {"role": ["user", "assistant", "user"], "content": ["I live in Oslo.", "Nice.", "I moved."], "name": [None] * 3}
TURNS = ["User: I live in Oslo.\nAssistant: Nice.", "User: I moved."]


class Frame:
    """A table as polars has it."""

    def __init__(self, columns):
        self.columns, self._columns = list(columns), columns

    def __getitem__(self, name):
        return self._columns[name]

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return len(next(iter(self._columns.values())))


def structured(columns):
    return np.rec.fromarrays([np.array(values, dtype=object) for values in columns.values()], names=list(columns))


TABLES = {"pandas": pd.DataFrame, "pyarrow": pa.table, "columns": Frame, "numpy": structured}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_a_table_of_messages_gives_its_turns(make):
    assert as_turns(make(CHAT)) == TURNS
    assert as_streams(make(CHAT)).streams == [TURNS]


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_a_table_of_texts_gives_one_turn_a_row(make):
    assert as_turns(make({"id": [1, 2], "text": ["a", "b"]})) == ["a", "b"]


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_a_table_of_anything_else_is_refused_with_its_columns(make):
    with pytest.raises(InputTypeError, match="with the columns 'when', 'what' was given"):
        as_turns(make({"when": [1, 2], "what": ["a", "b"]}))


def test_a_series_is_read_by_position():
    assert as_turns(pd.Series(["first", "second"], index=[1, 0])) == ["first", "second"]
