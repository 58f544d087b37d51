"""Question and answer as the base model continues them, with the labels of the memory loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from evoemb.modules.tokenizing import token_ids

_IGNORED = -100


class AnswerTokens(NamedTuple):
    """Token ids ``(T,)``, the labels of the answer (-100 elsewhere), and how many tokens stand before the memory."""

    ids: list[int]
    labels: list[int]
    insert: int


def answer_tokens(tokenizer: Any, query: str, answer: str, memory_offset: int = 0) -> AnswerTokens:
    """Render a query as ``generate`` does, with its answer behind it.

    Labelled are the answer's tokens and the token that ends it.

    Args:
        memory_offset: Tokens that stand before the memory.

    Source: EvoEmbedding (arXiv 2606.21649), memory loss.
    """
    if getattr(tokenizer, "chat_template", None):
        start, said, ending = _rendered(tokenizer, query, answer)
        ids = [_ids(tokenizer, part) for part in (start, said, ending)]
    else:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = [_ids(tokenizer, f"User: {query}\nAssistant:"), [*_ids(tokenizer, f" {answer}"), *end], []]
    labels = [*[_IGNORED] * len(ids[0]), *ids[1], *[_IGNORED] * len(ids[2])]
    return AnswerTokens([token for part in ids for token in part], labels, memory_offset)


def answer_of_segment(
    tokenizer: Any, segment: Sequence[int], query: str, answer: str, memory_offset: int
) -> AnswerTokens:
    """Label the answer in the last segment of a rendered chat: what stands behind the generation prompt."""
    start, _, ending = _rendered(tokenizer, query, answer)
    before, behind = len(_ids(tokenizer, start)), len(_ids(tokenizer, ending))
    stop = len(segment) - behind
    labels = [token if before <= place < stop else _IGNORED for place, token in enumerate(segment)]
    return AnswerTokens(list(segment), labels, memory_offset)


def _rendered(tokenizer: Any, query: str, answer: str) -> tuple[str, str, str]:
    """Return question with generation prompt, answer with its end mark, and the white space behind, as chat text."""
    user = {"role": "user", "content": query}
    start = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    messages = [user, {"role": "assistant", "content": answer}]
    full = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    # Some templates open an answer otherwise than they render a finished one (a thinking block more or less).
    rest = full[len(start) :] if full.startswith(start) else full[full.rfind(answer) :]
    said = rest.rstrip()
    return full[: len(full) - len(rest)], said, rest[len(said) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return token_ids(tokenizer, [text])[0] if text else []
