"""What a stream is: every way to give one, and every way to be told that something is none."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoemb._errors import EvoembError, InputError, InputTypeError
from evoemb.data.turns import as_streams, as_turns, pairs_by_position, read_turns


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


class Column:
    """What a dataset's column is: it iterates and knows its length, and is no registered sequence."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


# --- one stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([user("u"), assistant("a")], ["User: u\nAssistant: a"]),
        ([user(""), assistant("a")], ["Assistant: a"]),
        ([user(""), assistant("")], ["Assistant: "]),
        ([user("u"), assistant("")], ["User: u"]),
        ([user("u")], ["User: u"]),
        ([user("")], ["User: "]),
        ([assistant("a")], ["Assistant: a"]),
        ([assistant("a"), user("u")], ["Assistant: a", "User: u"]),
        ([assistant("a"), assistant("b")], ["Assistant: a", "Assistant: b"]),
        ([user("u"), user("v"), assistant("a")], ["User: u", "User: v\nAssistant: a"]),
        (
            [user("u"), assistant("a"), assistant("b"), user("v"), assistant("c")],
            ["User: u\nAssistant: a", "Assistant: b", "User: v\nAssistant: c"],
        ),
    ],
)
def test_messages_pair_into_turns_by_role(messages: list[Any], turns: list[str]) -> None:
    assert as_turns(messages) == turns


@pytest.mark.parametrize("kind", [list, tuple, deque, np.array, Column])
def test_any_sized_iterable_of_strings_is_a_stream(kind: Any) -> None:
    turns = as_turns(kind(["one", "", "three"]))
    assert turns == ["one", "", "three"]
    assert {type(turn) for turn in turns} == {str}


@pytest.mark.parametrize("kind", [list, tuple, deque, Column])
def test_any_sized_iterable_of_messages_is_a_stream(kind: Any) -> None:
    assert as_turns(kind([user("u"), assistant("a")])) == ["User: u\nAssistant: a"]


def test_a_datasets_column_is_a_stream() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["one", "two"]})
    assert as_turns(table["text"]) == ["one", "two"]


def test_other_keys_of_a_message_are_ignored() -> None:
    assert as_turns([{"role": "user", "content": "u", "id": 7}]) == ["User: u"]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (None, "None was given"),
        (7, "an int was given"),
        (b"text", "a bytes was given. Decode it to str first"),
        ("text", "a str was given. For a stream of one turn, wrap it in a list"),
        (user("u"), "a dict was given. For a stream of one message, wrap it in a list"),
        (("user", "u"), "a tuple was given. For a stream of one message, wrap it in a list"),
        ({"a", "b"}, "A set has no order, and order is meaning here: pass a list"),
        ((turn for turn in ["a"]), "It can be read only once: pass list(...) of it"),
        (np.array("text"), "a ndarray was given"),
        ([1], "Turn 0 is an int, but a turn is a str or a message"),
        (["a", None], "Turn 1 is None"),
        (["a", b"b"], "Turn 1 is a bytes, but a turn is a str or a message. Decode it"),
        ([["a"]], "Turn 0 is a list, but a turn is a str or a message. For several streams, pass a list"),
        (["a", user("u")], "Element 1 is a dict but element 0 is a str: strings and messages are mixed"),
        ([user("u"), "a"], "Element 1 is a str, but messages are expected here: strings and messages are mixed"),
        ([user("u"), 3], "Message 1 is an int, but a message is a dict"),
        (
            [user("u"), user(None)],
            'The content of message 1 is None, but a str or a list of content parts is expected. Pass its text; use ""',
        ),
        ([user(5)], "The content of message 0 is an int, but a str or a list of content parts is expected"),
        ([user([5])], "Message 0: a content part is 5"),
    ],
)
def test_a_wrong_kind_is_told_what_a_stream_is(stream: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=re.escape(message)):
        as_turns(stream)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([], "This stream is empty. A stream needs at least one turn"),
        ([{"content": "u"}], "Message 0 has no \"role\" (its keys: 'content')"),
        ([user("u"), {"role": "assistant"}], "Message 1 has no \"content\" (its keys: 'role')"),
        ([{}], 'Message 0 has no "role" (its keys: none)'),
        ([{"role": "narrator", "content": "s"}], "Message 0 has the role 'narrator'"),
        (
            [user("u"), {"role": "x", "content": "t"}],
            "Leave this message out, name one of these",
        ),
        ([{"role": None, "content": "s"}], "Message 0 has the role None"),
    ],
)
def test_wrong_content_is_told_where_and_what_to_do(stream: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        as_turns(stream)


def test_the_errors_are_also_the_builtin_ones_a_caller_expects() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(InputTypeError, TypeError)
    assert issubclass(InputError, EvoembError)
    assert issubclass(InputTypeError, EvoembError)


# --- one or several streams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "streams", "nested", "single"),
    [
        ("text", [["text"]], False, True),
        ("", [[""]], False, True),
        (user("u"), [["User: u"]], False, True),
        (["a", "b"], [["a", "b"]], False, False),
        (["a"], [["a"]], False, False),
        ([user("u"), assistant("a")], [["User: u\nAssistant: a"]], False, False),
        ([["a", "b"], ["c"]], [["a", "b"], ["c"]], True, False),
        ([["a"]], [["a"]], True, False),
        ((("a",), np.array(["b", "c"])), [["a"], ["b", "c"]], True, False),
        (np.array([["a", "b"], ["c", "d"]]), [["a", "b"], ["c", "d"]], True, False),
        ([[user("u")], ["b"]], [["User: u"], ["b"]], True, False),
        (Column([Column(["a"]), ["b"]]), [["a"], ["b"]], True, False),
    ],
)
def test_the_form_of_an_input_is_recognised(inputs: Any, streams: list[list[str]], nested: bool, single: bool) -> None:
    parsed = as_streams(inputs)
    assert (parsed.streams, parsed.nested, parsed.single) == (streams, nested, single)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ([], InputError, "There is nothing to read in this input: it is empty"),
        ([["a"], []], InputError, "In stream 1 of the several given: This stream is empty"),
        (
            [["a"], [user("u"), {"role": "narrator", "content": "s"}]],
            InputError,
            "In stream 1 of the several given: Message",
        ),
        ([["a"], [1]], InputTypeError, "In stream 1 of the several given: Turn 0 is an int"),
        ([["a"], ["b"], "c"], InputTypeError, "Element 2 is a str but element 0 is a list"),
        (["c", ["a"]], InputTypeError, "Element 1 is a list but element 0 is a str"),
        ([["a"], user("u")], InputTypeError, "Element 1 is a dict but element 0 is a list"),
        ([["a"], None], InputTypeError, "Element 1 is None but element 0 is a list"),
        (["a", user("u")], InputTypeError, "Element 1 is a dict but element 0 is a str"),
        (None, InputTypeError, "None was given"),
        (b"a", InputTypeError, "a bytes was given"),
        ([[["a"]]], InputTypeError, "In stream 0 of the several given: Turn 0 is a list"),
        ({"content": "u"}, InputError, 'Message 0 has no "role"'),
    ],
)
def test_an_unclear_input_is_refused_by_name(inputs: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        as_streams(inputs)


# --- by position ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([], []),
        ([user("a"), user("b")], ["User: a\nAssistant: b"]),
        ([assistant("a"), user("b"), user("c")], ["User: a\nAssistant: b", "User: c"]),
        ([{"role": "system", "content": "s"}, user("u")], ["User: s\nAssistant: u"]),
        ([user(""), assistant("")], ["Assistant: "]),
        ([user(""), assistant("a")], ["Assistant: a"]),
        ([user("u"), assistant("")], ["User: u"]),
        ([assistant("")], ["User: "]),
    ],
)
def test_pairing_by_position_ignores_roles(messages: list[Any], turns: list[str]) -> None:
    assert pairs_by_position(messages) == turns


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        (["a"], InputTypeError, "Element 0 is a str, but messages are expected here"),
        (user("u"), InputTypeError, "a dict was given"),
        ([{"role": "user"}], InputError, 'Message 0 has no "content"'),
        ([user("u"), user(2)], InputTypeError, "The content of message 1 is an int"),
    ],
)
def test_pairing_by_position_checks_its_messages(messages: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        pairs_by_position(messages)


# --- laws -------------------------------------------------------------------------------------------------------------

ROLES = st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=20)


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_strings_are_turns_as_they_are(texts: list[str]) -> None:
    assert as_turns(texts) == texts


