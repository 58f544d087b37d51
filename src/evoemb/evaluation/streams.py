"""Files of streams: JSON Lines, plain or gzip, one stream a line."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from evoemb._errors import InputError
from evoemb.evaluation.schema import EvalStream, parse_stream

_GZIP_MAGIC = b"\x1f\x8b"


def read_streams(path: str | os.PathLike[str], limit: int | None = None) -> list[EvalStream]:
    """Read the streams of a file in evoemb's stream format.

    Args:
        path: UTF-8 JSON Lines, gzip or not (told by content).
        limit: Streams read at most; None reads all.

    Raises:
        InputError: The file is empty, not JSON Lines, or a stream in it is malformed; file, line and field are named.
        OSError: The file cannot be read.
    """
    streams: list[EvalStream] = []
    seen: dict[str, int] = {}
    for number, line in lines_of(path):
        if limit is not None and len(streams) >= limit:
            break
        where = f"{path}, line {number}"
        stream = parse_stream(parse_json(line, where), where)
        if stream.stream_id in seen:
            raise InputError(
                f"{where}, stream_id: {stream.stream_id!r} stands in line {seen[stream.stream_id]} already. Give every "
                "stream its own id."
            )
        seen[stream.stream_id] = number
        streams.append(stream)
    if not streams:
        raise InputError(f"{path} holds no streams: it is empty. Expected one JSON object a line.")
    return streams


def write_streams(path: str | os.PathLike[str], streams: Iterable[EvalStream]) -> None:
    """Write streams in evoemb's stream format; gzip if the name ends in ``.gz``."""
    lines = "".join(json.dumps(stream.to_json(), ensure_ascii=False) + "\n" for stream in streams)
    content = lines.encode("utf-8")
    # No time in the header: the same streams give the same bytes.
    Path(path).write_bytes(gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Give the lines of a text file that are not blank, with their numbers from 1; gzip or not.

    Raises:
        InputError: It is not UTF-8, or the gzip data is damaged.
    """
    with Path(path).open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number + 1}: this is not UTF-8 text. Convert the file to UTF-8.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: the gzip data is damaged ({error}). Fetch it again.") from error


def parse_json(line: str, where: str) -> object:
    """``json.loads`` with an error that says where."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: this is not valid JSON ({error.msg}, column {error.colno}).") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where}: this JSON cannot be read ({error}).") from error
