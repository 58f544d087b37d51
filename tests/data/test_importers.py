"""Exports of other programs are told apart by their content and read into turns."""

from __future__ import annotations

import json

import pytest

from evoemb._errors import InputError
from evoemb.cli.stream_files import read_streams


def node(name, role, text, parent, children):
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}
    return {"id": name, "message": message, "parent": parent, "children": children}


CHATGPT = {
    "title": "t",
    "mapping": {
        "r": {"id": "r", "message": None, "parent": None, "children": ["a"]},
        "a": node("a", "user", "I live in Oslo.", "r", ["old", "b"]),
        "old": node("old", "assistant", "An answer that was made again.", "a", []),
        "b": node("b", "assistant", "Noted.", "a", []),
    },
    "current_node": "b",
}
ASKED = ["User: I live in Oslo.\nAssistant: Noted."]
TALK = ["Mia: I live in Oslo.", "Jo: Nice."]
EXPORTS = {
    "ShareGPT": (
        [
            {
                "conversations": [
                    {"from": "human", "value": "I live in Oslo."},
                    {"from": "gpt", "value": "Noted."},
                ]
            }
        ],
        ASKED,
    ),
    "OpenAI fine-tuning": (
        [{"messages": [{"role": "user", "content": "I live in Oslo."}, {"role": "assistant", "content": "Noted."}]}],
        ASKED,
    ),
    "ChatGPT": ([CHATGPT], ASKED),
    "Claude": (
        [
            {
                "name": "n",
                "chat_messages": [
                    {"sender": "human", "text": "I live in Oslo."},
                    {"sender": "assistant", "text": "", "content": [{"type": "text", "text": "Noted."}]},
                ],
            }
        ],
        ASKED,
    ),
    "Slack": (
        [
            {
                "type": "message",
                "user": "U1",
                "user_profile": {"display_name": "Mia"},
                "text": "I live in Oslo.",
                "ts": "1",
            },
            {"type": "message", "subtype": "channel_join", "user": "U2", "text": "has joined", "ts": "2"},
            {"type": "message", "user": "Jo", "text": "Nice.", "ts": "3"},
        ],
        TALK,
    ),
    "Discord": (
        {
            "channel": {"name": "c"},
            "messages": [
                {"author": {"name": "mia1", "nickname": "Mia"}, "content": "I live in Oslo.", "timestamp": "t"},
                {"author": {"name": "Jo"}, "content": "Nice.", "timestamp": "t"},
                {"author": {"name": "Jo"}, "content": "", "timestamp": "t"},
            ],
        },
        TALK,
    ),
    "Telegram": (
        {
            "name": "c",
            "messages": [
                {"type": "service", "date": "d", "action": "create_group"},
                {
                    "type": "message",
                    "date": "d",
                    "from": "Mia",
                    "text": ["I live in ", {"type": "bold", "text": "Oslo."}],
                },
                {"type": "message", "date": "d", "from": "Jo", "text": "Nice."},
            ],
        },
        TALK,
    ),
}


@pytest.mark.parametrize(("content", "turns"), EXPORTS.values(), ids=EXPORTS)
def test_an_export_gives_its_turns(tmp_path, content, turns):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    assert [stream.turns for stream in read_streams(str(path))] == [turns]


WHATSAPP = {
    "dashes": (
        "20/11/2026, 9:12 am - Messages and calls are end-to-end encrypted.\n"
        "20/11/2026, 9:12 am - Mia: I live in Oslo.\nNear the river.\n"
        "20/11/2026, 9:13 am - Jo added Bo\nthis line belongs to the notice\n"
        "20/11/2026, 9:14 am - Jo: Nice: really.\n"
    ),
    "brackets": (
        "\u200e[20.11.26, 09:12:33] Mia: I live in Oslo.\nNear the river.\n[20.11.26, 09:14:01] Jo: Nice: really.\n"
    ),
}


@pytest.mark.parametrize("text", WHATSAPP.values(), ids=WHATSAPP)
def test_whatsapp_keeps_lines_of_a_message_together_and_leaves_notices_out(tmp_path, text):
    path = tmp_path / "chat.txt"
    path.write_text(text, encoding="utf-8")
    assert [stream.turns for stream in read_streams(str(path))] == [
        ["Mia: I live in Oslo.\nNear the river.", "Jo: Nice: really."]
    ]


def test_csv_with_a_header_is_read_by_its_columns(tmp_path):
    path = tmp_path / "chat.csv"
    path.write_text('role,content\nuser,"I live in Oslo,\nby the sea."\nassistant,Noted.\n')
    assert [stream.turns for stream in read_streams(str(path))] == [
        ["User: I live in Oslo,\nby the sea.\nAssistant: Noted."]
    ]
    path.write_text("speaker;text\nMia;I live in Oslo.\nJo;Nice.\n")
    assert [stream.turns for stream in read_streams(str(path))] == [TALK]


def test_a_file_of_two_kinds_is_refused(tmp_path):
    path = tmp_path / "export.json"
    path.write_text(json.dumps([CHATGPT, {"x": 1}]))
    with pytest.raises(InputError, match="Entry 1 is no chat of ChatGPT, but entry 0 is"):
        read_streams(str(path))
