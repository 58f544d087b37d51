"""A chat endpoint that misbehaves: the key goes nowhere else, tries are bounded, and a run goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import stat
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import numpy as np
import pytest

from evoemb import EvoembError, InputError
from evoemb.evaluation.answers import transport
from evoemb.evaluation.answers.endpoint import ChatEndpoint
from evoemb.evaluation.answers.quality import LEDGER_KEY, MAX_FIRST_FAILURES, answer_quality
from evoemb.evaluation.answers.report import Prices, report, to_markdown
from evoemb.evaluation.answers.transport import NoAnswerError
from evoemb.evaluation.runs import Ledger

pytest.importorskip("httpx2")

KEY = "sk-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "hello"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


def response(body, status="200 OK", *, kind="application/json", length=None, headers=()):
    """The bytes of a response; ``body`` may be a JSON value."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers]
    lines.append(f"Content-Length: {len(content) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def chat(content, **about):
    return {"choices": [{"message": {"content": content}}], "usage": USAGE, **about}


class Misbehaving:
    """Answers one request after the other with the next bytes of its script, then with a chat answer."""

    def __init__(self):
        self.script, self.seen = [], []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.seen.append(self._request(connection))
                say = self.script.pop(0) if self.script else response(chat("ok"))
                with contextlib.suppress(OSError):  # the client may have given up
                    say(connection) if callable(say) else connection.sendall(say)

    def _request(self, connection):
        data = connection.recv(65536)
        if data.startswith(b"\x16"):  # the beginning of TLS, which is not spoken here
            return ""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        while len(body) < length:
            body += connection.recv(65536)
        return head.decode()

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server():
    running = Misbehaving()
    yield running
    running.close()


def endpoint(server, **choices):
    return ChatEndpoint(server.url, "m", KEY, **{"first_wait": 0.001, "max_retries": 2, "timeout": 5, **choices})


BROKEN = {
    "a connection that is closed at once": b"",
    "a status line that is none": b"ICY what\r\n\r\n",
    "a status that is none": response(chat("x"), "999999 Odd"),
    "headers that are none": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "a body that ends early": response(chat("x"), length=9999),
    "a length that is none": response(chat("x"), length="many"),
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "gzip that is none": response(b"not gzip", headers=["Content-Encoding: gzip"]),
    "JSON that is cut": response(b'{"choices": ['),
    "JSON that is deep": response(b"[" * 100_000),
    "a number too long to read": response(b"1" * 10_000),
    "text that is no UTF-8": response(b'{"choices": "\xff"}'),
    "another content type": response(b"<h1>Sign in</h1>", kind="text/html"),
    "nothing": response(b"", "204 No Content"),
    "no choices": response({"choices": []}),
    "another object": response({"odd": 1}),
    "a list": response([1]),
    "a message without text": response(chat({"text": "x"})),
    "a busy status": response({}, "503 Busy"),
    "a status of a proxy": response({}, "529 Overloaded"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_asked_for_again_a_bounded_number_of_times(server, broken):
    server.script[:] = [broken, broken]
    assert endpoint(server).ask(MESSAGES) == "ok"
    server.seen.clear()
    server.script[:] = [broken] * 5
    with pytest.raises(NoAnswerError, match=r"http://127.0.0.1:\d+/v1/chat/completions (gave|answered)"):
        endpoint(server).ask(MESSAGES)
    assert len(server.seen) == 3


def test_a_page_in_the_place_of_json_is_named_by_its_content_type(server):
    server.script[:] = [BROKEN["another content type"]]
    with pytest.raises(NoAnswerError, match=r"answered 200 with text/html that is not JSON: <h1>Sign in"):
        endpoint(server, max_retries=0).ask(MESSAGES)


def test_an_answer_that_does_not_come_or_comes_drop_by_drop_ends_at_the_timeout(server):
    released = threading.Event()

    def drop_by_drop(connection):
        connection.sendall(response(b"", length=1000))
        while not released.wait(0.02):
            connection.sendall(b" ")

    server.script[:] = [lambda connection: released.wait(5)]
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"gave no answer within 0\.2 seconds"):
        endpoint(server, max_retries=0, timeout=0.2).ask(MESSAGES)
    released.set()
    released.clear()
    server.script[:] = [drop_by_drop]
    with pytest.raises(NoAnswerError, match=r"gave no whole answer within 0\.2 seconds"):
        endpoint(server, max_retries=0, timeout=0.2).ask(MESSAGES)
    released.set()
    assert time.monotonic() - begun < 3


def test_a_small_packed_answer_that_unpacks_to_more_than_the_limit_is_not_read(server, monkeypatch):
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 10_000)
    server.script[:] = [response(gzip.compress(b" " * 1_000_000), headers=["Content-Encoding: gzip"])]
    with pytest.raises(NoAnswerError, match="sent more than 10000 bytes"):
        endpoint(server, max_retries=0).ask(MESSAGES)


def test_an_endpoint_that_does_not_speak_tls_is_told(server):
    with pytest.raises(NoAnswerError, match="gave no answer: ConnectError"):
        ChatEndpoint(server.url.replace("http:", "https:"), "m", KEY, max_retries=0, timeout=5).ask(MESSAGES)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://user:pass@elsewhere.invalid/v1?key=secret", "/v2/chat"])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere(server, status, target):
    server.script[:] = [response({}, f"{status} Moved", headers=[f"Location: {target}"])]
    origin = "http://elsewhere.invalid" if target.startswith("http") else server.url.removesuffix("/v1")
    with pytest.raises(EvoembError, match=rf"a redirect to {origin}\. Neither the key nor the question") as told:
        endpoint(server).ask(MESSAGES)
    assert not isinstance(told.value, NoAnswerError)
    assert "pass" not in str(told.value)
    assert len(server.seen) == 1


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(transport.time, "sleep", found.append)
    return found


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("0", 0, 0),
        ("2", 2, 2),
        ("1.5", 1.5, 1.5),
        ("86400", 60, 60),
        ("9" * 400, 60, 60),
        (lambda: format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True), 17, 20),
        (lambda: format_datetime(datetime.now(timezone.utc) + timedelta(days=3), usegmt=True), 60, 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0.5, 0.5),
        ("soon", 0.5, 0.5),
        ("-5", 0.5, 0.5),
        ("NaN", 0.5, 0.5),
        ("", 0.5, 0.5),
    ],
)
def test_a_pause_is_what_the_endpoint_asks_for_and_a_minute_at_most(server, waits, asked, low, high):
    said = asked() if callable(asked) else asked
    server.script[:] = [response({}, "429 Busy", headers=[f"Retry-After: {said}"])]
    assert endpoint(server, first_wait=0.5).ask(MESSAGES) == "ok"
    assert len(waits) == 1
    assert low <= waits[0] <= high


