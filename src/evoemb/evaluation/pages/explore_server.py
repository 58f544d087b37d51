"""The explore page from a small server on this machine, where typed questions are ranked by the model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading

from evoemb._errors import EvoembError
from evoemb.evaluation.pages.explore import Explorer
from evoemb.evaluation.pages.local_server import LocalHandler, LocalServer

MAX_WAITING = 8
"""Questions that may wait for the model or be read by it; further ones are refused."""


class ExploreServer(LocalServer):
    """Serves one page at ``/`` and answers ``POST /query`` with a question's vectors.

    Args:
        explorer: Asked one question at a time.
        page: What stands at ``/``; no other script than the one it holds runs there.
        port: 0 takes any that is free.

    Raises:
        OSError: The port is in use.
    """

    def __init__(self, explorer: Explorer, page: str, port: int = 0) -> None:
        super().__init__(_Handler, port)
        self.explorer = explorer
        self.page = page.encode("utf-8")
        self.policy = _policy(page)
        self.lock = threading.Lock()
        self.waiting = threading.BoundedSemaphore(MAX_WAITING)


class _Handler(LocalHandler):
    server: ExploreServer

    def get(self) -> None:
        if self.path == "/":
            self.send(200, self.server.page, "text/html; charset=utf-8", self.server.policy)
        else:
            self.tell(404, f"Open {self.server.url}")

    def post(self) -> None:
        if self.path != "/query" or self.headers.get_content_type() != "application/json":
            self.tell(404, "Questions go to /query, as application/json.")
            return
        body = self.read_body()
        if body is None:
            return
        words = _words(body)
        if words is None:
            self.tell(400, 'An object {"text": "..."} is expected.')
        elif not self.server.waiting.acquire(blocking=False):
            self.tell(503, "Too many questions wait for the model. Ask again.")
        else:
            try:
                self._answer(words)
            finally:
                self.server.waiting.release()

    def _answer(self, words: str) -> None:
        self.server.set_deadline(self.connection, None)
        try:
            with self.server.lock:
                found = self.server.explorer.ask(words)
        except EvoembError as error:
            self.tell(400, str(error))
            return
        self.send(200, json.dumps(found).encode(), "application/json")


def _words(body: bytes) -> str | None:
    """The question of a request, if it has one that is text."""
    try:
        asked = json.loads(body)
        words = asked["text"]
        words.encode("utf-8")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    return words if isinstance(words, str) else None


def _policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and styles, questions to its own server, nothing else."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
