"""Files of streams: JSON Lines, plain or gzip, one stream a line."""

from __future__ import annotations

import os
from collections.abc import Iterable

from evoemb._errors import InputError
from evoemb.data.files import Item, json_items, name_of, write_json_lines
from evoemb.evaluation.schema import EvalStream, parse_stream


def read_streams(path: str | os.PathLike[str], limit: int | None = None) -> list[EvalStream]:
    """Read the streams of a file in evoemb's stream format.

    Args:
        path: UTF-8 JSON Lines or one JSON list, gzip or not (found from the content); ``"-"`` is standard input.
        limit: Streams read at most; None reads all.

    Raises:
        InputError: The file is empty, not JSON, or a stream in it is malformed; file, line and field are named.
        OSError: The file cannot be read.
    """
    return streams_of(json_items(path), name_of(path), limit)


def streams_of(items: Iterable[Item], name: str, limit: int | None = None) -> list[EvalStream]:
    """Return the streams that the values of a file are; ``name`` is the file's. Raises as :func:`read_streams`."""
    streams: list[EvalStream] = []
    seen: dict[str, str] = {}
    for value, where in items:
        if limit is not None and len(streams) >= limit:
            break
        stream = parse_stream(value, where)
        if stream.stream_id in seen:
            raise InputError(
                f"{where}, stream_id: {stream.stream_id!r} stands in {seen[stream.stream_id]} already. Give every "
                "stream its own id."
            )
        seen[stream.stream_id] = where.removeprefix(f"{name}, ")
        streams.append(stream)
    if not streams:
        raise InputError(f"{name} holds no streams: it is empty. Expected one JSON object a line.")
    return streams


def write_streams(path: str | os.PathLike[str], streams: Iterable[EvalStream]) -> None:
    """Write streams in evoemb's stream format; gzip if the name ends in ``.gz``."""
    write_json_lines(path, (stream.to_json() for stream in streams))
