"""Answer quality against a local stand-in for a chat endpoint: prompts, retries, cache, counts."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evoemb import EvoembError, InputError
from evoemb.cli import answer as answer_command
from evoemb.cli import main
from evoemb.evaluation.anchors import Bm25System
from evoemb.evaluation.answers.endpoint import ChatEndpoint
from evoemb.evaluation.answers.protocols import PROTOCOLS, answer_prompt, judge_prompt, option_of, protocol_of, says_yes
from evoemb.evaluation.answers.quality import LEDGER_KEY, answer_quality
from evoemb.evaluation.runs import Ledger
from evoemb.evaluation.streams import write_streams

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
    with pytest.raises(EvoembError, match=r"answered 401.*no such \*\*\*"):
        endpoint(server).ask(MESSAGES)
    assert len(server.seen) == 4
    server.script[:] = [(500, {})] * 3
    with pytest.raises(EvoembError, match="answered 500"):
        endpoint(server, max_retries=2).ask(MESSAGES)
    server.script[:] = [(200, {"odd": 1})] * 3
    with pytest.raises(EvoembError, match="gave no chat answer"):
        endpoint(server, max_retries=2).ask(MESSAGES)


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


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<final_answer>(c)", "c"),
        ("Both (a) and (b) fit. <final_answer> (b) </final_answer>", "b"),
        ("(a) or (b)", ""),
        ("D", "d"),
        ("none", ""),
    ],
)
def test_one_option_must_be_named(text, letter):
    assert option_of(text) == letter


def test_the_judge_is_told_the_rules_of_the_benchmark(eval_streams):
    query = replace(eval_streams[0].queries[0], answer="lyon")
    for dataset, changes, told in (
        ("locomo", {}, "Be generous"),
        ("longmemeval", {"category": "temporal-reasoning"}, "off by one"),
        ("longmemeval", {"category": "knowledge-update"}, "earlier state too does no harm"),
        ("longmemeval", {"category": "single-session-preference"}, "Description: lyon"),
        ("longmemeval", {"category": "multi-session"}, "only a part"),
        ("longmemeval", {"qid": "q_abs"}, "Reason: lyon"),
        ("", {}, "Right answer: lyon"),
    ):
        protocol = protocol_of(replace(eval_streams[0], dataset=dataset))
        assert told in judge_prompt(protocol, replace(query, **changes), "{given}")
    assert [says_yes(text) for text in ("Yes.", "no, not yes", "**yes**", "")] == [True, False, True, False]
    assert set(answer_command._PROTOCOLS) == set(PROTOCOLS)


def test_the_date_of_a_question_and_of_its_turns_stands_in_the_prompt(eval_streams):
    stream = eval_streams[0]
    dated = replace(stream, turns=(replace(stream.turns[0], time="1 May", text="{odd}"), *stream.turns[1:]))
    asked = replace(stream.queries[0], asked_date="2 May")
    prompt = answer_prompt(PROTOCOLS["longmemeval"], dated, asked, [0])
    assert "[1 May] {odd}" in prompt
    assert "It is now 2 May." in prompt


def test_the_ends_of_a_persona_chat_are_always_in_the_prompt_and_adversarial_questions_are_not_asked(
    server, eval_streams
):
    server.reply = lambda prompt: "(b)"
    query = replace(eval_streams[0].queries[0], answer="(b)", asked_at=8)
    stream = replace(eval_streams[0], queries=(query,), dataset="personamem")
    found = answer_quality(Bm25System(), [stream], endpoint(server), endpoint(server), top_k=1)
    prompt = server.seen[0][2]["messages"][0]["content"]
    assert stream.texts[0] in prompt
    assert stream.texts[7] in prompt
    assert found["accuracy"] == 1
    locomo = replace(stream, dataset="locomo", queries=(replace(query, category="adversarial"),))
    assert answer_quality(Bm25System(), [locomo], endpoint(server), endpoint(server))["accuracy"] is None


def test_an_answered_question_is_not_asked_again_and_its_tokens_stay_counted(server, eval_streams, tmp_path):
    streams = [replace(one, queries=one.queries[:2]) for one in eval_streams[:2]]
    server.script[:] = [(200, None)] * 3 + [(401, {})]
    with pytest.raises(EvoembError, match="answered 401"):
        answer_quality(Bm25System(), streams, endpoint(server), endpoint(server),
                       ledger=Ledger(tmp_path / "l", {"run": 1}, LEDGER_KEY))  # fmt: skip
    stopped = len(server.seen)
    ledger = Ledger(tmp_path / "l", {"run": 1}, LEDGER_KEY)
    assert len(ledger.done) == 1
    told = []
    found = answer_quality(
        Bm25System(), streams, endpoint(server), endpoint(server), ledger=ledger, on_progress=told.append
    )
    assert len(server.seen) - stopped == 2  # one question of two, answered and judged
    assert (sum(told), found["usage"]["answerer"]["calls"], found["usage"]["judge"]["calls"]) == (2, 2, 2)
    with pytest.raises(InputError, match="another run"):
        Ledger(tmp_path / "l", {"run": 2}, LEDGER_KEY)


def test_the_command_answers_judges_counts_and_goes_on(
    server, eval_streams, tmp_path, base_folder, capsys, monkeypatch
):
    monkeypatch.setenv("CHAT_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    write_streams(tmp_path / "s.jsonl", [replace(one, queries=one.queries[:1]) for one in eval_streams[:2]])
    server.reply = lambda prompt: "yes" if "Correct:" in prompt else "lyon"
    url = f"http://127.0.0.1:{server.server_port}/v1"
    chats = ["--endpoint", url, "--answerer", "a", "--judge", "j", "--key-env", "CHAT_KEY"]
    options = ["--model", str(base_folder("bert")), "--with", "on,bm25", "-o", str(tmp_path / "a.json")]
    command = ["answer", str(tmp_path / "s.jsonl"), *chats, *options]
    assert main([*command, "--price-in", "1", "--price-out", "10", "--judge-price-in", "2"]) == 0
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "a.json").read_text())
    assert [one["name"] for one in results["systems"]] == ["memory on", "bm25"]
    assert [one["accuracy"] for one in results["systems"]] == [1, 1]
    assert results["systems"][0]["cost"] == pytest.approx({"answerer": 54e-6, "judge": 68e-6, "all": 122e-6})
    assert shown.strip() == (tmp_path / "a.md").read_text().strip()
    assert "100.0 (100.0-100.0)" in shown
    assert {(key, body["model"]) for _, key, body in server.seen} == {("Bearer secret", "a"), ("Bearer secret", "j")}
    assert "secret" not in (tmp_path / "a.json").read_text() + (tmp_path / "a.answered.jsonl").read_text()
    asked = len(server.seen)
    assert main([*command, "--quiet"]) == 0
    assert len(server.seen) == asked
    assert json.loads((tmp_path / "a.json").read_text())["systems"][0]["cost"]["all"] is None
    assert main([*command, "--top-k", "2"]) == 2
    assert "different: top_k" in capsys.readouterr().err
    away = ["--judge-endpoint", url.replace("127.0.0.1", "localhost"), "--restart", "--quiet"]
    assert main([*command, *away]) == 0
    assert {key for _, key, body in server.seen[asked:] if body["model"] == "j"} == {None}


def test_what_cannot_be_answered_is_told_before_anything_is_asked(server, eval_streams, tmp_path, capsys):
    bare = tmp_path / "s.jsonl"
    write_streams(bare, [replace(eval_streams[0], queries=(replace(eval_streams[0].queries[0], answer=None),))])
    start = ["answer", str(bare), "--answerer", "a", "-o", str(tmp_path / "a.json"), "--endpoint"]
    for extra, told in (
        (["http://127.0.0.1:9/v1"], "no question has a right answer"),
        (["127.0.0.1"], "is no address"),
        (["http://127.0.0.1:9/v1", "--with", "magic"], "magic"),
        (["http://127.0.0.1:9/v1", "--data", "x"], "--data goes with a benchmark's name"),
        (["http://127.0.0.1:9/v1", "--key-env", "sk-123"], "--key-env names no variable of the environment"),
        (["http://127.0.0.1:9/v1", "--judge-key-env", "sk-123"], "--judge-key-env names no variable"),
        (["http://user:sk-123@127.0.0.1:9/v1"], "carries a user or a password"),
    ):
        assert main([*start, *extra]) == 2
        shown = capsys.readouterr().err
        assert told in shown
        assert "sk-123" not in shown
    for option, told in (("--retries=-1", "0 or more"), ("--timeout=0", "more than 0 seconds"), ("--timeout=nan", "0")):
        with pytest.raises(SystemExit):
            main([*start, "http://127.0.0.1:9/v1", option])
        assert told in capsys.readouterr().err


def test_the_command_writes_its_figures_and_fails_where_answers_are_missing(
    server, eval_streams, tmp_path, base_folder, capsys
):
    write_streams(tmp_path / "s.jsonl", [replace(one, queries=one.queries[:1]) for one in eval_streams[:2]])
    server.reply = lambda prompt: "yes"
    server.script[:] = [(200, None)] * 2 + [(400, {"error": "too long"})]
    address = f"http://127.0.0.1:{server.server_port}/v1"
    command = ["answer", str(tmp_path / "s.jsonl"), "--endpoint", address, "--with", "bm25", "--answerer", "a"]
    command += ["--model", str(base_folder("bert")), "-o", str(tmp_path / "a.json")]
    assert main(command) == 2
    assert "1 of 2 answers missing, the first: http://127.0.0.1" in capsys.readouterr().err
    (system,) = json.loads((tmp_path / "a.json").read_text())["systems"]
    assert (system["accuracy"], [one["stream_id"] for one in system["failed"]]) == (1, ["s1"])
    assert main(command) == 0
