"""What a stream is: strings or chat messages in, the texts of its turns out, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from evoemb._errors import InputError, InputTypeError
from evoemb.data.messages import ASSISTANT, SYSTEM, USER, ChatMessage, as_message, check_unicode, is_message
from evoemb.data.parts import kind_of
from evoemb.data.tables import is_table, items_of

Message: TypeAlias = Mapping[str, Any]
"""A chat message: ``{"role", "content"}`` and, if wanted, ``"name"``; `as_message` says what else is read."""

Stream: TypeAlias = Sequence[str] | Sequence[Message]
"""Turns in order: one string a turn, or messages that pair into turns. Other sized iterables of these work too."""

_STREAM_FORMS = 'a list of strings (one a turn) or a list of {"role": ..., "content": ...} messages'


class TurnText(NamedTuple):
    """The text of a turn, and how the turn may hang together with what comes before and after it.

    Args:
        text: What the model reads.
        said: The lines of its messages that say something; None for a turn given as a string.
        is_unanswered: Whether it is made of messages and its answer may still come.
        is_continuation: Whether its first message begins no turn: it belongs to an unanswered turn before it.
    """

    text: str
    said: str | None = None
    is_unanswered: bool = False
    is_continuation: bool = False

    def after(self, said: str | None) -> TurnText:
        """Return the turn that this one makes with the unanswered turn before it; itself if it continues none.

        Args:
            said: What that turn says so far; None if there is none.
        """
        if said is None or self.said is None or not self.is_continuation:
            return self
        lines = "\n".join(one for one in (said, self.said) if one)
        return TurnText(lines or self.text, lines, self.is_unanswered)


@dataclass(frozen=True, slots=True)
class ParsedStreams:
    """The streams found in an input, and in which form they were given, so that results can have the same form.

    ``turns`` holds the turns of every stream. ``nested`` is True if several streams were given (a list of
    streams, even of one). ``single`` is True if one bare string or one bare message was given. Never both.
    """

    turns: list[list[TurnText]]
    nested: bool
    single: bool

    @property
    def streams(self) -> list[list[str]]:
        """The turn texts of every stream."""
        return [[turn.text for turn in turns] for turns in self.turns]


def as_turns(stream: Stream) -> list[str]:
    """The turn texts of one stream, in order.

    Strings are turns as they are; the empty string is a turn. Messages pair into turns by role: a user message and
    the answer behind it are one turn, with what tools are asked and return in between. A system message is a turn of
    its own, and so is a user message that another one follows. A speaker's name stands in place of the role.

    Args:
        stream: Strings, or messages as `as_message` reads them; a list, tuple, array, column or table (anything
            iterable with a length; of a table the columns that hold them).

    Returns:
        One text a turn, at least one.

    Raises:
        InputTypeError: Not a stream (None, a number, bytes, a bare string or message), strings mixed with messages,
            or content that cannot be read.
        InputError: An empty stream, a message without "role" or "content", or an unknown role.

    Source: upstream joins a turn's two messages in this wording; pairing by role is evoemb's own
    (`pairs_by_position` pairs as upstream does).
    """
    return [turn.text for turn in read_turns(stream)]


def read_turns(stream: Stream) -> list[TurnText]:
    """The turns of one stream, as `as_turns`, with how the first and the last hang together with other pieces of it."""
    items = items_of_stream(stream)
    if not items:
        raise InputError("This stream is empty. A stream needs at least one turn: pass one, or skip the call.")
    if is_message(items[0]):
        return _pair_by_role([as_message(item, f"Message {index}") for index, item in enumerate(items)])
    return [TurnText(_checked_text(item, index)) for index, item in enumerate(items)]


def as_streams(inputs: str | Message | Stream | Sequence[Stream]) -> ParsedStreams:
    """The streams in an input that may be one text, one message, one stream or several streams.

    Args:
        inputs: A string, a message, a stream (see `as_turns`), or a sequence of streams.

    Returns:
        The streams' turns and which of these forms was given.

    Raises:
        InputTypeError: As `as_turns`; also strings or messages beside whole streams in one sequence.
        InputError: As `as_turns`; also an empty sequence, or an empty stream among several (the text says which).
    """
    if isinstance(inputs, str):
        return ParsedStreams([read_turns([inputs])], nested=False, single=True)
    if is_message(inputs):
        return ParsedStreams([read_turns([inputs])], nested=False, single=True)  # type: ignore[arg-type]
    items = items_of_stream(inputs)
    if not items:
        raise InputError(
            f"There is nothing to read in this input: it is empty. Pass {_STREAM_FORMS}, or a list of such lists."
        )
    nested = _is_sequence(items[0])
    for index, item in enumerate(items):
        if _is_sequence(item) is not nested:
            raise InputTypeError(
                f"Element {index} is {kind_of(item)} but element 0 is {kind_of(items[0])}: an input is either one "
                "stream or several. For several, make every element a list (wrap a lone turn in one); for one, pass "
                "its turns flat."
            )
    if not nested:
        return ParsedStreams([read_turns(items)], nested=False, single=False)
    return ParsedStreams([_nth_stream(item, index) for index, item in enumerate(items)], nested=True, single=False)


def pairs_by_position(messages: Sequence[Message]) -> list[str]:
    """The turn texts the released checkpoints' own client forms: messages 2i and 2i+1 make one turn, roles ignored.

    For comparing with those checkpoints only: a dialogue with two user messages in a row is mispaired from there on.
    `as_turns` pairs by role and gives the same texts for messages that alternate and start with the user.

    Args:
        messages: The history; leave the query out. Their roles may be anything.

    Returns:
        ``ceil(len(messages) / 2)`` texts; none for no messages.

    Raises:
        InputTypeError: Not a sequence of messages, or content that cannot be read.
        InputError: A message without "role" or "content".

    Source: upstream model client, ``encode_messages``.
    """
    contents = [
        as_message(item, f"Message {index}", any_role=True).content
        for index, item in enumerate(items_of_stream(messages))
    ]
    turns = [_join(first, second) for first, second in zip(contents[::2], contents[1::2], strict=False)]
    if len(contents) % 2:
        turns.append(f"User: {contents[-1]}")
    return turns


def items_of_stream(stream: object) -> list[Any]:
    """Return the elements of a stream: strings or messages of any make, of a table its rows.

    Raises:
        InputTypeError: It is no stream; the text says why.
    """
    if isinstance(stream, str):
        raise InputTypeError(
            f"A stream is {_STREAM_FORMS}, but a str was given. For a stream of one turn, wrap it in a list."
        )
    if is_message(stream):
        raise InputTypeError(
            f"A stream is {_STREAM_FORMS}, but {kind_of(stream)} was given. For a stream of one message, wrap it in a "
            "list."
        )
    if not is_table(stream) and not _is_sequence(stream):
        raise InputTypeError(f"A stream is {_STREAM_FORMS}, but {kind_of(stream)} was given.{_remedy(stream)}")
    return items_of(stream)


def turn_of_each(messages: Sequence[Message]) -> list[int]:
    """Return the number of the turn that each message goes to, as :func:`as_turns` pairs them."""
    turns: list[TurnText] = []
    numbers: list[int] = []
    for index, item in enumerate(items_of_stream(messages)):
        _add(turns, as_message(item, f"Message {index}"))
        numbers.append(len(turns) - 1)
    return numbers


def message_saying(said: str) -> ChatMessage:
    """Return the message of a user that makes the turn ``said``: what a turn that waits for its answer says so far."""
    label, colon, content = said.partition(": ")
    if not colon:
        return ChatMessage(USER, said)
    return ChatMessage(USER, content, speaker="" if label == USER.capitalize() else label)


def _pair_by_role(messages: Sequence[ChatMessage]) -> list[TurnText]:
    """Join each user message with the answer behind it; what tools say in between belongs to that turn."""
    turns: list[TurnText] = []
    for message in messages:
        _add(turns, message)
    return turns


def _add(turns: list[TurnText], message: ChatMessage) -> None:
    """Add a message to the last turn if it goes on there, or as a turn of its own."""
    new = _turn_of(message)
    if turns and turns[-1].is_unanswered and new.is_continuation:
        before = turns.pop()
        new = new.after(before.said)._replace(is_continuation=before.is_continuation)
    turns.append(new)


def _turn_of(message: ChatMessage) -> TurnText:
    """Return the turn that a message is by itself: a line of text, or only a label where it says nothing.

    Released checkpoints were trained with "User" and "Assistant", so these words are not ours to polish.
    """
    line = f"{message.label}: {message.content}"
    answers = message.role == ASSISTANT and not message.calls_tools
    return TurnText(
        line,
        line if message.content else "",
        is_unanswered=not answers and message.role != SYSTEM,
        is_continuation=message.role not in (USER, SYSTEM),
    )


def _join(first: str, second: str) -> str:
    """One turn's text of two contents, whoever wrote them."""
    return _turn_of(ChatMessage(ASSISTANT, second)).after(_turn_of(ChatMessage(USER, first)).said).text


