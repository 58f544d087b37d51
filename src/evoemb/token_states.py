"""The token states of texts, as late interaction compares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.prompts import prompt_for
from evoemb.ranking import TokenStates


def token_states(
    model: SentenceTransformer,
    texts: Sequence[str],
    kind: Literal["query", "document"],
    *,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> list[TokenStates]:
    """Encode texts without a memory and return their tokens' last states, special tokens left out.

    Args:
        model: Starts with a `StatefulTransformer`.
        kind: Which of the model's prompts stands before them.

    Returns:
        ``(T,)`` ids and ``(T, H)`` states of unit length for each text; ``T`` is 0 for a text without tokens.
    """
    transformer: StatefulTransformer = model[0]  # type: ignore[assignment]
    tokenizer: Any = transformer.tokenizer
    prompt = prompt_for(model, kind)
    special = np.array(tokenizer.all_special_ids, dtype=np.int64)
    said = [text for text in texts if text.strip()]  # a decoder's tokenizer gives an empty text no token at all
    encode: Any = model.encode  # typed with one overload a combination of arguments
    found: list[Tensor] = encode(
        said,
        prompt=prompt,
        output_value="token_embeddings",
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
    )
    tokens = {}
    for text, ids, states in zip(said, transformer.token_ids(said, prompt=prompt) if said else (), found, strict=True):
        numbers = np.array(ids, dtype=np.int64)
        # Where padding stands on the left, it is returned too.
        unit = F.normalize(states[len(states) - len(numbers) :].float(), dim=-1).cpu().numpy()
        words = ~np.isin(numbers, special)
        tokens[text] = TokenStates(numbers[words], unit[words])
    nothing = TokenStates(np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.float32))
    return [tokens.get(text, nothing) for text in texts]
