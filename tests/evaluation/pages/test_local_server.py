"""The server of the explore page against odd requests and clients that do not finish."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import threading
import time

import pytest

from evoemb import InputError
from evoemb.evaluation.pages import local_server
from evoemb.evaluation.pages.explore_server import MAX_WAITING, ExploreServer
from evoemb.evaluation.pages.local_server import MAX_CONNECTIONS

PAGE = "<!doctype html><script>const D = null;\n</script><p style='color:red'>page"


class Asked:
    """Stands for an explorer: counts questions, and waits where it is told to."""

    def __init__(self):
        self.words, self.open = [], threading.Event()
        self.open.set()

    def ask(self, words):
        self.words.append(words)
        self.open.wait(5)
        if not words.strip():
            raise InputError("The question is empty.")
        return {"text": words}


@pytest.fixture
def server():
    with ExploreServer(Asked(), PAGE) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.explorer.open.set()
        running.shutdown()
        thread.join()


def connected(server):
    return socket.create_connection(server.server_address, timeout=5)


def sent(server, *lines, body=b"", first="POST /query HTTP/1.1"):
    """What comes back for a request that is written by hand."""
    with connected(server) as client:
        client.sendall(request_of(server, *lines, body=body, first=first))
        return received(client)


def request_of(server, *lines, body=b"", first="POST /query HTTP/1.1"):
    host = f"Host: 127.0.0.1:{server.server_port}"
    return "\r\n".join([first, host, "Content-Type: application/json", *lines, "", ""]).encode() + body


def received(client):
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def asking(server, **choices):
    body = b'{"text": "hello"}'
    return sent(server, f"Content-Length: {len(body)}", body=body, **choices)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 411),
        (["Transfer-Encoding: chunked"], 411),
        (["Content-Length: 17", "Transfer-Encoding: chunked"], 411),
        (["Content-Length: "], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: +17"], 400),
        (["Content-Length: 1_7"], 400),
        (["Content-Length: 0x11"], 400),
        (["Content-Length: 17.0"], 400),
        (["Content-Length: \N{SUPERSCRIPT TWO}"], 400),
        (["Content-Length: 17", "Content-Length: 18"], 400),
        (["Content-Length: 65537"], 413),
        (["Content-Length: " + "9" * 5000], 413),
        (["Content-Length: 0"], 400),
    ],
)
def test_a_length_that_is_odd_missing_or_huge_is_refused_at_once(server, lines, status):
    begun = time.monotonic()
    found = sent(server, *lines, body=b'{"text": "hello"}')
    assert found.startswith(f"HTTP/1.0 {status} ")
    assert '{"error": "' in found
    assert time.monotonic() - begun < 2
    assert asking(server).startswith("HTTP/1.0 200 ")


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ("POST /query HTTP/9.9", 505),
        ("POST /query what HTTP/1.1", 400),
        ("DELETE /query HTTP/1.1", 501),
        ("GET /" + "x" * 70_000 + " HTTP/1.1", 414),
        ("GET http://127.0.0.1/ HTTP/1.1", 404),
    ],
)
def test_a_request_that_is_none_is_refused_in_json_with_the_same_headers(server, first, status):
    found = sent(server, first=first)
    assert found.startswith(f"HTTP/1.0 {status} ")
    assert "Content-Security-Policy: default-src 'none'" in found
    assert '{"error": "' in found


@pytest.mark.parametrize("hosts", [[], ["evil.example"], ["127.0.0.1"], ["127.0.0.1:{port}", "evil.example"]])
def test_a_name_that_only_points_here_is_refused(server, hosts):
    lines = [f"Host: {host.format(port=server.server_port)}" for host in hosts]
    with connected(server) as client:
        client.sendall("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
        assert received(client).startswith("HTTP/1.0 403 ")


def test_the_own_page_may_ask_by_either_name(server):
    for name in ("127.0.0.1", "localhost"):
        body = b'{"text": "hello"}'
        origin = f"Origin: http://{name}:{server.server_port}"
        found = sent(server, origin, "Sec-Fetch-Site: same-origin", f"Content-Length: {len(body)}", body=body)
        assert found.startswith("HTTP/1.0 200 ")


def test_the_page_may_run_its_own_script_and_nothing_else(server):
    found = sent(server, first="GET / HTTP/1.1")
    head, _, page = found.partition("\r\n\r\n")
    assert page == PAGE
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", f"script-src 'sha256-{digest}'", "connect-src 'self'", "base-uri 'none'",
            "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)  # fmt: skip
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Server"] == "evoemb"


def test_it_listens_on_this_machine_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("half", [b"", b"POST /que", b"POST /query HTTP/1.1\r\nHost: ", "body"])
def test_two_hundred_clients_that_do_not_finish_block_no_other(server, half):
    begun_with = threading.active_count()
    body_missing = request_of(server, "Content-Length: 100", body=b'{"te')
    slow = [connected(server) for _ in range(200)]
    try:
        for client in slow:
            with contextlib.suppress(OSError):  # it may have lost its place already
                client.sendall(body_missing if half == "body" else half)
        begun = time.monotonic()
        assert asking(server).startswith("HTTP/1.0 200 ")
        assert time.monotonic() - begun < 2
        assert threading.active_count() - begun_with <= MAX_CONNECTIONS + 4
    finally:
        for client in slow:
            client.close()


@pytest.mark.parametrize("drops", [False, True])
def test_a_client_that_does_not_finish_loses_its_connection_in_time(server, monkeypatch, drops):
    monkeypatch.setattr(local_server, "READ_SECONDS", 0.2)
    begun = time.monotonic()
    with connected(server) as client:
        client.sendall(b"POST /query HTTP/1.1\r\n")
        client.settimeout(0.02)
        while time.monotonic() - begun < 4:
            try:
                if drops:
                    client.sendall(b"X: y\r\n")  # each in time, and no end
                if not client.recv(10):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert 0.1 < time.monotonic() - begun < 3


def test_questions_that_wait_for_the_model_are_bounded_and_the_page_is_served_beside_them(server):
    server.explorer.open.clear()
    waiting = [connected(server) for _ in range(MAX_WAITING)]
    try:
        body = b'{"text": "hello"}'
        for client in waiting:
            client.sendall(request_of(server, f"Content-Length: {len(body)}", body=body))
        deadline = time.monotonic() + 4
        while not (found := asking(server)).startswith("HTTP/1.0 503 ") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "Ask again" in found
        assert sent(server, first="GET / HTTP/1.1").startswith("HTTP/1.0 200 ")
        server.explorer.open.set()
        assert all(received(client).startswith("HTTP/1.0 200 ") for client in waiting)
    finally:
        for client in waiting:
            client.close()


def test_a_fault_of_the_model_ends_one_request_and_is_logged(server, caplog):
    server.explorer.ask = lambda words: 1 / 0
    assert asking(server) == ""
    assert "ZeroDivisionError" in caplog.text
    del server.explorer.ask
    assert asking(server).startswith("HTTP/1.0 200 ")
