"""Dialogues in token ids: turns and query, in the ways that the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoemb._errors import InputError
from evoemb.cuts import CutTexts
from evoemb.data.messages import ASSISTANT, TOOL, ChatMessage, as_message, is_message
from evoemb.data.turns import as_turns, items_of_stream, message_saying, pairs_by_position
from evoemb.modules.dialogue_format import DialogueConfig, split_chat
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.tokenizing import token_ids
from evoemb.state.memory import StreamMemory
from evoemb.streaming.rows import TokenIds

Messages = Sequence[Mapping[str, Any]] | Sequence[ChatMessage]


@dataclass(frozen=True, slots=True)
class DialogueIds:
    """A dialogue in token ids.

    Args:
        turns: Texts of the turns before the query.
        query: Text of the query.
        written: What each history turn, or each chat segment, leaves in memory.
        encoded: What is embedded for each history turn.
        asked: What is embedded for the query.
    """

    turns: list[str]
    query: str
    written: list[TokenIds]
    encoded: list[TokenIds]
    asked: TokenIds

    @property
    def is_aligned(self) -> bool:
        """Whether every turn has its own part of the memory, so that it can see the memory before it."""
        return len(self.written) == len(self.encoded)


def taken_up_messages(
    messages: Messages, memory: StreamMemory, config: DialogueConfig
) -> tuple[Messages, StreamMemory]:
    """Put the turn that waits in ``memory`` before a dialogue that begins with its answer.

    It is the rule of :func:`evoemb.encoding.taken_up`, for messages.

    Args:
        messages: The last one is the query; by itself it is no answer.

    Returns:
        The dialogue to read, and the memory to read it on: for such an answer, the one before the turn it belongs to.

    Raises:
        InputError: A message is malformed.
    """
    waiting = memory.unanswered
    if waiting is None or is_message(messages) or len(given := items_of_stream(messages)) < 2:
        return messages, memory
    if as_message(given[0], "Message 0", any_role=True).role not in (ASSISTANT, TOOL):
        return messages, memory
    free = config.pairing == "position"  # roles have no meaning there, nor has that of a query
    read = [
        as_message(message, f"Message {index}", any_role=free or index == len(given) - 1)
        for index, message in enumerate(given)
    ]
    return [message_saying(waiting.said), *read], waiting.before


def split_messages(messages: Messages, config: DialogueConfig) -> tuple[list[str], str]:
    """Return the texts of the turns before the last message, and the last message's content.

    Raises:
        InputError: There is no message, or one is malformed.
    """
    asked: object = messages
    given = [] if isinstance(asked, str) or is_message(asked) else items_of_stream(asked)
    if not given:
        raise InputError(
            'A dialogue is a list of {"role", "content"} messages with at least one, the query. For a stream of '
            "strings, pass the query too: retrieve(stream, query)."
        )
    history, query = given[:-1], _last_content(given).strip()
    if not history:
        return [], query
    return (pairs_by_position(history) if config.pairing == "position" else as_turns(history)), query


def dialogue_ids(
    transformer: StatefulTransformer,
    messages: Messages,
    *,
    before_turn: str | None = None,
    before_query: str | None = None,
) -> DialogueIds:
    """Tokenize a dialogue for retrieval, in the ways that the model was trained with.

    Args:
        messages: The last one is the query.
        before_turn: Prompt of the turns; not used with the chat format, whose turns have none.
        before_query: Prompt of the query; the chat format has its own, in token ids.

    Raises:
        InputError: A message is malformed, or the pairs do not match the chat and the model has no way for it.

    Source: upstream model, ``generate_retrieve_idx``, for the chat format.
    """
    config = transformer.dialogue.config
    turns, query = split_messages(messages, config)
    if config.memory_format == "plain" or config.token_ids is None:
        written = transformer.token_ids(turns, prompt=before_turn) if turns else []
        asked = transformer.token_ids([query], prompt=before_query)[0]
        cut = CutTexts(transformer)
        cut.check(turns, written, lambda turn: f"Turn {turn}", before_turn)
        cut.check([query], [asked], lambda _: "The query", before_query)
        return DialogueIds(turns, query, list(written), list(written), asked)
    ids = config.token_ids
    texts = _plain_ids(transformer, [*turns, query])
    segments = split_chat(chat_ids(transformer, messages), im_end=ids.im_end, user=ids.user)
    found = DialogueIds(
        turns,
        query,
        list(segments[:-1]),
        [[*text, ids.end_of_text] for text in texts[:-1]],
        [*ids.query_prefix, *texts[-1], ids.end_of_text],
    )
    if not found.is_aligned and not config.final_memory_on_mismatch:
        raise InputError(
            f"The messages pair into {len(turns)} turns, but the chat template renders {len(segments) - 1} before the "
            "query. Let user and assistant alternate."
        )
    return found


def candidate_ids(transformer: StatefulTransformer, query: str, documents: Sequence[str]) -> DialogueIds:
    """Tokenize a query and its candidates, in order, as a dialogue whose user turns are the candidates.

    The result goes to memory and encoder as for retrieval: ``CandidateStream(ids.asked, ids.encoded, ids.written)``.
    Only for models with the chat format; a new model reads candidates as plain texts.

    Raises:
        InputError: A candidate holds the markers of a chat.

    Source: upstream model client, ``rerank``.
    """
    messages: list[dict[str, str]] = []
    for document in documents:
        messages += [{"role": "user", "content": document}, {"role": "assistant", "content": ""}]
    found = dialogue_ids(transformer, [*messages, {"role": "user", "content": query}])
    if not found.is_aligned:
        raise InputError(
            f"{len(documents)} candidates render as {len(found.written)} chat turns: one of them holds the markers of "
            "a chat. Remove the markers from the candidates."
        )
    return found


def chat_ids(transformer: StatefulTransformer, messages: Messages, *, generation_prompt: bool = True) -> list[int]:
    """Render messages with the tokenizer's chat template and tokenize them.

    Raises:
        InputError: The tokenizer has no chat template.
    """
    tokenizer: Any = transformer.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "The tokenizer has no chat template, so messages cannot be rendered as a chat. Load a model whose "
            "tokenizer has one, or set model.tokenizer.chat_template."
        )
    given = enumerate(items_of_stream(messages))
    read = [as_message(message, f"Message {index}", any_role=True) for index, message in given]
    plain = [{"role": message.role, "content": message.content} for message in read]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=generation_prompt)
    return token_ids(tokenizer, [text])[0]


def last_message_ids(transformer: StatefulTransformer, messages: Messages) -> list[int]:
    """Return the token ids that the base model answers to: the chat's last segment, or the last message alone."""
    ids = transformer.dialogue.config.token_ids
    if ids is not None:
        return split_chat(chat_ids(transformer, messages), im_end=ids.im_end, user=ids.user)[-1]
    if getattr(transformer.tokenizer, "chat_template", None):
        return chat_ids(transformer, items_of_stream(messages)[-1:])
    return _plain_ids(transformer, [f"User: {_last_content(messages)}\nAssistant:"])[0]


def _plain_ids(transformer: StatefulTransformer, texts: list[str]) -> list[list[int]]:
    return token_ids(transformer.tokenizer, texts)


def _last_content(messages: Messages) -> str:
    """Return the content of the last message, whatever its role."""
    given = items_of_stream(messages)
    return as_message(given[-1], f"Message {len(given) - 1}", any_role=True).content


def with_excerpts(messages: Messages, turns: Sequence[str]) -> list[dict[str, str]]:
    """Return the one message of plain RAG: retrieved turns in their order, then the question."""
    question = _last_content(messages)
    if not turns:
        return [{"role": "user", "content": question}]
    excerpts = "\n\n".join(turns)
    return [{"role": "user", "content": f"Excerpts from earlier in this conversation:\n\n{excerpts}\n\n{question}"}]
