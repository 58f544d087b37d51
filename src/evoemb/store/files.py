"""A store as a file of JSON lines, and such a file in a store: all that was kept, and nothing is read again."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError, StatementError

from evoemb._errors import InputError, StateError, StorageError
from evoemb._files import write_whole
from evoemb.store import rows, schema
from evoemb.store.core import Core
from evoemb.store.incoming import checked_name
from evoemb.store.reading import Generation, ReadTurn, spec_of_text, spec_text, unit_vectors
from evoemb.store.rows import StreamRow
from evoemb.store.types import Counted

FORMAT = "evoemb_store"
FORMAT_VERSION = 1
_TURN = ("seq", "role", "speaker", "text", "said", "time", "recorded")
_BYTES = ("vector", "latents", "open_ids")
_STREAM = ("version", "edition", "head", "next_seq", "num_turns", "stale_from", "zone")


def export(core: Core, path: str | os.PathLike[str], user: str | None) -> Counted:
    """Write the streams of a user, or all of the tenant's, to a file; gzip if its name ends in ``.gz``."""
    with core.database.read() as connection:
        generation = rows.current_generation(connection)
        streams = rows.streams_of(connection, core.tenant, user)
        lines = [json.dumps(_head(generation))]
        lines += [line for stream in streams for line in _lines_of(connection, generation, stream)]
    turns = sum(stream.num_turns for stream in streams)
    lines.append(json.dumps({"end": [len(streams), turns]}))
    content = ("\n".join(lines) + "\n").encode()
    is_packed = os.fspath(path).endswith(".gz")
    write_whole(path, gzip.compress(content, 6, mtime=0) if is_packed else content, new_mode=0o600)
    return Counted(len(streams), turns)


def import_(core: Core, path: str | os.PathLike[str]) -> Counted:
    """Take streams from a file that :func:`export` wrote, all of them or none.

    Raises:
        InputError: The file is no export, or a stream of it is here already.
        StateError: It was written with another model than this store's turns.
    """
    name = os.fspath(path)
    head, *lines = _read(path)
    if head.get(FORMAT) != FORMAT_VERSION:
        raise InputError(f"{name!s} is no export of a store. Pass a file that MemoryStore.export wrote.")
    streams: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    try:
        for line in lines[:-1]:
            if "stream" in line:
                streams.append((line, []))
            else:
                streams[-1][1].append(line)
        count = sum(len(turns) for _, turns in streams)
        if not lines or lines[-1].get("end") != [len(streams), count]:
            raise InputError(f"{name!s} is cut off, so nothing was taken from it. Export it again.")
        with core.database.write() as connection:
            generation = _generation(connection, head, str(name))
            ids = {about["stream"]: _add_stream(connection, core.tenant, about) for about, _ in streams}
            for about, turns in streams:
                _add_turns(connection, generation, ids, about, turns)
    except (KeyError, TypeError, IndexError, AttributeError, IntegrityError, StatementError) as error:
        raise InputError(f"{name!s} is damaged ({error!r:.80}), so nothing was taken from it.") from error
    return Counted(len(streams), count)


def _head(generation: Generation | None) -> dict[str, Any]:
    about: dict[str, Any] = {FORMAT: FORMAT_VERSION}
    if generation is not None:
        about |= {"spec": json.loads(spec_text(generation.spec)), "dimension": generation.dimension}
        about["precision"] = generation.precision
    return about


def _lines_of(connection: Connection, generation: Generation | None, stream: StreamRow) -> Iterator[str]:
    s, t, r, k, p = (table.c for table in _TABLES)
    created = connection.scalar(select(s.created).where(s.id == stream.id))
    names = connection.execute(select(p.name, p.seq, p.created).where(p.stream == stream.id).order_by(p.name))
    about = {name: getattr(stream, name) for name in _STREAM}
    snapshots = [list(row) for row in names]
    yield json.dumps({"stream": stream.name, "user": stream.user, "created": created, "snapshots": snapshots, **about})
    keys: dict[int, list[str]] = {}
    for row in connection.execute(select(k.seq, k.key).where(k.stream == stream.id).order_by(k.seq, k.key)):
        keys.setdefault(row.seq, []).append(row.key)
    number = 0 if generation is None else generation.id
    other = schema.stream.alias()
    found = connection.execute(
        select(
            *(t[name] for name in _TURN),
            t.metadata,
            t.replaces_seq,
            other.c.name,
            r.vector,
            r.latents,
            r.open_ids,
            r.num_open,
        )
        .select_from(
            schema.turn.join(
                schema.reading, (r.stream == t.stream) & (r.seq == t.seq) & (r.generation == number)
            ).outerjoin(other, other.c.id == t.replaces_stream)
        )
        .where(t.stream == stream.id)
        .order_by(t.seq)
    )
    for turn in found:
        line = {name: getattr(turn, name) for name in _TURN}
        line |= {"metadata": json.loads(turn.metadata), "keys": keys.get(turn.seq, []), "num_open": turn.num_open}
        line["replaces"] = None if turn.name is None else [turn.name, turn.replaces_seq]
        for name in _BYTES:
            line[name] = base64.b64encode(getattr(turn, name)).decode()
        yield json.dumps(line, ensure_ascii=False)


