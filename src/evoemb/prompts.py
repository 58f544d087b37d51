"""The one rule for the prompt that stands before a turn or a query: sentence-transformers' own."""

from __future__ import annotations

from typing import Any, Literal

_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_for(model: Any, kind: Literal["query", "document"]) -> str | None:
    """Return the prompt that ``encode_query`` or ``encode_document`` puts before a text.

    It is the model's first prompt named "query" for a query, and "document", "passage" or "corpus" for a turn: the
    first name that exists, even with an empty text. Without one it is the model's default prompt, if it has one.

    Args:
        model: Any sentence-transformers model.
        kind: ``"query"`` for what is asked, ``"document"`` for turns and candidates.
    """
    name = next((name for name in _NAMES[kind] if name in model.prompts), None)
    found: str | None = model._resolve_prompt(None, name)
    return found
