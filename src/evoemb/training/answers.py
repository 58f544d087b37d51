"""Question and answer as the base model continues them, with the labels of the memory loss."""

from __future__ import annotations

from typing import Any, NamedTuple

_IGNORED = -100


class AnswerTokens(NamedTuple):
    """Token ids ``(T,)``, the labels of the answer (-100 elsewhere), and how many tokens stand before the memory."""

    ids: list[int]
    labels: list[int]
    insert: int


def answer_tokens(tokenizer: Any, query: str, answer: str) -> AnswerTokens:
    """Render a query and its answer with the tokenizer's chat template, or as two lines if it has none.

    The memory stands where the query's own text begins: behind ``<|im_start|>user`` and the newline in ChatML.
    Labelled are the answer's tokens and the token that ends it.

    Source: EvoEmbedding (arXiv 2606.21649), memory loss.
    """
    if getattr(tokenizer, "chat_template", None):
        user = {"role": "user", "content": query}
        start = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        full = tokenizer.apply_chat_template(
            [user, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
        )
        head = full[: full.find(query)] if query in full else ""
        # Some templates treat a finished answer otherwise than an open one (they drop or add a thinking block).
        told = full[len(start) :] if full.startswith(start) else full[full.rfind(answer) :]
        start = full[: len(full) - len(told)]
        ending = told[len(told.rstrip()) :]
        head_ids, start_ids = _ids(tokenizer, head), _ids(tokenizer, start)
        answer_ids, ending_ids = _ids(tokenizer, told.rstrip()), _ids(tokenizer, ending)
    else:
        head_ids, start_ids, ending_ids = [], _ids(tokenizer, f"{query}\n"), []
        answer_ids = _ids(tokenizer, answer)
        if tokenizer.eos_token_id is not None:
            answer_ids = [*answer_ids, tokenizer.eos_token_id]
    ids = [*start_ids, *answer_ids, *ending_ids]
    labels = [*[_IGNORED] * len(start_ids), *answer_ids, *[_IGNORED] * len(ending_ids)]
    return AnswerTokens(ids, labels, len(head_ids))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