_TABLES = (schema.stream, schema.turn, schema.reading, schema.turn_key, schema.snapshot)


def _read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        lines = [json.loads(line) for line in content.decode().split("\n") if line.strip()]
    except (EOFError, gzip.BadGzipFile, ValueError) as error:
        raise InputError(f"{os.fspath(path)!s} is no export of a store, or it is cut off ({error}).") from error
    except OSError as error:
        raise StorageError(f"{os.fspath(path)!s} cannot be read: {error.strerror or error}. Check its name.") from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{os.fspath(path)!s} is no export of a store. Pass a file that MemoryStore.export wrote.")
    return lines


def _generation(connection: Connection, head: dict[str, Any], name: str) -> Generation | None:
    """Return the generation that the file's turns belong to; an empty store takes it over."""
    if "spec" not in head:
        return None
    theirs = Generation(0, spec_of_text(json.dumps(head["spec"])), head["dimension"], head["precision"])
    mine = rows.current_generation(connection)
    if mine is None:
        made = rows.add_generation(connection, theirs)
        connection.execute(insert(schema.meta).values(name="generation", value=str(made.id)))
        return made
    differences = mine.spec.differences(theirs.spec)
    for what in ("dimension", "precision"):
        if getattr(mine, what) != getattr(theirs, what):
            differences.append(f"{what} {getattr(mine, what)!r} against {getattr(theirs, what)!r}")
    if differences:
        raise StateError(
            f"{name} was written with {theirs.spec.model_id!r} and does not fit this store: {'; '.join(differences)} "
            "(store against file). Import it into a new store and call reembed(model) there."
        )
    return mine


def _add_stream(connection: Connection, tenant: str, about: dict[str, Any]) -> int:
    name = checked_name(about["stream"], "The stream's name")
    if rows.find_stream(connection, tenant, name) is not None:
        raise InputError(
            f"There is a stream {name!r} already, so nothing was taken from the file. Forget that one first."
        )
    values = {column: about[column] for column in ("user", "created", *_STREAM)}
    made = connection.execute(insert(schema.stream).values(tenant=tenant, name=name, **values))
    stream = int((made.inserted_primary_key or [0])[0])
    for label, seq, created in about["snapshots"]:
        connection.execute(insert(schema.snapshot).values(stream=stream, name=label, seq=seq, created=created))
    return stream


def _add_turns(
    connection: Connection,
    generation: Generation | None,
    ids: dict[str, int],
    about: dict[str, Any],
    turns: list[dict[str, Any]],
) -> None:
    if not turns:
        return
    if generation is None:
        raise KeyError("spec")
    stream = ids[about["stream"]]
    places = [
        (ids.get(line["replaces"][0]), line["replaces"][1]) if line["replaces"] else (None, None) for line in turns
    ]
    values = [
        {"stream": stream, "metadata": json.dumps(line["metadata"], ensure_ascii=False)}
        | {name: line[name] for name in _TURN}
        | {"replaces_stream": other, "replaces_seq": None if other is None else seq}
        for line, (other, seq) in zip(turns, places, strict=True)
    ]
    connection.execute(insert(schema.turn), values)
    keys = [{"stream": stream, "key": key, "seq": line["seq"]} for line in turns for key in line["keys"]]
    if keys:
        connection.execute(insert(schema.turn_key), keys)
    read = [(line["seq"], _reading(line)) for line in turns]
    unit_vectors([one.vector for _, one in read], generation)
    rows.add_readings(connection, generation.id, stream, about["version"], read)


def _reading(line: dict[str, Any]) -> ReadTurn:
    vector, latents, open_ids = (base64.b64decode(line[name], validate=True) for name in _BYTES)
    return ReadTurn(vector, latents, open_ids, line["num_open"])