def test_pauses_double_up_to_a_minute(server, waits):
    server.script[:] = [b""] * 4
    assert endpoint(server, first_wait=20, max_retries=4).ask(MESSAGES) == "ok"
    assert waits == [20, 40, 60, 60]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://user:pass@host/v1", "http://***@host/v1 carries a user or a password"),
        ("https://user:pa@ss/w@host/v1", r"\*\*\*@host/v1"),
        ("ftp://user:pass@host/v1", r"'ftp://\*\*\*@host/v1' is no address"),
        ("user:pass@host", r"'\*\*\*@host' is no address"),
        ("https://host/v1?key=pass", "https://host/v1 is followed by a query or a fragment"),
        ("https://host/v1#pass", "https://host/v1 is followed by a query or a fragment"),
        ("http://", "is no address"),
        ("http:///v1", "is no address"),
        ("http://host:99999/v1", "is no address"),
        ("http://[::1/v1", "is no address"),
        ("http://ho st/v1", "is no address"),
        ("http://host\n/v1", "is no address"),
        ("file:///etc/passwd", "is no address"),
    ],
)
def test_an_address_with_a_password_or_none_is_refused_without_being_shown(address, told):
    with pytest.raises(InputError, match=told.replace("***@h", r"\*\*\*@h")) as found:
        ChatEndpoint(address, "m", KEY)
    shown = str(found.value) + repr(found.value.__cause__) + repr(found.value.__suppress_context__)
    assert "pass" not in str(found.value).replace("password", "").replace("passwd", "")
    assert "pa@ss" not in shown


@pytest.mark.parametrize("key", ["sk-abc def", "sk-abc\nX-Odd: 1", "sk-äöü", "sk-\x00"])
def test_a_key_that_is_none_is_refused_without_being_shown(key):
    with pytest.raises(InputError, match="API key holds blanks, line ends or letters") as told:
        ChatEndpoint("http://127.0.0.1:9/v1", "m", key)
    assert "sk-" not in str(told.value)


def test_the_line_end_of_a_key_file_is_not_sent(server):
    ChatEndpoint(server.url, "m", f"{KEY}\n").ask(MESSAGES)
    assert f"Authorization: Bearer {KEY}".lower() in server.seen[0].lower().split("\r\n")


def test_a_key_that_the_endpoint_says_back_is_not_shown_and_no_line_steers_the_terminal(server):
    pad = "x" * 290  # so that the key stands where the text is cut
    for status in ("401 No", "400 No", "500 No"):
        server.script[:] = [response(f"{pad}{KEY}\n\x1b[31m".encode(), status)]
        with pytest.raises(EvoembError, match="answered") as told:
            endpoint(server, max_retries=0).ask(MESSAGES)
        assert "sk-0" not in str(told.value)
        assert str(told.value).isprintable()
    server.script[:] = [response(chat(f"your key is {KEY}"))]
    assert endpoint(server).ask(MESSAGES) == "your key is ***"


