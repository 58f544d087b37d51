"""Documents and chat logs to rows of training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evoemb._errors import InputError
from evoemb.data.turns import as_turns, turn_of_each


def document_rows(
    documents: Iterable[Mapping[str, Any]], *, chunk_words: int = 100, overlap_words: int = 0
) -> Iterator[dict[str, Any]]:
    """Cut documents into passages and mark those that hold the answer.

    Args:
        documents: Each ``{"text": ..., "questions": [{"query": ..., "answer": ..., "start": ...}, ...]}``. ``start`` is
            the answer's first character in the text; without it, every place where the answer stands is evidence.
        chunk_words: Words a passage, ended at the next end of a sentence where there is one soon.
        overlap_words: Words at the end of a passage that the next one repeats.

    Yields:
        Rows with ``turns`` (passages), ``query``, ``evidence`` and ``answer`` lists. Questions whose answer stands
        nowhere are left out, and so are documents without any.

    Raises:
        InputError: ``overlap_words`` is not less than ``chunk_words``, or a document has no text.
    """
    if not 0 <= overlap_words < chunk_words:
        raise InputError(
            f"chunk_words={chunk_words} and overlap_words={overlap_words} were given. The overlap must be less."
        )
    for number, document in enumerate(documents):
        text = document.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Document {number} has no text. Give every document a non-empty 'text'.")
        spans = _passages(text, chunk_words, overlap_words)
        found: list[tuple[str, list[int], str]] = []
        for question in document.get("questions") or []:
            answer = question.get("answer") or ""
            places = _places(text, answer, question.get("start"))
            evidence = [i for i, (start, stop) in enumerate(spans) if any(start < b and a < stop for a, b in places)]
            if evidence:
                found.append((question["query"], evidence, answer))
        if found:
            queries, evidences, answers = (list(column) for column in zip(*found, strict=True))
            turns = [text[start:stop] for start, stop in spans]
            yield {"turns": turns, "query": queries, "evidence": evidences, "answer": answers}


def chat_log_rows(
    conversations: Iterable[Mapping[str, Any]], *, max_turns: int | None = None
) -> Iterator[dict[str, Any]]:
    """Turn chat logs with marked questions into rows.

    Args:
        conversations: Each ``{"messages": [...], "questions": [{"query", "message_ids" or "evidence", "asked_at"?,
            "answer"?}, ...]}``. ``message_ids`` are indices of messages, ``evidence`` indices of turns; a user message
            and the assistant's reply are one turn.
        max_turns: Longer conversations keep the newest turns before each question, one row a question.

    Yields:
        Rows with ``turns``, ``query``, ``evidence``, ``asked_at`` and ``answer``.

    Raises:
        InputError: A message index is out of range.
    """
    for number, conversation in enumerate(conversations):
        messages = list(conversation["messages"])
        turns, turn_of = as_turns(messages), turn_of_each(messages)
        for question in conversation.get("questions") or []:
            if "message_ids" in question:
                wrong = [index for index in question["message_ids"] if not 0 <= index < len(messages)]
                if wrong:
                    raise InputError(
                        f"Conversation {number} marks message {wrong[0]}, but it has the messages 0 to "
                        f"{len(messages) - 1}. Count messages from 0."
                    )
                evidence = sorted({turn_of[index] for index in question["message_ids"]})
            else:
                evidence = list(question.get("evidence") or ())
            stop = question.get("asked_at")
            stop = len(turns) if stop is None else stop
            where = f"Conversation {number}, question {str(question.get('query'))!r:.60}"
            if not isinstance(stop, int) or not 1 <= stop <= len(turns):
                raise InputError(f"{where}: asked_at is {stop!r}, but the conversation has {len(turns)} turns.")
            wrong = [index for index in evidence if not isinstance(index, int) or not 0 <= index < stop]
            if wrong:
                raise InputError(
                    f"{where}: {wrong[0]!r} is marked as evidence, but the turns before it are 0 to {stop - 1}. "
                    "Count turns from 0, or leave the mark out."
                )
            start = max(0, stop - max_turns) if max_turns else 0
            yield {
                "turns": turns[start:stop],
                "query": question["query"],
                "evidence": [index - start for index in evidence if index >= start],
                "asked_at": stop - start,
                "answer": question.get("answer"),
            }


def _passages(text: str, chunk_words: int, overlap_words: int) -> list[tuple[int, int]]:
    """Return character spans of passages that together cover all words."""
    words: list[tuple[int, int]] = []
    start = None
    for index, char in enumerate(f"{text} "):
        if char.isspace() and start is not None:
            words.append((start, index))
            start = None
        elif not char.isspace() and start is None:
            start = index
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(words):
        last = min(first + chunk_words, len(words))
        # A sentence that ends within another fifth of the passage is not cut.
        for ahead in range(last, min(last + chunk_words // 5 + 1, len(words) + 1)):
            if text[words[ahead - 1][0] : words[ahead - 1][1]].endswith((".", "!", "?", "\u3002")):
                last = ahead
                break
        spans.append((words[first][0], words[last - 1][1]))
        if last == len(words):
            break
        first = max(last - overlap_words, first + 1)
    return spans


def _places(text: str, answer: str, start: int | None) -> list[tuple[int, int]]:
    """Return the character spans where an answer stands."""
    if not answer:
        return []
    if start is not None:
        return [(start, start + len(answer))]
    places: list[tuple[int, int]] = []
    at = text.find(answer)
    while at >= 0:
        places.append((at, at + len(answer)))
        at = text.find(answer, at + 1)
    return places
