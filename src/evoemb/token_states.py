"""The tokens of texts and their states, as late interaction compares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evoemb._errors import InputError
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.prompts import prompt_for
from evoemb.ranking import TokenStates

Kind = Literal["query", "document"]


def token_states(
    model: SentenceTransformer, texts: Sequence[str], kind: Kind, *, batch_size: int = 32
) -> list[TokenStates]:
    """Encode texts without a memory and return their tokens' last states, special tokens left out.

    Args:
        model: Starts with a `StatefulTransformer`.
        kind: Which of the model's prompts stands before them.
        batch_size: Texts of one forward.

    Returns:
        ``(T,)`` ids and ``(T, H)`` states of unit length for each text; ``T`` is 0 for a text without tokens.

    Raises:
        InputError: The model starts with another module.
    """
    said = list(dict.fromkeys(text for text in texts if text.strip()))
    prompt = prompt_for(model, kind)
    encode: Any = model.encode  # typed with one overload a combination of arguments
    found: list[Tensor] = encode(
        said, prompt=prompt, output_value="token_embeddings", batch_size=batch_size, show_progress_bar=False
    )
    special = _special_ids(model)
    tokens = {}
    for text, ids, states in zip(said, _all_ids(model, said, prompt), found, strict=True):
        # Where padding stands on the left, it is returned too.
        unit = F.normalize(states[len(states) - len(ids) :].float(), dim=-1).cpu().numpy()
        words = ~np.isin(ids, special)
        tokens[text] = TokenStates(ids[words], unit[words])
    nothing = TokenStates(np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.float32))
    return [tokens.get(text, nothing) for text in texts]


def token_ids(model: SentenceTransformer, texts: Sequence[str], kind: Kind) -> list[NDArray[np.int64]]:
    """Return the ids ``(T,)`` of each text's tokens as :func:`token_states` does, without encoding them."""
    said = list(dict.fromkeys(text for text in texts if text.strip()))
    special = _special_ids(model)
    found = zip(said, _all_ids(model, said, prompt_for(model, kind)), strict=True)
    tokens = {text: ids[~np.isin(ids, special)] for text, ids in found}
    return [tokens.get(text, np.zeros(0, dtype=np.int64)) for text in texts]


def _all_ids(model: SentenceTransformer, texts: list[str], prompt: str | None) -> list[NDArray[np.int64]]:
    """Return the ids of texts that are not empty: of such a text a decoder's tokenizer makes no token at all."""
    transformer = _transformer(model)
    return [np.array(ids, dtype=np.int64) for ids in transformer.token_ids(texts, prompt=prompt)] if texts else []


def _special_ids(model: SentenceTransformer) -> NDArray[np.int64]:
    tokenizer: Any = _transformer(model).tokenizer
    return np.array(tokenizer.all_special_ids, dtype=np.int64)


def _transformer(model: SentenceTransformer) -> StatefulTransformer:
    first = model[0]
    if not isinstance(first, StatefulTransformer):
        raise InputError(
            f"Late scoring compares the tokens of an evoemb model, but this one starts with {type(first).__name__}. "
            "Load it with EvoEmbedding(name), or rank by vectors."
        )
    return first
