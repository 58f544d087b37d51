"""Exports of other programs are told apart by their content and read into turns."""

from __future__ import annotations

import json
import re

import pytest

from evoemb._errors import InputError
from evoemb.data import read_streams


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
    with pytest.raises(InputError, match=r"element 1: this is nothing of ChatGPT, but .*element 0 is"):
        read_streams(str(path))


WHATSAPP_MEDIA = {
    "Android": (
        "20/11/2026, 9:12 am - Mia: <Media omitted>\n20/11/2026, 9:13 am - Mia: \u200eIMG-1.jpg (file attached)\n"
    ),
    "iOS": "[20.11.26, 09:12:33] Mia: \u200eimage omitted\n\u200e[20.11.26, 09:13:33] Mia: \u200e<attached: 1.jpg>\n",
    "iOS in German": "[20.11.26, 09:12:33] Mia: \u200eBild weggelassen\n[20.11.26, 09:13:33] Mia: <Medien>\n",
}


@pytest.mark.parametrize("text", WHATSAPP_MEDIA.values(), ids=WHATSAPP_MEDIA)
def test_media_that_whatsapp_left_out_leave_a_mark(tmp_path, text):
    path = tmp_path / "chat.txt"
    path.write_text(text, encoding="utf-8")
    assert [stream.turns for stream in read_streams(str(path))] == [["Mia: [media]", "Mia: [media]"]]


def test_what_whatsapp_says_itself_is_no_message(tmp_path):
    path = tmp_path / "chat.txt"
    path.write_text(
        "[20.11.26, 09:12:33] Trip: \u200eMessages and calls are end-to-end encrypted.\n"
        "[20.11.26, 09:13:33] Mia: Hi: all\n",
        encoding="utf-8",
    )
    assert [stream.turns for stream in read_streams(str(path))] == [["Mia: Hi: all"]]


SENT = {"type": "message", "date": "d", "from": "Mia", "text": ""}
MEDIA = {
    "Telegram": {"name": "c", "messages": [{**SENT, "photo": "1.jpg"}, SENT]},
    "Slack": [{"type": "message", "user": "Mia", "text": "", "ts": "1", "files": [{}], "subtype": "file_share"}],
    "Discord": {"messages": [{"author": {"name": "Mia"}, "content": "", "attachments": [{}]}]},
}


@pytest.mark.parametrize("content", MEDIA.values(), ids=MEDIA)
def test_media_leave_a_mark(tmp_path, content):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    assert [stream.turns for stream in read_streams(str(path))] == [["Mia: [media]"]]


def test_chats_keep_their_names_and_empty_ones_are_left_out(tmp_path):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([CHATGPT, {"title": "empty", "mapping": {}}, {**CHATGPT, "title": "u"}]))
    assert [(stream.name, stream.turns) for stream in read_streams(str(path))] == [("t", ASKED), ("u", ASKED)]
    path.write_text(json.dumps([{"title": "empty", "mapping": {}}]))
    with pytest.raises(InputError, match="no chat of this file of ChatGPT holds a message with text"):
        read_streams(str(path))


def test_an_account_of_telegram_gives_all_its_chats(tmp_path):
    chats = [
        {"name": "a", "messages": [{**SENT, "text": "x"}]},
        {"messages": []},
        {"name": "b", "messages": [{**SENT, "text": "y"}]},
    ]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"about": "...", "chats": {"list": chats}}))
    assert [(stream.name, stream.turns) for stream in read_streams(str(path))] == [("a", ["Mia: x"]), ("b", ["Mia: y"])]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"conversations": [{"value": "a"}]}], "element 0: this chat of ShareGPT lacks a field"),
        (
            [{"conversations": [{"from": "narrator", "value": "a"}]}],
            "element 0, a chat of ShareGPT: message 0 has the role 'narrator'",
        ),
        ([{"mapping": {"a": 3}}], "element 0: this chat of ChatGPT lacks a field, or holds another kind of value"),
        ([{"chat_messages": [{"text": "a"}]}], r"this chat of Claude lacks a field.*\(KeyError: 'sender'\)"),
        ([{"type": "message", "ts": "1", "text": 3}], "this chat of Slack lacks a field"),
        ([{"diary": []}], 'nor an export of ShareGPT, ChatGPT, Claude, .* notes in Markdown. Its keys: "diary"'),
    ],
)
def test_an_export_that_cannot_be_read_is_told_with_its_place(tmp_path, content, told):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=told) as caught:
        read_streams(str(path))
    assert str(caught.value).startswith(str(path))


NOTES = """---
tags: [travel]
---
# Trips

Next year, perhaps.

## Porto
I stay at the Ribeira.
It has a view.

- pack the camera
- buy tickets

```python
# no heading

x = 1
```
# Home
"""


