"""An OpenAI-compatible chat endpoint: answers from it or from the cache, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoemb.evaluation.answers.cache import AnswerCache
from evoemb.evaluation.answers.transport import JsonPost, checked_address


@dataclass(slots=True)
class Usage:
    """What was asked so far: calls that went out, answers from the cache, and tokens as the endpoint counted them."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Count what ``other`` counted too."""
        for name in ("calls", "cached", "prompt_tokens", "completion_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, before: Usage) -> Usage:
        """Return what was asked after ``before`` was noted."""
        return Usage(
            self.calls - before.calls,
            self.cached - before.cached,
            self.prompt_tokens - before.prompt_tokens,
            self.completion_tokens - before.completion_tokens,
        )

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the cost at prices for a million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class ChatEndpoint:
    """Asks a chat model at temperature 0.

    Args:
        base_url: Up to and with ``/v1``. Credentials belong into ``api_key``, never into the address.
        model: Its name there.
        api_key: Sent as a bearer token to this address only; None sends none.
        cache: Folder of answers, by request; None asks every time.
        max_retries: Further tries after a busy or broken answer.
        timeout: Seconds for one answer.
        first_wait: Seconds before the first retry; doubles each time, up to a minute. An endpoint that asks for a pause
            gets it, up to a minute too.

    Raises:
        InputError: ``base_url`` is no http address, or carries a user, a password or a query; or the key is none.
        EvoembError: The extra ``answer`` is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        cache: Path | None = None,
        max_retries: int = 5,
        timeout: float = 120,
        first_wait: float = 1.0,
    ) -> None:
        self.model = model
        self.usage = Usage()
        address = f"{checked_address(base_url)}/chat/completions"
        self._post = JsonPost(address, api_key, max_retries=max_retries, timeout=timeout, first_wait=first_wait)
        self._cache = AnswerCache(cache) if cache is not None else None

    def ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int = 256) -> str:
        """Return the answer to chat messages.

        Raises:
            NoAnswerError: This request failed after all retries: the endpoint was busy, broke off, or sent no answer.
            EvoembError: The endpoint refused what it would refuse for any question: the key, the model, a redirect.
        """
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        kept = self._cache.find(self._post.address, request) if self._cache else None
        if kept is not None:
            self.usage.cached += 1
            return kept
        answer = self._post.send(json.dumps(request).encode(), self._answer)
        if self._cache:
            self._cache.keep(self._post.address, request, answer)
        return answer

    def _answer(self, response: Any) -> str:
        """The words of a response, whose tokens are counted; ValueError if it has none."""
        self.usage.calls += 1
        usage = response.get("usage") if isinstance(response, dict) else None
        if isinstance(usage, dict):
            self.usage.prompt_tokens += _count(usage.get("prompt_tokens"))
            self.usage.completion_tokens += _count(usage.get("completion_tokens"))
        try:
            answer = response["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ValueError("it has no choices[0].message.content") from None
        if answer is not None and not isinstance(answer, str):
            raise ValueError(f"its content is {type(answer).__name__}, not text")
        # Half a surrogate pair, which JSON can carry, could be written to no file.
        return self._post.without_key((answer or "").encode("utf-8", "replace").decode("utf-8"))


def _count(value: object) -> int:
    """Tokens as an endpoint counted them; 0 where it said nothing of use."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
