"""All that the command line prints: results on standard output, notices and errors on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoemb.ranking import Hit

_GAP = "   "
_MIN_TEXT_COLUMNS = 20  # below this a cut text says nothing; a line that wraps is better


def write(text: str) -> None:
    """Write one line, or several, to standard output; what its encoding cannot show becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text}\n".encode(encoding, errors="replace").decode(encoding))


def write_notice(text: str) -> None:
    """Write a line to standard error, where it does not get into results that are piped on."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_error(error: BaseException) -> None:
    """Write what went wrong to standard error, as ``evoemb: error: ...``."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"  # without the "[Errno 2]" that Python puts in front
    write_notice(f"evoemb: error: {text or type(error).__name__}")


def write_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object on one line."""
    unicode_out = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    write(json.dumps(value, ensure_ascii=not unicode_out))


def write_hits(query: str, hits: Sequence[Hit], static_hits: Sequence[Hit] | None = None) -> None:
    """Write the ranked turns for one query as a table, cut to the terminal's width.

    Args:
        query: Shown above the table.
        hits: Ranked with memory, best first.
        static_hits: Ranked without memory, as many; shown in a second table at the right. None leaves it out.
    """
    width = _terminal_width()
    write(_cut(f"Query: {query}", width))
    if static_hits is None:
        for line in _table(hits, width):
            write(line.rstrip())
    else:
        half = max((width - len(_GAP)) // 2, _MIN_TEXT_COLUMNS + 15)
        write(f"{_pad('  with memory', half)}{_GAP}  without memory")
        for left, right in zip(_table(hits, half), _table(static_hits, half), strict=True):
            write(f"{_pad(left, half)}{_GAP}{right}".rstrip())
    write("")


def write_fields(fields: Mapping[str, object]) -> None:
    """Write names and values in two aligned columns."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        write(f"{name:<{width}}  {_one_line(_shown(value))}")


def _shown(value: object) -> str:
    """A fact in words: yes and no, thousands set apart."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(hits: Sequence[Hit], width: int) -> list[str]:
    """The lines of a table of hits, header first, each at most ``width`` columns."""
    text_width = max(width - 15, _MIN_TEXT_COLUMNS)
    rows = [
        f"{hit['score']:>7.4f}  {hit['corpus_id']:>4}  {_cut(hit['text'], text_width) or '(empty)'}" for hit in hits
    ]
    return [f"{'score':>7}  {'turn':>4}  text", *rows]


def _terminal_width() -> int:
    """Columns to fill; ``COLUMNS`` decides where there is no terminal."""
    return shutil.get_terminal_size(fallback=(100, 24)).columns


def _one_line(text: str) -> str:
    """The text without line breaks and without characters that would steer a terminal."""
    parts = [part.strip() for part in text.splitlines()]
    joined = " / ".join(part for part in parts if part)
    return "".join(char if char.isprintable() else " " for char in joined)


def _cut(text: str, width: int) -> str:
    """The text on one line and at most ``width`` columns wide, with an ellipsis where it was cut."""
    text = _one_line(text)
    if _columns(text) <= width:
        return text
    used = kept = 0
    for char in text:
        used += _columns(char)
        if used > width - 1:
            break
        kept += 1
    return f"{text[:kept].rstrip()}…"


def _pad(text: str, width: int) -> str:
    """The text with blanks up to ``width`` columns."""
    return text + " " * max(width - _columns(text), 0)


def _columns(text: str) -> int:
    """Terminal columns a text takes: East Asian wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
