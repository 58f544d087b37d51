"""Text files of other programs: WhatsApp's export, CSV with a header, notes in Markdown."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from evoemb.data.importers.chat import MEDIA, Chat, Importer, said

# "[20.11.26, 09:12:33] Mia: text" and "20/11/2026, 9:12 am - Mia: text", with or without marks of writing direction.
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[\s\u202f]?[aApP]\.?[mM]\.?)?"
_WHATSAPP = re.compile(
    rf"^[\u200e\u200f]?(?:\[({_DATE},? {_CLOCK})\]|({_DATE},? {_CLOCK}) -) ?(?:([^:]{{1,60}}): )?(.*)$"
)
_OWN_WORDS = "\u200e"  # before what iOS's WhatsApp says itself
_LEFT_OUT = re.compile(
    r"<[^<>]{1,60}>|\u200e.*(omitted|attached|weggelassen|angehängt|omis|omitid|adjunt|omess|allegat).*"
)
_COLUMNS_OF_TEXT = ("content", "text", "message")
_COLUMNS_OF_SPEAKERS = ("role", "speaker", "name", "author", "from", "sender")
_COLUMNS_OF_TIMES = ("time", "timestamp", "date")
_HEADING = re.compile(r"(#{1,6}) +(.+?)(?: +#+)?$")


def _is_whatsapp(text: str) -> bool:
    return _WHATSAPP.match(_first_line(text)) is not None


def _whatsapp(text: str) -> Chat:
    """Read WhatsApp's export: a message may go over several lines, and a notice of the system has no speaker."""
    texts: list[dict[str, Any]] = []
    notice = False
    for line in text.split("\n"):
        found = _WHATSAPP.match(line)
        if found is None:
            if texts and not notice and line.strip():
                texts[-1]["content"] += f"\n{line.strip()}"
            continue
        content = MEDIA if _LEFT_OUT.fullmatch(found[4]) else found[4]
        notice = found[3] is None or content.startswith(_OWN_WORDS)
        content = content.replace(_OWN_WORDS, "").strip()
        if not notice and content:
            texts.append(said(found[3].strip(), content, found[1] or found[2]))
    return Chat("", tuple(texts))


def _is_csv(text: str) -> bool:
    names, _ = _header(text)
    return any(name in names for name in _COLUMNS_OF_TEXT) and any(name in names for name in _COLUMNS_OF_SPEAKERS)


def _csv(text: str) -> Chat:
    """Read CSV whose header has a column of texts and one of speakers or roles."""
    names, delimiter = _header(text)
    content, who = (next(name for name in known if name in names) for known in (_COLUMNS_OF_TEXT, _COLUMNS_OF_SPEAKERS))
    when = next((name for name in _COLUMNS_OF_TIMES if name in names), "")
    texts = []
    for row in csv.reader(io.StringIO(text.lstrip().split("\n", 1)[-1]), delimiter=delimiter):
        cells = dict(zip(names, row, strict=False))
        if cells.get(content, "").strip():
            named = said(cells.get(who, ""), cells[content], cells.get(when))
            texts.append(named if who != "role" else {**named, "role": cells["role"], "name": cells.get("name", "")})
    return Chat("", tuple(texts))


def _header(text: str) -> tuple[list[str], str]:
    """Return the names in the first line of CSV, and what stands between them; no names for other texts."""
    head = _first_line(text)
    delimiter = next((sign for sign in (",", ";", "\t") if sign in head), None)
    if delimiter is None:
        return [], ","
    return [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])], delimiter


def _is_markdown(text: str) -> bool:
    """Return whether a text begins with a heading and has paragraphs below it."""
    lines = _without_front_matter(text)
    first = next((line for line in lines if line.strip()), "")
    return _HEADING.match(first) is not None and any(not line.strip() for line in "\n".join(lines).strip().split("\n"))


def _markdown(text: str) -> Chat:
    """Read notes: each paragraph is a turn, behind the headings it stands under; code stays in one piece."""
    turns: list[str] = []
    headings: list[tuple[int, str]] = []
    block: list[str] = []
    in_code = False

    def end_block() -> None:
        if block:
            above = " > ".join(title for _, title in headings)
            turns.append("\n".join([f"{above}:", *block] if above else block))
            block.clear()

    for line in [*_without_front_matter(text), ""]:
        in_code ^= line.lstrip().startswith("```")
        heading = None if in_code else _HEADING.match(line)
        if heading is not None:
            end_block()
            level = len(heading[1])
            headings = [*(one for one in headings if one[0] < level), (level, heading[2].strip())]
        elif line.strip() or in_code:
            block.append(line.rstrip())
        else:
            end_block()
    end_block()
    return Chat("", tuple(turns))


def _without_front_matter(text: str) -> list[str]:
    lines = text.strip().split("\n")
    if lines[0].strip() == "---" and "---" in lines[1:]:
        return lines[lines.index("---", 1) + 1 :]
    return lines


def _first_line(text: str) -> str:
    return text.lstrip().split("\n", 1)[0]


TEXT_IMPORTERS = (
    Importer("whatsapp", "WhatsApp", _is_whatsapp, _whatsapp),
    Importer("csv", "CSV with a header", _is_csv, _csv),
    Importer("markdown", "notes in Markdown", _is_markdown, _markdown),
)
