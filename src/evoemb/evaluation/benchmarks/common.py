"""What the benchmarks share: checked fields, chat messages to turns, evidence given by message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evoemb._errors import InputError
from evoemb.data.turns import as_turns
from evoemb.evaluation.schema import StreamTurn


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message with what a benchmark knows of it.

    Args:
        role: ``"user"``, ``"assistant"`` or another, which then stands alone.
        content: Its text.
        key: Its name, by which evidence refers to it; None where it has none.
        speaker: Name; empty where there is none.
        time: When; empty where it is not known.
    """

    role: str
    content: str
    key: Any = None
    speaker: str = ""
    time: str = ""


@dataclass(slots=True)
class Turns:
    """Turns made of messages, and which turn each message went to."""

    turns: list[StreamTurn] = field(default_factory=list)
    turn_of: dict[Any, int] = field(default_factory=dict)
    message_ends: list[int] = field(default_factory=list)

    def add(self, messages: Sequence[ChatMessage]) -> None:
        """Add messages; a user's and the assistant's right behind it are one turn, within one call."""
        for group in _grouped(messages):
            chat = [{"role": one.role, "content": one.content} for one in group]
            known = all(one.role in ("user", "assistant") for one in group)
            text = as_turns(chat)[0] if known else f"{group[0].role.capitalize()}: {group[0].content}"
            for one in group:
                if one.key is not None:
                    self.turn_of[one.key] = len(self.turns)
            roles, speakers = ("+".join(getattr(one, name) for one in group) for name in ("role", "speaker"))
            self.turns.append(StreamTurn(text, roles, speakers.strip("+"), group[0].time, tuple(chat)))
            self.message_ends.append((self.message_ends[-1] if self.message_ends else 0) + len(group))

    def evidence(self, keys: Sequence[Any]) -> tuple[int, ...]:
        """The turns of these messages; names that no message has are left out."""
        return tuple(sorted({self.turn_of[key] for key in keys if key in self.turn_of}))


def _grouped(messages: Sequence[ChatMessage]) -> list[list[ChatMessage]]:
    groups: list[list[ChatMessage]] = []
    for message in messages:
        last = groups[-1] if groups else []
        if message.role == "assistant" and len(last) == 1 and last[0].role == "user":
            last.append(message)
        else:
            groups.append([message])
    return groups


def need(value: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field that must be there and of a kind.

    Raises:
        InputError: It is not; the text names ``where`` and the field.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: an object is expected here, but {type(value).__name__} was found.")
    if name not in value:
        raise InputError(f"{where}: there is no {name!r}. Is this file of another benchmark, or of another version?")
    found = value[name]
    if not isinstance(found, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(one.__name__ for one in kinds)
        raise InputError(f"{where}.{name}: {wanted} is expected here, but {type(found).__name__} was found.")
    return found
