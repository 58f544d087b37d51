"""The explore page holds what the model said, and nothing that a turn could smuggle in."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from evoemb import InputError
from evoemb.cli import explore, main
from evoemb.evaluation.pages.explore import Explorer, to_page
from evoemb.evaluation.pages.explore_server import ExploreServer
from evoemb.evaluation.pages.local_server import MAX_BODY_BYTES
from evoemb.evaluation.schema import StreamTurn
from evoemb.evaluation.streams import write_streams


def unpacked(packed, dimension):
    values = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.int8).reshape(-1, dimension)
    return values * np.array(packed["scales"])[:, None]


def data_of(page):
    return json.loads(re.search(r"const D = (.*);\n", page)[1])


def test_the_page_scores_as_the_model_does_at_every_moment(models, eval_streams):
    model, stream = models("bert", "attention"), eval_streams[0]
    data = Explorer(model, stream).data(["where do i live ?", "my key"])
    assert data["moments"] == list(range(1, 9))
    for step, moment in enumerate(data["moments"]):
        state = model.new_state()
        turns = model.encode_document(stream.texts[:moment], stateful=True, state=state)
        expected = turns @ model.encode_query("my key", state=state)
        query = unpacked(data["queries"][1]["memory"], data["dimension"])[step]
        found = unpacked(data["vectors"]["memory"], data["dimension"])[:moment] @ query
        np.testing.assert_allclose(found, expected, atol=0.015)  # int8
    assert data["queries"][0]["right"] == [[8, [6]], [5, [3]]]


def test_a_turn_cannot_end_the_script(models, eval_streams):
    evil = "</script><script>alert(1)</script> \u2028 <!--"
    stream = replace(eval_streams[0], turns=(StreamTurn(evil), *eval_streams[0].turns[1:]), queries=())
    page = to_page(Explorer(models("bert", "attention"), stream).data(["my key"]))
    assert page.count("</script>") == 1
    assert data_of(page)["turns"][0]["text"] == evil


def test_the_command_writes_a_page_from_any_stream_file(models, eval_streams, tmp_path, capsys, base_folder):
    from tiny_models import make_model

    folder = base_folder("bert").parent / "evoemb-explore"
    if not folder.exists():
        make_model(base_folder("bert"), "attention").save_pretrained(str(folder), create_model_card=False)
    write_streams(tmp_path / "s.jsonl.gz", eval_streams)
    (tmp_path / "chat.txt").write_text("i live in paris\nmy dog has a key\n")
    common = ["-o", str(tmp_path / "page.html"), "--model", str(folder)]
    assert main(["explore", str(tmp_path / "s.jsonl.gz"), "--stream", "2", *common]) == 0
    assert len(data_of((tmp_path / "page.html").read_text())["queries"]) == 4  # a question asked twice stands once
    assert main(["explore", str(tmp_path / "chat.txt"), "--query", "my dog", *common]) == 0
    assert len(data_of((tmp_path / "page.html").read_text())["turns"]) == 2
    assert main(["explore", str(tmp_path / "chat.txt"), *common]) == 2
    assert "carries no question and --query gives none" in capsys.readouterr().err
    assert main(["explore", str(tmp_path / "s.jsonl.gz"), "--stream", "9", *common]) == 2
    assert "holds the streams 0 to 4" in capsys.readouterr().err


@pytest.mark.parametrize("queries", [[], ["  "]])
def test_no_query_is_told_before_the_model_is_loaded(tmp_path, capsys, queries):
    (tmp_path / "chat.txt").write_text("hello\n")
    given = [part for query in queries for part in ("--query", query)]
    assert main(["explore", str(tmp_path / "chat.txt"), "-o", str(tmp_path / "p.html"), "--model", "/no", *given]) == 2
    assert "Add --query" in capsys.readouterr().err


@pytest.fixture
def server(models, eval_streams):
    explorer = Explorer(models("bert", "attention"), eval_streams[0])
    with ExploreServer(explorer, to_page(explorer.data([], served=True))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def asked(server, path="query", body=b'{"text": "my key"}', kind="application/json", **headers):
    request = urllib.request.Request(server.url + path, body, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer) if path else answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_typed_question_is_ranked_by_the_model_as_a_stored_one(server, models, eval_streams):
    status, page = asked(server, "", None)
    assert (status, data_of(page)["served"], data_of(page)["queries"]) == (200, True, [])
    status, found = asked(server)
    assert status == 200
    assert found == Explorer(models("bert", "attention"), eval_streams[0]).ask("my key")
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"body": b'{"text": " "}'}, 400, "question is empty"),
        ({"body": b"[1]"}, 400, "is expected"),
        ({"body": b"{"}, 400, "is expected"),
        ({"kind": "text/plain"}, 404, "as application/json"),
        ({"body": b"x" * (MAX_BODY_BYTES + 1)}, 413, "bytes"),
        ({"body": b"[" * 60_000}, 400, "is expected"),
        ({"body": b'{"text": ' + b"[" * 60_000}, 400, "is expected"),
        ({"body": b'{"text": ' + b"1" * 60_000 + b"}"}, 400, "is expected"),
        ({"body": b'{"text": "\\ud800"}'}, 400, "is expected"),
        ({"body": b"\xff"}, 400, "is expected"),
        ({"Host": "evil.example"}, 403, "Open http://127.0.0.1"),
        ({"Origin": "http://evil.example"}, 403, "Another page"),
        ({"Origin": "null"}, 403, "Another page"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "Another page"),
        ({"path": "", "body": None, "Origin": "http://evil.example"}, 403, "Another page"),
        ({"path": "else", "body": None}, 404, "Open http://127.0.0.1"),
    ],
)
def test_the_server_refuses_what_its_page_would_not_send(server, change, status, told):
    found = asked(server, **change)
    assert found[0] == status
    assert told in found[1]["error"]


def test_the_command_serves_until_it_is_interrupted(monkeypatch, eval_streams, tmp_path, capsys, base_folder):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ExploreServer, "serve_forever", interrupted)
    (tmp_path / "chat.txt").write_text("i live in paris\nmy dog has a key\n")
    command = ["explore", str(tmp_path / "chat.txt"), "--serve", "--model", str(base_folder("bert"))]
    assert main([*command, "--port", "0"]) == 0
    assert re.search(r"Open http://127.0.0.1:\d+/ on this machine", capsys.readouterr().err)
    assert main([*command, "--port", "-1"]) == 2
    assert "0 to 65535" in capsys.readouterr().err


def parsed(*given):
    """The arguments of the command, without running it."""
    parser = argparse.ArgumentParser()
    explore.add_parser(parser.add_subparsers())
    return parser.parse_args(["explore", *given, "--serve"])


def test_a_stream_is_chosen_by_number_or_name_as_for_a_search(eval_streams, tmp_path):
    path = str(tmp_path / "s.jsonl")
    write_streams(path, eval_streams)
    wanted = eval_streams[2]
    for choice in ("2", wanted.stream_id):
        assert explore._stream(parsed(path, "--stream", choice))[0] == wanted
    with pytest.raises(InputError, match="holds 5 streams, but one is expected"):
        explore._stream(parsed(path))
    (tmp_path / "two.jsonl").write_text('["i live in paris"]\n["my dog"]\n')
    assert explore._stream(parsed(str(tmp_path / "two.jsonl"), "--stream", "1"))[0].texts == ["my dog"]


@pytest.mark.parametrize("given", ["pipe", "-"])
def test_a_pipe_is_read_once_with_its_questions(eval_streams, monkeypatch, tmp_path, given):
    write_streams(tmp_path / "s.jsonl", eval_streams[:1])
    content = (tmp_path / "s.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    if given == "pipe":
        given = str(tmp_path / "pipe")
        os.mkfifo(given)
        threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,), daemon=True).start()
    found, queries = explore._stream(parsed(given))
    assert found == eval_streams[0]
    assert queries == [query.query for query in eval_streams[0].queries]