def test_notes_in_markdown_give_one_turn_a_paragraph_behind_its_headings(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text(NOTES)
    assert [stream.turns for stream in read_streams(str(path))] == [
        [
            "Trips:\nNext year, perhaps.",
            "Trips > Porto:\nI stay at the Ribeira.\nIt has a view.",
            "Trips > Porto:\n- pack the camera\n- buy tickets",
            "Trips > Porto:\n```python\n# no heading\n\nx = 1\n```",
        ]
    ]
    assert len(read_streams(str(path), "text")[0].turns) == len([line for line in NOTES.split("\n") if line.strip()])


@pytest.mark.parametrize("text", ["# 12\nhello\nthere", "#channel\n\nhello", "hello\n\n# Porto\n\nthere"])
def test_a_text_that_does_not_begin_as_notes_do_is_read_line_by_line(tmp_path, text):
    path = tmp_path / "chat.txt"
    path.write_text(text)
    assert [stream.turns for stream in read_streams(str(path))] == [[line for line in text.split("\n") if line]]


KEYS = {"OpenAI fine-tuning": "evotrain"}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_can_be_named_and_is_then_nothing_else(tmp_path, name):
    content, turns = EXPORTS[name]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    own = KEYS.get(name, name.lower())
    assert [stream.turns for stream in read_streams(path, own)] == [turns]
    for other in {"sharegpt", "chatgpt", "claude", "slack", "discord", "telegram", "csv"} - {own}:
        with pytest.raises(InputError, match=f"this is nothing of .*, but the format '{other}' was given"):
            read_streams(path, other)


def test_texts_of_other_programs_can_be_named_too(tmp_path):
    path = tmp_path / "chat.txt"
    texts = {"whatsapp": WHATSAPP["dashes"], "csv": "name,text\nMia,Hi.\n", "markdown": "# Home\n\nHi."}
    for own, text in texts.items():
        path.write_text(text, encoding="utf-8")
        assert read_streams(path, own) == read_streams(path)
        for other in {"whatsapp", "csv", "markdown"} - {own}:
            with pytest.raises(InputError, match=f"but the format '{other}' was given"):
                read_streams(path, other)


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"The format 'word' is not known. Use one of auto, messages, .*, slack"):
        read_streams(tmp_path / "chat.txt", "word")


def said_in_slack(user, text, ts, **more):
    return {"type": "message", "user": user, "text": text, "ts": ts, **more}


@pytest.fixture
def slack_folder(tmp_path):
    """An unpacked export: two channels, one of them with messages of two days that are not in their order."""
    folder = tmp_path / "export"
    days = {
        "general/2026-11-20.json": [
            said_in_slack("U2", "Nice, <@U1>.", "1763629300.000200"),
            said_in_slack("U1", "I live in Oslo.", "1763629200.000100"),
        ],
        "general/2026-11-21.json": [said_in_slack("U3", "<@U2|jo> has left", "1763715600.0")],
        "random/2026-11-20.json": [said_in_slack("U1", "", "1763629200.0", subtype="channel_join")],
    }
    for name, messages in days.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(messages))
    users = [
        {"id": "U1", "profile": {"display_name": "Mia"}},
        {"id": "U2", "name": "jo", "real_name": "Jo"},
        {"id": "U3"},
    ]
    (folder / "users.json").write_text(json.dumps(users))
    (folder / "channels.json").write_text("[]")
    return folder


def test_a_folder_of_slack_gives_its_channels_in_the_order_of_time_with_names(slack_folder):
    turns = ["Mia: I live in Oslo.", "Jo: Nice, @Mia.", "U3: @Jo has left"]
    for path, chosen in ((slack_folder, "auto"), (slack_folder, "slack"), (slack_folder / "general", "auto")):
        assert [(one.name, one.turns) for one in read_streams(path, chosen)] == [("general", turns)]


def test_a_folder_of_slack_that_cannot_be_read_is_refused_with_its_place(slack_folder):
    day = slack_folder / "general" / "2026-11-20.json"
    for content, message in (
        ([{"a": 1}], f"{day}: this is no list of messages of Slack"),
        ([said_in_slack("U1", "one", "noon")], "has the time 'noon', expected seconds"),
        ([said_in_slack("U1", {"a": 1}, "1.0")], f"{day.parent}: this chat of Slack lacks a field"),
    ):
        day.write_text(json.dumps(content))
        with pytest.raises(InputError, match=re.escape(message)):
            read_streams(slack_folder)
    with pytest.raises(InputError, match=r"is a folder, but the format 'csv' is one of files"):
        read_streams(slack_folder, "csv")
    with pytest.raises(InputError, match="no channel of this export of Slack holds a message"):
        read_streams(slack_folder / "random")


def test_the_folder_of_another_export_is_read_by_its_main_file(tmp_path):
    with pytest.raises(InputError, match=r"is a folder, but no unpacked export of Slack, .* Name a file of it"):
        read_streams(tmp_path)
    (tmp_path / "conversations.json").write_text(json.dumps([CHATGPT]))
    (tmp_path / "user.json").write_text("{}")
    assert read_streams(tmp_path)[0].turns == ASKED
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match="is a folder, but no unpacked export"):
        read_streams(tmp_path)
