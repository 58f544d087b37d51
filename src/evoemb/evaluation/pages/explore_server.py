"""The explore page from a small server on this machine, where typed questions are ranked by the model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evoemb._errors import EvoembError
from evoemb.evaluation.pages.explore import Explorer

HOST = "127.0.0.1"
MAX_BODY_BYTES = 65_536


class ExploreServer(ThreadingHTTPServer):
    """Serves one page at ``/`` and answers ``POST /query`` with a question's vectors.

    Only this machine reaches it. Requests that name another host are refused, so that no web page can read a stream
    through a name that points here; questions must come as JSON, which no other page may send.

    Args:
        explorer: Asked one question at a time.
        page: What stands at ``/``.
        port: 0 takes any that is free.

    Raises:
        OSError: The port is in use.
    """

    daemon_threads = True

    def __init__(self, explorer: Explorer, page: str, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.explorer = explorer
        self.page = page.encode("utf-8")
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: ExploreServer

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/":
            self._send(404, b"Not found", "text/plain")
            return
        self._send(200, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._allowed():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/query" or self.headers.get_content_type() != "application/json":
            self._tell(404, "Questions go to /query, as application/json.")
        elif not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self._tell(413, f"A question may have {MAX_BODY_BYTES} bytes.")
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict) or not isinstance(asked.get("text"), str):
            self._tell(400, 'An object {"text": "..."} is expected.')
            return
        try:
            with self.server.lock:
                found = self.server.explorer.ask(asked["text"])
        except EvoembError as error:
            self._tell(400, str(error))
            return
        self._send(200, json.dumps(found).encode(), "application/json")

    def _allowed(self) -> bool:
        if self.headers.get("Host") in [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]:
            return True
        self._tell(403, f"Open {self.server.url}")
        return False

    def _tell(self, status: int, text: str) -> None:
        self._send(status, json.dumps({"error": text}).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        # What was not read of a refused request would be taken for the next one.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
