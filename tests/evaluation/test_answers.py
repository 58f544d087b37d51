"""Answer quality against a local stand-in for a chat endpoint: prompts, retries, cache, counts."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evoemb import EvoembError, InputError
from evoemb.evaluation.anchors import Bm25System
from evoemb.evaluation.answers import answer_quality
from evoemb.evaluation.endpoint import ChatEndpoint

pytest.importorskip("bm25s")


class StandIn(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, value = server.script.pop(0) if server.script else (200, None)
        if status == 200 and value is None:
            value = server.reply(body["messages"][-1]["content"])
        sent = json.dumps(
            {"choices": [{"message": {"content": value}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
            if isinstance(value, str)
            else value
        ).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as running:
        running.seen, running.script, running.reply = [], [], lambda prompt: "ok"
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def endpoint(server, **choices):
    return ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "key", first_wait=0.01, **choices)


MESSAGES = [{"role": "user", "content": "hello"}]


def test_a_question_is_asked_as_chat_at_temperature_zero(server):
    chat = endpoint(server)
    assert chat.ask(MESSAGES) == "ok"
    path, key, body = server.seen[0]
    assert (path, key, body["temperature"], body["messages"]) == ("/v1/chat/completions", "Bearer key", 0, MESSAGES)
    assert (chat.usage.calls, chat.usage.prompt_tokens, chat.usage.completion_tokens) == (1, 7, 2)
    assert chat.usage.cost(1.0, 10.0) == pytest.approx(27e-6)


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_not(server):
    server.script[:] = [(429, {}), (503, {})]
    assert endpoint(server).ask(MESSAGES) == "ok"
    assert len(server.seen) == 3
    server.script[:] = [(401, {"error": "no such key"})]
    with pytest.raises(EvoembError, match=r"answered 401.*no such key"):
        endpoint(server).ask(MESSAGES)
    assert len(server.seen) == 4
    server.script[:] = [(500, {})] * 3
    with pytest.raises(EvoembError, match="answered 500"):
        endpoint(server, max_retries=2).ask(MESSAGES)
    server.script[:] = [(200, {"odd": 1})]
    with pytest.raises(EvoembError, match="gave no chat answer"):
        endpoint(server).ask(MESSAGES)


def test_an_answer_is_kept_and_costs_nothing_again(server, tmp_path):
    first, second = endpoint(server, cache=tmp_path), endpoint(server, cache=tmp_path)
    assert first.ask(MESSAGES) == second.ask(MESSAGES) == "ok"
    assert (len(server.seen), second.usage.cached, second.usage.calls, second.usage.prompt_tokens) == (1, 1, 0, 0)
    second.ask([{"role": "user", "content": "another"}])
    assert len(server.seen) == 2


def test_an_address_must_be_one():
    with pytest.raises(InputError, match="is no address"):
        ChatEndpoint("file:///etc/passwd", "m")


def test_a_dead_endpoint_is_told(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(EvoembError, match="gave no answer"):
        endpoint(server, max_retries=1, timeout=2).ask(MESSAGES)


def test_answers_come_from_the_best_turns_in_order_and_are_judged(server, eval_streams):
    stream = replace(eval_streams[0], queries=eval_streams[0].queries[:1])  # "where do i live ?", oslo's stream: lyon

    def reply(prompt):
        if "Right answer:" in prompt:
            return "Yes." if "Given answer: lyon" in prompt else "no"
        return "lyon" if "lyon" in prompt else "unknown"

    server.reply = reply
    found = answer_quality(Bm25System(), [stream], endpoint(server), endpoint(server), top_k=4)
    assert found["accuracy"] == 1
    assert found["by_category"] == {"ku-last": {"accuracy": 1, "n": 1}}
    prompt = server.seen[0][2]["messages"][0]["content"]
    places = [prompt.index(stream.texts[turn]) for turn in (0, 3, 6)]
    assert places == sorted(places)
    assert stream.texts[2] not in prompt
    assert found["usage"]["judge"]["calls"] == 1


def test_an_option_is_compared_by_its_letter_without_a_judge(server, eval_streams):
    query = replace(eval_streams[0].queries[4], answer="(b)", query="Which? (a) one (b) two")  # has no evidence
    stream = replace(eval_streams[0], queries=(query,))
    for reply, right in (("(b) two", 1), ("B.", 1), ("(a)", 0), ("both", 0)):
        server.reply = lambda prompt, reply=reply: reply
        found = answer_quality(Bm25System(), [stream], endpoint(server), endpoint(server))
        assert (found["accuracy"], found["usage"]["judge"]["calls"]) == (right, 0)
