"""A small HTTP server for this machine alone: bounded in connections, in time and in what it takes from a request."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"
MAX_BODY_BYTES = 65_536
MAX_CONNECTIONS = 64
"""Connections, and so threads, at a time; a further one takes the place of the one that has dawdled longest."""

READ_SECONDS = 10.0
WRITE_SECONDS = 120.0
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # What was not read of a refused request would be taken for the next one.
    "Connection": "close",
}
_NO_CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

logger = logging.getLogger(__name__)


class LocalServer(ThreadingHTTPServer):
    """Listens on `HOST` only; a client that does not finish blocks no other one.

    Args:
        handler: Answers requests.
        port: 0 takes any that is free.

    Raises:
        OSError: The port is in use.
    """

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_port = False

    def __init__(self, handler: type[LocalHandler], port: int = 0) -> None:
        super().__init__((HOST, port), handler)
        self._guard = threading.Lock()
        self._deadlines: dict[Any, float | None] = {}  # of open connections, oldest first; None: we are at work for it

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> list[str]:
        """What requests may name as their host."""
        names = (HOST, "localhost")
        return [f"{name}:{self.server_port}" for name in names] + (list(names) if self.server_port == 80 else [])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, if need be in the place of the oldest one that waits for its client."""
        with self._guard:
            full = len(self._deadlines) >= MAX_CONNECTIONS
            slow = next((one for one, deadline in self._deadlines.items() if deadline is not None), None)
            if full and slow is not None:
                self._drop(slow)
            if not full or slow is not None:
                self._deadlines[request] = time.monotonic() + READ_SECONDS
        if full and slow is None:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def set_deadline(self, request: Any, seconds: float | None) -> None:
        """Let a connection go on for so long; None until it is set again."""
        with self._guard:
            if request in self._deadlines:
                self._deadlines[request] = None if seconds is None else time.monotonic() + seconds

    def service_actions(self) -> None:
        """Drop the connections whose time is over; called by ``serve_forever`` all the while."""
        now = time.monotonic()
        with self._guard:
            for one in [one for one, end in self._deadlines.items() if end is not None and end < now]:
                self._drop(one)

    def close_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        with self._guard:
            self._deadlines.pop(request, None)
        super().close_request(request)

    def server_close(self) -> None:
        """Stop listening, and let go of all who are still connected."""
        super().server_close()
        with self._guard:
            for one in list(self._deadlines):
                self._drop(one)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong; a client that has left is no fault."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("A request of %s failed.", client_address)

    def _drop(self, request: Any) -> None:
        """Wake the thread of a connection, which then ends."""
        del self._deadlines[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class LocalHandler(BaseHTTPRequestHandler, ABC):
    """Refuses requests that no page of this server sends, and answers in JSON or with the page's own kind.

    A web page elsewhere may reach this server through a name that points here, or by a form: requests must name this
    host, and where they say which page they come from, it must be this server's.
    """

    server: LocalServer
    default_request_version = "HTTP/1.0"  # else what cannot be read is answered without headers

    def setup(self) -> None:
        """Bound every single read, beside the bound of the whole request."""
        super().setup()
        self.connection.settimeout(READ_SECONDS)

    def version_string(self) -> str:
        """Name the server, without the version of Python."""
        return "evoemb"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Tell of a request that could not be read, in JSON as all errors."""
        self.tell(code, message or self.responses.get(code, ("This request cannot be read.",))[0])

    def do_GET(self) -> None:
        """Answer with `get`."""
        if self.allowed():
            self.get()

    def do_POST(self) -> None:
        """Answer with `post`."""
        if self.allowed():
            self.post()

    @abstractmethod
    def get(self) -> None:
        """Answer an allowed GET."""

    @abstractmethod
    def post(self) -> None:
        """Answer an allowed POST."""

    def allowed(self) -> bool:
        """Whether the request is for this server and from a page of it; else it is answered."""
        hosts = [host.lower() for host in self.headers.get_all("Host", [])]
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            self.tell(403, f"Open {self.server.url}")
            return False
        origins = self.headers.get_all("Origin", [])
        own = [f"http://{host}" for host in self.server.hosts]
        foreign = self.command != "GET" and self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
        if foreign or any(origin not in own for origin in origins):
            self.tell(403, "Another page asked for this. Only the page of this server may ask.")
            return False
        return True

    def read_body(self) -> bytes | None:
        """Return the body of the request, or answer it and return None where its length is not told, or too long."""
        lengths = set(self.headers.get_all("Content-Length", []))
        if self.headers.get("Transfer-Encoding") is not None or not lengths:
            self.tell(411, "The length of a question must be told: Content-Length.")
        elif len(lengths) > 1 or not re.fullmatch(r"[0-9]+", length := lengths.pop()):
            self.tell(400, "Content-Length is no number.")
        elif len(length) > 9 or int(length) > MAX_BODY_BYTES:
            self.tell(413, f"A question may have {MAX_BODY_BYTES} bytes.")
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
        return None

    def tell(self, status: int, text: str) -> None:
        """Answer with an error in words."""
        self.send(status, json.dumps({"error": text}).encode(), "application/json")

    def send(self, status: int, content: bytes, kind: str, policy: str = _NO_CONTENT_POLICY) -> None:
        """Answer.

        Args:
            status: Of HTTP.
            content: The body.
            kind: Its content type.
            policy: The Content-Security-Policy; by default nothing may be loaded.
        """
        self.server.set_deadline(self.connection, WRITE_SECONDS)
        self.connection.settimeout(WRITE_SECONDS)
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