def _is_sequence(value: object) -> bool:
    """Whether a value can hold turns: it iterates and knows its length. Sets do too, but they lose the order."""
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping | set | frozenset):
        return False
    if is_message(value):  # a (role, text) tuple is one message
        return False
    if getattr(value, "ndim", 1) == 0:  # a 0-d array has __iter__ and __len__ and fails in both
        return False
    return hasattr(value, "__iter__") and hasattr(value, "__len__")


def _nth_stream(stream: Any, index: int) -> list[TurnText]:
    """`read_turns` on one of several streams; an error says which."""
    try:
        return read_turns(stream)
    except InputError as error:
        raise InputError(f"In stream {index} of the several given: {error}") from error
    except InputTypeError as error:
        raise InputTypeError(f"In stream {index} of the several given: {error}") from error


def _checked_text(item: object, index: int) -> str:
    """A turn given as a string; ``str()`` because an array's own str type would surprise a tokenizer."""
    if isinstance(item, str):
        check_unicode(item, f"Turn {index}")
        return str(item)
    if isinstance(item, Mapping):
        raise InputTypeError(
            f"Element {index} is a dict but element 0 is a str: strings and messages are mixed in one stream. "
            "Pass all turns as strings, or all as messages."
        )
    raise InputTypeError(f"Turn {index} is {kind_of(item)}, but a turn is a str or a message.{_remedy(item)}")


def _remedy(value: object) -> str:
    """What to do with a value that is no stream or turn, where there is something to say."""
    if isinstance(value, bytes | bytearray | memoryview):
        return " Decode it to str first."
    if isinstance(value, set | frozenset):
        return " A set has no order, and order is meaning here: pass a list."
    if hasattr(value, "__iter__") and not hasattr(value, "__len__"):
        return " It can be read only once: pass list(...) of it."
    if _is_sequence(value):
        return " For several streams, pass a list in which every element is a stream."
    return " Pass turns as strings; leave out what has no text."
