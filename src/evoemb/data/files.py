"""The one reader and writer of text files: plain or gzip, JSON Lines or one JSON value, errors with file and line."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from evoemb._errors import InputError
from evoemb._files import write_whole

FilePath = str | os.PathLike[str]

STANDARD_INPUT = "-"
"""The path that stands for standard input."""

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = "\ufeff"
_LOOKS_LIKE_JSON = re.compile(r"\s*(\{|\[\s*[\[{\"])")  # not "[12:30] hello", a common start of a chat log


class Item(NamedTuple):
    """A value of a file, and where it stands, as an error would say it."""

    value: Any
    where: str


class Line(NamedTuple):
    """A line of a file, without its line end, and where it stands."""

    text: str
    where: str


def name_of(path: FilePath) -> str:
    """Return what errors call a file."""
    return "standard input" if path == STANDARD_INPUT else os.fspath(path)


def lines_of(path: FilePath) -> Iterator[Line]:
    """Yield the lines that are not blank, one at a time, so that a file may be larger than the memory.

    Args:
        path: UTF-8 text, gzip or not (found from the content), byte order mark or not; ``"-"`` is standard input.

    Raises:
        InputError: It is not UTF-8, or the gzip data is damaged or cut; file and line are named.
        OSError: The file cannot be read.
    """
    return (line for line in _all_lines(path) if line.text.strip())


def read_text(path: FilePath) -> str:
    """Return the text of a file, with line feeds as line ends; raises as `lines_of`."""
    return "\n".join(line.text for line in _all_lines(path))


def read_json(path: FilePath) -> Any:
    """Return the JSON value of a file; raises as `lines_of`, and InputError if it is no JSON."""
    name = name_of(path)
    try:
        return _loads(read_text(path), name)
    except json.JSONDecodeError as error:
        raise _no_json(error, f"{name}, line {error.lineno}") from error


def json_items(path: FilePath) -> Iterator[Item]:
    """Yield the values of JSON Lines one at a time; of one JSON list its elements, of one other JSON value itself.

    Raises:
        InputError: As `lines_of`, or something is no JSON.
        OSError: The file cannot be read.
    """
    lines = _all_lines(path)
    read: list[str] = []
    for line in lines:
        read.append(line.text)
        if line.text.strip():
            break
    if not read or not read[-1].strip():
        return
    if not isinstance(_value_or_none(read[-1]), dict):  # a line of many, or the first line of one long value
        text = "\n".join([*read, *(line.text for line in lines)])
        yield from items_of_text(text, name_of(path), forced=True) or ()
        return
    yield _parsed(line)
    for line in lines:
        if line.text.strip():
            yield _parsed(line)


def items_of_text(text: str, name: str, *, forced: bool, or_else: str = "") -> list[Item] | None:
    """Return the JSON values of a text, as `json_items`; None if it is plain text (never if JSON is ``forced``).

    Args:
        or_else: What else than to repair it an error shall advise.

    Raises:
        InputError: It is meant as JSON but is broken; ``name`` and line are named.
    """
    try:
        value = _loads(text, name)
    except json.JSONDecodeError as error:
        broken = error
    else:
        if isinstance(value, list):
            return [Item(element, f"{name}, element {index}") for index, element in enumerate(value)]
        return [Item(value, name)] if forced or isinstance(value, dict | str) else None
    # Split at line feeds only: a JSON string may hold the other characters that str.splitlines splits at.
    lines = [Line(line, f"{name}, line {number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and isinstance(_value_or_none(lines[0].text), dict | list | str):
        return [_parsed(line, or_else) for line in lines]
    if forced or _LOOKS_LIKE_JSON.match(text):
        raise _no_json(broken, f"{name}, line {broken.lineno}", or_else) from broken
    return None


def write_json_lines(path: FilePath, values: Iterable[Any]) -> None:
    """Write values as JSON Lines, gzip if the name ends in ``.gz``; the file is there whole or not at all.

    Raises:
        StorageError: It cannot be written. What was there before is unchanged.
    """
    content = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode("utf-8")
    # No time in the header: the same values give the same bytes.
    write_whole(path, gzip.compress(content, mtime=0) if os.fspath(path).lower().endswith(".gz") else content)


def _all_lines(path: FilePath) -> Iterator[Line]:
    """Yield every line; the file is opened once, as a pipe can be read only once."""
    name, number = name_of(path), 0
    with _opened(path) as file:
        try:
            for number, content in enumerate(file, 1):
                yield Line(_decoded(content, f"{name}, line {number}", is_first=number == 1), f"{name}, line {number}")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                f"{name}, after line {number}: the gzip data is damaged ({error}). Fetch the file again."
            ) from error


def _decoded(content: bytes, where: str, *, is_first: bool) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: this is not UTF-8 text. Convert the file to UTF-8.") from error
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix(_BYTE_ORDER_MARK) if is_first else text


@contextlib.contextmanager
def _opened(path: FilePath) -> Iterator[IO[bytes]]:
    """Open a file for reading its bytes, unpacked if it is gzip."""
    content = io.BytesIO(sys.stdin.buffer.read()) if path == STANDARD_INPUT else None
    with Path(path).open("rb") if content is None else io.BufferedReader(content) as file:
        if file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] != _GZIP_MAGIC:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked  # type: ignore[misc]  # it reads bytes, too


def _parsed(line: Line, or_else: str = "") -> Item:
    """Return the value of a line of JSON."""
    try:
        return Item(_loads(line.text, line.where), line.where)
    except json.JSONDecodeError as error:
        raise _no_json(error, line.where, or_else) from error


def _value_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _loads(text: str, where: str) -> Any:
    """``json.loads``, with the two failures it does not report as its own."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise InputError(f"{where}: this JSON is nested too deeply. Is it the right file?") from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise InputError(f"{where}: this JSON cannot be read ({error}).") from error


def _no_json(error: json.JSONDecodeError, where: str, or_else: str = "") -> InputError:
    return InputError(f"{where}: this is not valid JSON ({error.msg}, column {error.colno}). Repair it{or_else}.")
