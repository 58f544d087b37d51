"""An OpenAI-compatible chat endpoint: retries, a cache on disk, and what it cost."""

from __future__ import annotations

import hashlib
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoemb._errors import EvoembError, InputError

_RETRIED = (408, 409, 429, 500, 502, 503, 504)


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
        """Give what was asked after ``before`` was noted."""
        return Usage(
            self.calls - before.calls,
            self.cached - before.cached,
            self.prompt_tokens - before.prompt_tokens,
            self.completion_tokens - before.completion_tokens,
        )

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Cost at prices for a million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class ChatEndpoint:
    """Asks a chat model at temperature 0.

    Args:
        base_url: Up to and with ``/v1``. Credentials belong into ``api_key``, never into the address.
        model: Its name there.
        api_key: Sent as a bearer token; None sends none.
        cache: Folder of answers, by request; None asks every time.
        max_retries: Further tries after a busy or broken answer.
        timeout: Seconds for one answer.
        first_wait: Seconds before the first retry; doubles each time.

    Raises:
        InputError: ``base_url`` is no http address.
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
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"base_url={base_url!r} is no address. Give one like https://host/v1.")
        self.model = model
        self.usage = Usage()
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._api_key = api_key
        self._cache = cache
        self._max_retries = max_retries
        self._timeout = timeout
        self._first_wait = first_wait

    def ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int = 256) -> str:
        """Give the answer to chat messages.

        Raises:
            EvoembError: The endpoint refused, or was still busy after all retries, or its answer is none.
        """
        request = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        # The address is part of the key: one name may be another model elsewhere.
        named = json.dumps([self._url, request], sort_keys=True).encode()
        kept = self._cache / f"{hashlib.sha256(named).hexdigest()}.json" if self._cache else None
        if kept is not None and kept.exists():
            self.usage.cached += 1
            return str(json.loads(kept.read_text(encoding="utf-8"))["answer"])
        answer = self._answer(self._send(json.dumps(request).encode()))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            beside = kept.with_suffix(f".{random.getrandbits(32):x}")
            beside.write_text(json.dumps({"request": request, "answer": answer}), encoding="utf-8")
            beside.replace(kept)
        return answer

    def _send(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        wait = self._first_wait
        for left in range(self._max_retries, -1, -1):
            try:
                request = urllib.request.Request(self._url, body, headers)  # http(s), checked above
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    self.usage.calls += 1
                    return json.load(response)
            except urllib.error.HTTPError as error:
                with error:
                    told = error.read(300).decode("utf-8", "replace")
                if error.code not in _RETRIED or not left:
                    raise EvoembError(f"{self._url} answered {error.code}: {told}") from error
                asked = error.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdigit() else wait
            except (OSError, json.JSONDecodeError) as error:
                if not left:
                    raise EvoembError(f"{self._url} gave no answer: {error}") from error
                pause = wait
            time.sleep(pause)
            wait *= 2
        raise EvoembError(f"{self._url} gave no answer.")

    def _answer(self, response: Any) -> str:
        try:
            answer = response["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise EvoembError(f"{self._url} gave no chat answer: {str(response)[:300]}") from error
        usage = response.get("usage") or {}
        self.usage.prompt_tokens += int(usage.get("prompt_tokens", 0))
        self.usage.completion_tokens += int(usage.get("completion_tokens", 0))
        return str(answer or "")
