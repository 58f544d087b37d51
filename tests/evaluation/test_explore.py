"""The explore page holds what the model said, and nothing that a turn could smuggle in."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from evoemb.cli import main
from evoemb.evaluation.explore import precompute, to_page
from evoemb.evaluation.schema import StreamTurn
from evoemb.evaluation.streams import write_streams


def unpacked(packed, dimension):
    values = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.int8).reshape(-1, dimension)
    return values * np.array(packed["scales"])[:, None]


def data_of(page):
    return json.loads(re.search(r"const D = (.*);\n", page)[1])


def test_the_page_scores_as_the_model_does_at_every_moment(models, eval_streams):
    model, stream = models("bert", "attention"), eval_streams[0]
    data = precompute(model, stream, ["where do i live ?", "my key"])
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
    page = to_page(precompute(models("bert", "attention"), stream, ["my key"]))
    assert page.count("</script>") == 1
    assert data_of(page)["turns"][0]["text"] == evil


def test_the_command_writes_a_page_from_any_stream_file(models, eval_streams, tmp_path, capsys, base_folder):
    from conftest import make_model

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