@pytest.mark.parametrize(
    "choices", [{"max_retries": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"first_wait": -1}]
)
def test_numbers_out_of_range_are_refused(choices):
    with pytest.raises(InputError, match=r"were given\. Expected 0 or more tries"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", **choices)


def test_a_proxy_that_cannot_be_used_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "odd://user:pass@host")
    with pytest.raises(EvoembError, match="proxy that the environment names") as told:
        ChatEndpoint("http://127.0.0.1:9/v1", "m")
    assert "pass" not in str(told.value)


def test_odd_counts_of_tokens_count_as_none_and_half_a_letter_becomes_a_question_mark(server):
    for odd in (None, [], {"prompt_tokens": "many", "completion_tokens": -3}, {"prompt_tokens": True}):
        server.script.append(response(chat("ok", usage=odd)))
    asking = endpoint(server)
    assert [asking.ask(MESSAGES) for _ in range(4)] == ["ok"] * 4
    assert (asking.usage.prompt_tokens, asking.usage.completion_tokens) == (0, 0)
    server.script.append(response(b'{"choices": [{"message": {"content": "a\\ud800"}}]}'))
    assert asking.ask(MESSAGES) == "a?"


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1]", b'{"answer": 3}', b'{"answer": "x", "request": {}}',
                                    b"[" * 100_000])  # fmt: skip
def test_a_damaged_kept_answer_is_set_aside_and_asked_for_again(server, tmp_path, caplog, damage):
    asking = endpoint(server, cache=tmp_path)
    asking.ask(MESSAGES)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(damage)
    assert asking.ask(MESSAGES) == "ok"
    assert len(server.seen) == 2
    assert "is damaged: it is now" in caplog.text
    assert kept.with_suffix(".damaged").read_bytes() == damage
    assert asking.ask(MESSAGES) == "ok"
    assert len(server.seen) == 2


def test_only_the_owner_may_read_kept_answers_and_no_half_file_is_left(server, tmp_path):
    folder = tmp_path / "kept"
    endpoint(server, cache=folder).ask(MESSAGES)
    (kept,) = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(kept.stat().st_mode)) == (0o700, 0o600)
    assert KEY not in kept.read_text()


def test_an_answer_that_cannot_be_kept_is_not_lost(server, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert endpoint(server, cache=tmp_path / "file").ask(MESSAGES) == "ok"
    assert "could not be kept" in caplog.text


class InOrder:
    """Ranks the turns as they were said."""

    name = "in order"

    def score(self, streams):
        return [[-1.0 * np.arange(query.asked_at) for query in stream.scored] for stream in streams]


@pytest.fixture
def asked(eval_streams):
    """Five streams of one question each, all judged by the endpoint."""
    return [replace(one, queries=one.queries[:1]) for one in eval_streams]


def test_a_question_without_an_answer_is_reported_and_the_run_goes_on(server, asked, tmp_path, caplog):
    both = endpoint(server, max_retries=0)
    failing = [response({"error": "too long"}, "400 Bad"), b"", BROKEN["no choices"]]
    # The first is answered and judged; three fail; the last is answered, and its judge fails.
    server.script[:] = [response(chat("lyon")), response(chat("yes")), *failing, response(chat("lyon")), b""]
    ledger = Ledger(tmp_path / "l", {"run": 1}, LEDGER_KEY)
    found = answer_quality(InOrder(), asked, both, both, ledger=ledger)
    assert (found["accuracy"], len(found["answers"]), len(found["failed"])) == (1, 1, 4)
    assert [one["stream_id"] for one in found["failed"]] == ["s1", "s2", "s3", "s4"]
    assert "too long" in found["failed"][0]["error"]
    assert caplog.text.count("no answer.") == 4
    server.script[:] = [response(chat("yes"))] * 8
    again = answer_quality(InOrder(), asked, both, both, ledger=Ledger(tmp_path / "l", {"run": 1}, LEDGER_KEY))
    assert (len(again["answers"]), again["failed"]) == (5, [])


def test_an_endpoint_that_never_answered_ends_the_run_soon(server, asked):
    server.script[:] = [b""] * 50
    many = [replace(one, stream_id=f"{one.stream_id}-{n}") for n in range(3) for one in asked]
    silent = endpoint(server, max_retries=0)
    with pytest.raises(EvoembError, match=rf"None of the first {MAX_FIRST_FAILURES} questions was answered"):
        answer_quality(InOrder(), many, silent, silent)
    assert len(server.seen) == MAX_FIRST_FAILURES


def test_the_table_names_retrievers_with_missing_answers(server, asked):
    both = endpoint(server, max_retries=0)
    server.script[:] = [b""] * 2
    none = answer_quality(InOrder(), asked[:2], both, both)
    some = answer_quality(InOrder(), asked[:2], both, both)
    about = {"model": {"model": "m", "fingerprint": "f"}, "top_k": 8, "answerer": ["u", "a"], "judge": ["u", "j"],
             "protocol": "auto"}  # fmt: skip
    free = {"answerer": Prices(None, None), "judge": Prices(None, None)}
    table = to_markdown(report("bench", about, [{**none, "name": "none"}, some], free))
    assert "Questions without an answer, counted nowhere: none: 2." in table
    assert "| none |  |  | 0 |" in table