@given(ROLES)
def test_pairing_keeps_every_content_in_order(roles: list[str]) -> None:
    messages = [{"role": role, "content": f"<{index}>"} for index, role in enumerate(roles)]
    found = re.findall(r"<(\d+)>", "\n".join(as_turns(messages)))
    assert found == [str(index) for index in range(len(roles))]


@given(ROLES)
def test_a_stream_has_one_turn_less_for_every_answered_user_message(roles: list[str]) -> None:
    answered = sum(pair == ("user", "assistant") for pair in itertools.pairwise(roles))
    turns = as_turns([{"role": role, "content": "text"} for role in roles])
    assert len(turns) == len(roles) - answered
    assert (len(roles) + 1) // 2 <= len(turns) <= len(roles)


@given(ROLES, st.integers(min_value=1, max_value=19))
def test_a_stream_cut_before_a_user_message_has_the_turns_of_the_whole(roles: list[str], cut: int) -> None:
    messages = [{"role": role, "content": str(index)} for index, role in enumerate(roles)]
    if cut < len(roles) and roles[cut] == "user":
        assert as_turns(messages[:cut]) + as_turns(messages[cut:]) == as_turns(messages)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8))
def test_both_pairings_agree_on_an_alternating_dialogue(exchanges: list[tuple[str, str]]) -> None:
    messages = [message for ask, answer in exchanges for message in (user(ask), assistant(answer))]
    assert as_turns(messages) == pairs_by_position(messages)


# --- pieces of a stream -----------------------------------------------------------------------------------------------

CHATS = st.lists(
    st.builds(
        lambda role, content, calls: {"role": role, "content": content} | ({"tool_calls": [{}]} if calls else {}),
        st.sampled_from(["user", "assistant", "system", "tool"]),
        st.sampled_from(["", "a", "b"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(chat=CHATS, data=st.data())
def test_messages_in_pieces_make_the_turns_of_all_at_once(chat: list[Any], data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, max(1, len(chat) - 1)))) | {0, len(chat)}
    turns: list[Any] = []
    for begin, end in itertools.pairwise(sorted(cuts)):
        first, *rest = read_turns(chat[begin:end])
        if turns and turns[-1].is_unanswered and (joined := first.after(turns[-1].said)) is not first:
            turns.pop()
            first = joined
        turns += [first, *rest]
    assert [turn.text for turn in turns] == as_turns(chat)
    assert turns[-1].is_unanswered == read_turns(chat)[-1].is_unanswered
