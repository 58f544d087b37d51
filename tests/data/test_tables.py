"""A table is read by its columns, never as the names of its columns."""

from __future__ import annotations

import numpy as np
import pytest

from evoemb._errors import InputTypeError
from evoemb.data.turns import as_streams, as_turns
from evoemb.pairs import checked_documents
from evoemb.training.columns import RowError, parse_row
from evoemb.training.datasets import check_rows

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
Dataset = pytest.importorskip("datasets").Dataset

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
def test_a_table_of_what_speakers_said_keeps_their_names_and_roles(make):
    assert as_turns(make({"speaker": ["Mia", "Jo"], "text": ["a", "b"]})) == ["Mia: a", "Jo: b"]
    assert as_turns(make({"name": ["Mia", None], "turn": [1, 2], "text": ["a", "b"]})) == ["Mia: a", "User: b"]
    assert as_turns(make({"role": ["user", "assistant"], "text": ["a", "b"]})) == ["User: a\nAssistant: b"]
    assert checked_documents(make({"name": ["Mia", "Jo"], "text": ["a", "b"]})) == ["a", "b"]


def test_an_empty_cell_of_any_library_is_no_name():
    table = pd.DataFrame({"role": ["user"] * 3, "content": ["a", "b", "c"]})
    table["name"] = pd.array([pd.NA, "Mia", None], dtype="string")
    assert as_turns(table) == ["User: a", "Mia: b", "User: c"]


def test_a_table_without_the_words_of_a_message_names_the_message():
    with pytest.raises(InputTypeError, match="The content of message 1 is None"):
        as_turns(pd.DataFrame({"role": ["user", "user"], "content": ["a", None]}))


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_a_table_of_anything_else_is_refused_with_its_columns(make):
    with pytest.raises(InputTypeError, match="with the columns 'when', 'what' was given"):
        as_turns(make({"when": [1, 2], "what": ["a", "b"]}))


def test_a_series_is_read_by_position():
    assert as_turns(pd.Series(["first", "second"], index=[1, 0])) == ["first", "second"]


def test_a_column_of_pyarrow_is_read_by_its_values():
    assert as_turns(pa.chunked_array([["first"], ["second"]])) == ["first", "second"]


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_candidates_to_rank_are_read_from_the_column_of_texts(make):
    assert checked_documents(make({"id": [1, 2], "text": ["a", "b"]})) == ["a", "b"]
    with pytest.raises(InputTypeError, match="with the columns 'when', 'what' was given"):
        checked_documents(make({"when": [1, 2], "what": ["a", "b"]}))


ROWS = {"turns": [["a", "b"], CHAT["content"]], "query": ["q", "w"], "evidence": [[1], [0]], "answer": ["x", None]}


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table, Frame, Dataset.from_dict])
def test_a_table_of_training_rows_is_read_row_by_row(make):
    good, errors = check_rows(make(ROWS))
    assert errors == []
    assert [example.turns for example in good.values()] == [("a", "b"), tuple(CHAT["content"])]
    assert [example.questions[0].answer for example in good.values()] == ["x", None]


def test_the_turns_of_a_training_row_may_be_a_table():
    example = parse_row({"turns": pd.DataFrame(CHAT), "query": "q", "evidence": [1]})
    assert example.turns == tuple(TURNS)
    assert [message["role"] for message in example.history] == ["user", "assistant", "user"]
    with pytest.raises(RowError, match="field 'turns': a table of other columns was given"):
        parse_row({"turns": pd.DataFrame({"what": ["a"]}), "query": "q", "evidence": [0]})


def test_messages_of_every_make_are_read_in_training_rows():
    example = parse_row({"turns": [("human", "a"), ("ai", "b")], "query": "q", "evidence": [0]})
    assert example.turns == ("User: a\nAssistant: b",)
    assert example.history == ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
