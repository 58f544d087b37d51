"""JSON over HTTP: an address that is checked, a key that goes to it alone, and a bounded number of tries."""

from __future__ import annotations

import importlib
import json
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from evoemb._errors import EvoembError, InputError

if TYPE_CHECKING:
    import httpx2

MAX_WAIT_SECONDS = 60.0
"""The longest pause before a further try, whatever an endpoint asks for."""

MAX_BODY_BYTES = 16 * 2**20
"""Bytes of a response, unpacked, that are read."""

_BUSY = (408, 409, 425, 429)  # asked again, as is every status from 500 on
_OF_ALL_QUESTIONS = (401, 402, 404, 405, 407)  # another question would be answered alike
_SHOWN_CHARACTERS = 300
_SECRET_CHARACTERS = 16

Found = TypeVar("Found")


class NoAnswerError(EvoembError):
    """One request got no answer; the next one may get one."""


class JsonPost:
    """Posts JSON to one address.

    Args:
        address: As `checked_address` returns it, with more of a path.
        api_key: Sent as a bearer token, to this address only; None sends none.
        max_retries: Further tries after a busy or broken answer.
        timeout: Seconds for one answer; one that comes drop by drop may take up to twice as long.
        first_wait: Seconds before the first retry; doubles each time up to `MAX_WAIT_SECONDS`.

    Raises:
        InputError: The key cannot be used, or a number is out of range. The key stands in no message.
        EvoembError: httpx2 is not installed, or the proxy that the environment names cannot be used.
    """

    def __init__(
        self, address: str, api_key: str | None, *, max_retries: int, timeout: float, first_wait: float
    ) -> None:
        if max_retries < 0 or not 0 < timeout < float("inf") or not 0 <= first_wait < float("inf"):
            raise InputError(
                f"max_retries={max_retries}, timeout={timeout}, first_wait={first_wait} were given. Expected 0 or more "
                "tries, more than 0 seconds, and a wait of 0 seconds or more."
            )
        self._httpx = _httpx()
        self.address = address
        self._key = _checked_key(api_key)
        self._max_retries = max_retries
        self._timeout = timeout
        self._first_wait = first_wait
        try:
            self._client = self._httpx.Client(
                timeout=timeout,
                follow_redirects=False,  # a redirect's target is not who the key is for
                # A connection for each request: nothing is left open, and none is used that the other side has closed.
                limits=self._httpx.Limits(max_keepalive_connections=0),
            )
        except (ValueError, ImportError):  # the address of a proxy may hold a password: not shown, and no cause either
            raise EvoembError(
                "The proxy that the environment names cannot be used. Correct HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, "
                "or unset them."
            ) from None

    def send(self, body: bytes, read: Callable[[Any], Found]) -> Found:
        """Post ``body`` and return what ``read`` makes of the JSON that comes back.

        Args:
            read: Takes the parsed JSON; raises ValueError for one that is no answer, which is then asked for again.

        Raises:
            NoAnswerError: This request failed, after all tries.
            EvoembError: The endpoint refused in a way that every other request would meet too.
        """
        wait, left = self._first_wait, self._max_retries
        while True:
            try:
                return self._try(body, read)
            except _TryAgainError as error:
                if not left:
                    raise NoAnswerError(f"{self.address} {self.public(error.reason)}") from None
                pause = min(wait if error.wait is None else error.wait, MAX_WAIT_SECONDS)
            time.sleep(pause)
            wait, left = wait * 2, left - 1

    def public(self, text: str) -> str:
        """Return a text from elsewhere as it may be shown: without the key, on one line, and short."""
        if self._key:
            text = text.replace(self._key, "***")
        shown = "".join(char if char.isprintable() else " " for char in text[:_SHOWN_CHARACTERS])
        return shown.strip()

    def without_key(self, answer: str) -> str:
        """Return an answer without the key, if that is long enough to be a secret and no common word."""
        return answer.replace(self._key, "***") if self._key and len(self._key) >= _SECRET_CHARACTERS else answer

    def _try(self, body: bytes, read: Callable[[Any], Found]) -> Found:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        deadline = time.monotonic() + self._timeout
        try:
            with self._client.stream("POST", self.address, content=body, headers=headers) as response:
                received = self._body(response, deadline)
        except self._httpx.TimeoutException:
            raise _TryAgainError(f"gave no answer within {self._timeout:g} seconds.") from None
        # Not all are HTTPErrors: a broken stream is none, nor what the look-up of a strange host name raises.
        except (self._httpx.HTTPError, self._httpx.InvalidURL, self._httpx.StreamError, OSError, UnicodeError) as error:
            raise _TryAgainError(f"gave no answer: {type(error).__name__}, {error}") from None
        if not response.is_success:
            self._refuse(response, received)
        kind = response.headers.get("Content-Type", "no content type")
        try:
            value = json.loads(received.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            shown = received.decode("utf-8", "replace")
            raise _TryAgainError(f"answered {response.status_code} with {kind} that is not JSON: {shown}") from None
        try:
            return read(value)
        except ValueError as error:
            raise _TryAgainError(f"gave no chat answer ({error}): {value}") from None

    def _body(self, response: httpx2.Response, deadline: float) -> bytes:
        """The whole body, unless it is too long or comes too slowly."""
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise _TryAgainError(f"sent more than {MAX_BODY_BYTES} bytes.")
            if time.monotonic() > deadline:
                raise _TryAgainError(f"gave no whole answer within {self._timeout:g} seconds.")
        return b"".join(parts)

    def _refuse(self, response: httpx2.Response, body: bytes) -> None:
        """Raise what a status other than success means: another try, the end of this request, or of all."""
        status = response.status_code
        if 300 <= status < 400:
            target = self.public(_origin(response))
            raise EvoembError(
                f"{self.address} answered {status}, a redirect to {target}. Neither the key nor the question is sent "
                "there. If you trust that address, give it in the place of this one."
            )
        reason = f"answered {status}: {body.decode('utf-8', 'replace')}"
        if status in _BUSY or status >= 500:
            raise _TryAgainError(reason, _seconds(response.headers.get("Retry-After", "")))
        error = EvoembError if status in _OF_ALL_QUESTIONS else NoAnswerError
        raise error(f"{self.address} {self.public(reason)}")


class _TryAgainError(Exception):
    """A try failed as another one may not.

    Args:
        reason: What happened, with the address as its subject.
        wait: Seconds to wait, if the endpoint said.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


def checked_address(address: str) -> str:
    """Return an address without slashes at its end.

    Raises:
        InputError: It is no http address, or carries what would stand in files and messages: a user, a password, a
            query. What stands before the host is not shown.
    """
    httpx = _httpx()
    shown = re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", address, flags=re.IGNORECASE | re.DOTALL)
    shown = re.split(r"[?#]", shown)[0]
    try:
        url = httpx.URL(address)
        in_range = url.port is None or 0 < url.port < 65536
        known = url.scheme in ("http", "https") and url.host and in_range and not re.search(r"\s", address)
    except (httpx.InvalidURL, ValueError):
        known = False
    if not known:
        raise InputError(f"{shown!r} is no address. Give one like https://host/v1.")
    if url.userinfo or "@" in url.netloc.decode("ascii", "replace"):
        raise InputError(f"{shown} carries a user or a password. Leave them out; a key is read from the environment.")
    if url.query or url.fragment:
        raise InputError(f"{shown} is followed by a query or a fragment. Give the address up to and with /v1 only.")
    return address.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    """A key as a header takes it, without the line end of the file it came from."""
    key = (key or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InputError("The API key holds blanks, line ends or letters beyond ASCII, so it is none. Set it again.")
    return key or None


def _seconds(retry_after: str) -> float | None:
    """What a Retry-After header asks for: a number of seconds, or a date; None where it says neither."""
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _origin(response: httpx2.Response) -> str:
    """Where a redirect leads, without user, path and query."""
    httpx = _httpx()
    try:
        target = response.url.join(response.headers["Location"])
        return f"{target.scheme}://{target.host}" + (f":{target.port}" if target.port else "")
    except (httpx.InvalidURL, KeyError, ValueError):
        return "no address"


def _httpx() -> Any:
    """Import httpx2, which comes with an extra."""
    try:
        return importlib.import_module("httpx2")
    except ImportError:
        raise EvoembError(
            'Asking a chat endpoint needs the package httpx2, which is not installed. Run: pip install "evoemb[answer]"'
        ) from None
