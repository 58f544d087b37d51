"""Files of streams: JSON Lines, plain or gzip, one stream a line."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

from evoemb._errors import InputError
from evoemb.data.files import lines_of, parse_json
from evoemb.evaluation.schema import EvalStream, parse_stream


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
