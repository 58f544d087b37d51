"""What a model does with chats: embeddings of their messages, and their token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from evoemb.chat.ids import DialogueIds, Messages, dialogue_ids, split_messages, taken_up_messages
from evoemb.encoding import converted
from evoemb.prompts import prompt_for
from evoemb.state import MemoryState
from evoemb.state.handle import one_stream
from evoemb.state.memory import StreamMemory
from evoemb.stream_encoder import StreamEncoder
from evoemb.streaming.rows import TokenIds

_KINDS: tuple[Literal["document", "query"], ...] = ("document", "query")


class ChatModel(StreamEncoder):
    """A stream encoder that reads chats in the way it was trained for; arguments as :class:`evoemb.EvoEmbedding`."""

    @overload
    def encode_messages(
        self,
        messages: Messages,
        *,
        native: bool = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
    ) -> NDArray[Any]: ...

    @overload
    def encode_messages(
        self,
        messages: Messages,
        *,
        native: bool = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
    ) -> Tensor: ...

    @overload
    def encode_messages(
        self,
        messages: Messages,
        *,
        native: bool = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
    ) -> NDArray[Any] | Tensor | list[Tensor]: ...

    def encode_messages(
        self,
        messages: Messages,
        *,
        native: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Encode the turns of a dialogue and its last message, all against the memory of the whole history.

        A released checkpoint pairs messages by position and encodes the last one without its query prompt, as it was
        trained; any other model pairs by role and uses its prompts.

        Args:
            messages: ``{"role", "content"}`` messages; the last one is the query and stays out of the memory.
            native: Use the plain embedding model inside a released checkpoint, which knows no memory.

        Returns:
            ``(turns + 1, D)`` of unit length, the query last; an array, or a tensor as ``convert_to_tensor`` and
            ``convert_to_numpy`` say.

        Raises:
            InputError: There is no message, or one is malformed.
            CheckpointError: ``native`` is asked of a model that holds no such model.

        Source: upstream model client, ``encode_messages``.
        """
        config = self._transformer.dialogue.config
        turns, query = split_messages(messages, config)
        common: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if native:
            found = self._native(self._transformer.token_ids([*turns, query]), batch_size)
        else:
            plain = config.memory_format == "plain"
            before_turn, before_query = ((prompt_for(self, kind) or "") if plain else "" for kind in _KINDS)
            encode: Any = partial(self.encode, state=self.new_state(), convert_to_tensor=True, **common)
            parts = [encode(turns, prompt=before_turn, stateful=True, memory="final")] if turns else []
            found = torch.cat([*parts, encode([query], prompt=before_query)])
        return converted(found, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)

    @overload
    def encode_native(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
    ) -> NDArray[Any]: ...

    @overload
    def encode_native(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
    ) -> Tensor: ...

    @overload
    def encode_native(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
    ) -> NDArray[Any] | Tensor | list[Tensor]: ...

    def encode_native(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 32,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Encode texts with the plain embedding model inside a released checkpoint, which knows no memory.

        Its weights are read on the first call.

        Returns:
            ``(n, D)`` of unit length, ``(D,)`` for one string; an array, or a tensor as the last arguments say.

        Raises:
            CheckpointError: The model holds no such model.
        """
        ids = self._transformer.token_ids([texts] if isinstance(texts, str) else list(texts))
        found = converted(self._native(ids, batch_size), to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return found[0] if isinstance(texts, str) else found

    def _native(self, ids: Sequence[TokenIds], batch_size: int) -> Tensor:
        """Embed texts ``(n, D)`` with the native model: their ids and the end id, which is not doubled."""
        return self._transformer.dialogue.native_embedder().encode(ids, batch_size=batch_size)

    def _dialogue_ids(self, messages: Messages) -> DialogueIds:
        before = {"before_turn": prompt_for(self, "document"), "before_query": prompt_for(self, "query")}
        return dialogue_ids(self._transformer, messages, **before)

    def _one_stream(self, state: MemoryState | None) -> MemoryState:
        """Return a state of one stream that may be advanced without the caller's changing."""
        return self.new_state() if state is None else one_stream(state, self.state_spec)[0]

    def _taken_up(self, messages: Messages, state: MemoryState | None) -> tuple[Messages, StreamMemory]:
        """Return a dialogue with the turn whose answer it begins with, and the memory that it continues."""
        memory = self._one_stream(state).snapshot()[0].to(self.device, self.dtype)
        return taken_up_messages(messages, memory, self._transformer.dialogue.config)
