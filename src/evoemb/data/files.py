"""The one reader of text files: plain or gzip as its content tells, with a byte order mark or none, standard input."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from evoemb._errors import InputError

STANDARD_INPUT = "standard input"
_GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file, or of standard input for ``"-"``.

    Raises:
        InputError: It is not UTF-8, or its gzip data is damaged or cut off; the text names the file.
        OSError: The file cannot be read.
    """
    with _opened(path) as (file, name):
        content = file.read()
    try:
        return str(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: this is not UTF-8 text. Convert the file to UTF-8.") from error


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers from 1; the file is never held as a whole.

    Lines end at line feeds only: a JSON string may hold the other characters that ``str.splitlines`` splits at.

    Raises:
        InputError: As :func:`read_text`.
    """
    number = 0
    with _opened(path) as (file, name):
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}, line {number + 1}: this is not UTF-8 text. Convert the file to UTF-8."
            ) from error
        finally:
            lines.detach()  # the file is closed below, not by the wrapper


def parse_json(text: str, where: str, *, whole_file: bool = False) -> Any:
    """Return the JSON value of a text.

    Raises:
        InputError: It is not JSON, nested too deeply, or holds a number of thousands of digits; ``where`` is named.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if whole_file else ""
        raise InputError(f"{where}{line}: this is not valid JSON ({error.msg}, column {error.colno}).") from error
    except RecursionError as error:
        raise InputError(f"{where}: this JSON is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{where}: this JSON cannot be read ({error}).") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON value of a file; raises as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path), str(path), whole_file=True)


def read_json_rows(path: str | os.PathLike[str]) -> list[Any]:
    """Return the rows of a file: the elements of a JSON list, one JSON object, or one value a line.

    Raises:
        InputError: As :func:`read_text`; or a line is not JSON, which is then named.
    """
    text = read_text(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        lines = enumerate(text.split("\n"), 1)
        return [parse_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    return whole if isinstance(whole, list) else [whole]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
    """Open a file's bytes, unpacked if they are packed, and give what to call it; damage becomes an InputError."""
    name = STANDARD_INPUT if str(path) == "-" else str(path)
    with nullcontext(sys.stdin.buffer) if name == STANDARD_INPUT else Path(path).open("rb") as raw:
        buffered: Any = raw if hasattr(raw, "peek") else io.BytesIO(raw.read())
        buffered = io.BufferedReader(buffered) if isinstance(buffered, io.BytesIO) else buffered
        try:
            if buffered.peek(2)[:2] == _GZIP_MAGIC:
                with gzip.open(buffered, "rb") as unpacked:
                    yield unpacked, name
            else:
                yield buffered, name
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name}: the gzip data is damaged or cut off ({error}). Fetch it again.") from error
