"""How dialogues become token ids: the choices that released checkpoints were trained with, and pure token splitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from evoemb._errors import InputError

MemoryFormat = Literal["plain", "chat"]
Pairing = Literal["role", "position"]

UPSTREAM_PREFIX = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"  # trained with it
)
# A segment of a chat opens with these tokens: start marker, role, newline.
CHAT_HEADER_TOKENS = 3


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Token ids with a meaning of their own in dialogues.

    Args:
        end_of_text: Ends every text that is encoded.
        im_end: Ends a chat message.
        user: The role name of a user message.
        query_prefix: Stands before a query in retrieval and reranking; empty for none.

    Source: the defaults are Qwen3's, which the paper's code holds as numbers for every backbone.
    """

    end_of_text: int = 151643
    im_end: int = 151645
    user: int = 872
    query_prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no token id."""
        given: tuple[object, ...] = (self.end_of_text, self.im_end, self.user, *self.query_prefix)
        if not all(isinstance(value, int) and value >= 0 for value in given):
            raise InputError(
                f"token_ids {asdict(self)} were given. Use whole numbers of 0 or more; query_prefix is a list of them."
            )

    def updated(self, given: Mapping[str, Any] | None) -> TokenIds:
        """Return these ids with some replaced.

        Raises:
            InputError: A name is unknown.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(set(given or {}) - set(known)):
            raise InputError(f"token_ids names {', '.join(unknown)}. Known names are {', '.join(known)}.")
        values = {**asdict(self), **(given or {})}
        return TokenIds(**{**values, "query_prefix": tuple(values["query_prefix"])})


@dataclass(frozen=True, slots=True)
class DialogueConfig:
    """How a model reads dialogues. A new model gets these defaults; a released checkpoint keeps its own ways.

    Args:
        memory_format: What ``retrieve(messages)`` writes to memory: ``"plain"``, the texts of the turns as ``encode``
            writes them; ``"chat"``, the messages as the chat template renders them.
        pairing: How messages become turns: ``"role"``, a user message and the answer behind it; ``"position"``,
            messages 2i and 2i+1, whatever their roles.
        final_memory_on_mismatch: With ``"chat"``, what happens if pairing and template disagree on the number of turns:
            True encodes every turn on the final memory, False refuses the dialogue.
        memory_offset: Tokens of the last message that stand before the memory in ``generate``.
        temperature: Divides the cosine in the contrastive loss.
        token_ids: Ids that the chat format needs; None where it is not used.
    """

    memory_format: MemoryFormat = "plain"
    pairing: Pairing = "role"
    final_memory_on_mismatch: bool = False
    memory_offset: int = 0
    temperature: float = 0.1
    token_ids: TokenIds | None = None

    def __post_init__(self) -> None:
        """Refuse unknown formats, and a chat format without its token ids."""
        if self.memory_format not in ("plain", "chat") or self.pairing not in ("role", "position"):
            raise InputError(
                f"memory_format={self.memory_format!r} and pairing={self.pairing!r} were given. Use plain or chat, and "
                "role or position."
            )
        if self.memory_format == "chat" and self.token_ids is None:
            raise InputError('memory_format="chat" needs token_ids. Give them, or use "plain".')

    @classmethod
    def of_released_checkpoints(cls, token_ids: TokenIds) -> DialogueConfig:
        """Return the ways that the released checkpoints were trained with."""
        return cls("chat", "position", True, CHAT_HEADER_TOKENS, 0.1, token_ids)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain values that :meth:`from_dict` reads."""
        values = asdict(self)
        if self.token_ids is not None:
            values["token_ids"]["query_prefix"] = list(self.token_ids.query_prefix)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DialogueConfig:
        """Read what :meth:`to_dict` gave.

        Raises:
            InputError: A name is unknown.
        """
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise InputError(
                f"The dialogue configuration names {', '.join(unknown)}, which this version does not know. "
                "Upgrade evoemb."
            )
        ids = values.get("token_ids")
        return cls(**{**values, "token_ids": None if ids is None else TokenIds().updated(ids)})


def split_points(input_ids: Sequence[int], *, im_end: int, user: int) -> list[int]:
    """Cut a rendered chat behind every message that a user message, or the end, follows.

    Args:
        input_ids: Token ids of the whole chat in ChatML: ``start, role, newline, ..., im_end, newline`` a message.

    Returns:
        Positions ``[0, ..., n]``. A segment is a user message and everything up to the next one; messages before the
        first user message are a segment of their own. A generation prompt stays with the last user message.

    Source: upstream model, ``generate_retrieve_idx``.
    """
    length = len(input_ids)
    cuts = [0]
    for index, token in enumerate(input_ids):
        if token != im_end:
            continue
        before_user = index + 3 < length and input_ids[index + 3] == user
        if index == length - 2 or before_user:
            cuts.append(index + 2)
    if cuts[-1] != length:
        cuts.append(length)
    return cuts


def split_chat(input_ids: Sequence[int], *, im_end: int, user: int, whole: bool = False) -> list[list[int]]:
    """Return the segments of a rendered chat; see :func:`split_points`.

    Args:
        whole: Refuse a chat that does not end with ``im_end`` and a newline, as training sequences must.

    Raises:
        InputError: The chat is empty, or with ``whole`` it is cut off.
    """
    if not input_ids:
        raise InputError("The chat has no tokens. Pass at least one message.")
    if whole and (len(input_ids) < 2 or input_ids[-2] != im_end):
        raise InputError(
            f"The sequence ends with the ids {list(input_ids[-3:])}, expected {im_end} (end of a message) and a "
            "newline. Render the whole dialogue with its answer, without a generation prompt."
        )
    cuts = split_points(input_ids, im_end=im_end, user=user)
    return [list(input_ids[start:stop]) for start, stop in pairwise(cuts)]
