"""Reading and writing single rows: streams, turns and what a model made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, and_, func, insert, select

from evoemb._errors import InputError
from evoemb.store import schema
from evoemb.store.incoming import NewTurn
from evoemb.store.reading import Generation, LatentRow, ReadTurn, spec_of_text, spec_text
from evoemb.store.times import Instant, datetime_of, now
from evoemb.store.types import StoredTurn, TurnId

T = TypeVar("T")
_MANY = 500  # values in one statement: every database takes as many


class StreamRow(NamedTuple):
    """One stream as its row says."""

    id: int
    user: str
    name: str
    version: int
    edition: int
    head: int
    next_seq: int
    num_turns: int
    stale_from: int | None
    zone: str


_STREAM = [schema.stream.c[name] for name in StreamRow._fields]


def find_stream(connection: Connection, tenant: str, name: str) -> StreamRow | None:
    """Return a stream by its name; None if there is none."""
    s = schema.stream.c
    row = connection.execute(select(*_STREAM).where(s.tenant == tenant, s.name == name)).first()
    return None if row is None else StreamRow(*row)


def known_stream(connection: Connection, tenant: str, name: str) -> StreamRow:
    """Return a stream by its name.

    Raises:
        InputError: There is none.
    """
    found = find_stream(connection, tenant, name)
    if found is None:
        raise InputError(f"There is no stream {name!r} in this store. Only add() makes one.")
    return found


def streams_of(connection: Connection, tenant: str, user: str | None = None) -> list[StreamRow]:
    """Return the streams of a user, or of all, in the order in which they were made."""
    s = schema.stream.c
    asked = select(*_STREAM).where(s.tenant == tenant).order_by(s.id)
    return [StreamRow(*row) for row in connection.execute(asked if user is None else asked.where(s.user == user))]


def counts(connection: Connection, tenant: str) -> dict[str, int | str]:
    """Return how many streams, users and turns there are, and which model read them."""
    s = schema.stream.c
    users_named = func.count(func.nullif(s.user, "").distinct())
    asked = select(func.count(), users_named, func.coalesce(func.sum(s.num_turns), 0))
    streams, users, turns = connection.execute(asked.where(s.tenant == tenant)).one()
    generation = current_generation(connection)
    about = {} if generation is None else {"model": generation.spec.model_id, "precision": generation.precision}
    return {"streams": streams, "users": users, "turns": int(turns), **about}


def current_generation(connection: Connection) -> Generation | None:
    """Return the model that the store's turns were read with; None before the first turn."""
    chosen = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "generation"))
    if chosen is None:
        return None
    g = schema.generation.c
    row = connection.execute(select(g.id, g.spec, g.dimension, g.precision).where(g.id == int(chosen))).one()
    return Generation(row.id, spec_of_text(row.spec), row.dimension, row.precision)


def add_generation(connection: Connection, generation: Generation) -> Generation:
    """Write a generation and return it with its number."""
    values = {"spec": spec_text(generation.spec), "dimension": generation.dimension, "precision": generation.precision}
    made = connection.execute(insert(schema.generation).values(**values))
    return generation._replace(id=int((made.inserted_primary_key or [0])[0]))


def latent_rows(connection: Connection, generation: Generation, stream: int, seq: int) -> list[LatentRow]:
    """Return the rows that the state after turn ``seq`` is built from, oldest first."""
    r = schema.reading.c
    asked = (
        select(r.latents, r.open_ids, r.num_open)
        .where(r.generation == generation.id, r.stream == stream, r.seq <= seq)
        .order_by(r.seq.desc())
        .limit(generation.rows_a_state)
    )
    return [LatentRow(*row) for row in connection.execute(asked)][::-1]


def count_turns(connection: Connection, stream: int, seq: int) -> int:
    """Return how many turns there are up to ``seq``."""
    t = schema.turn.c
    return int(connection.scalar(select(func.count()).where(t.stream == stream, t.seq <= seq)) or 0)


def texts_from(connection: Connection, stream: int, seq: int) -> list[tuple[int, str]]:
    """Return number and text of the turns from ``seq`` on, in order."""
    t = schema.turn.c
    asked = select(t.seq, t.text).where(t.stream == stream, t.seq >= seq).order_by(t.seq)
    return [(row.seq, row.text) for row in connection.execute(asked)]


def present(connection: Connection, stream: int, seqs: Sequence[int]) -> list[int]:
    """Return those of some turns that are there, in order."""
    t = schema.turn.c
    found: list[int] = []
    for part in parts(seqs):
        found += connection.scalars(select(t.seq).where(t.stream == stream, t.seq.in_(part)))
    return sorted(found)


def add_readings(
    connection: Connection, generation: int, stream: int, version: int, read: Sequence[tuple[int, ReadTurn]]
) -> None:
    """Write what a model made of turns, given as number and reading."""
    if read:
        about = {"generation": generation, "stream": stream, "written": version}
        connection.execute(insert(schema.reading), [{**about, "seq": seq, **one._asdict()} for seq, one in read])


def add_turns(
    connection: Connection, stream: int, turns: Sequence[tuple[int, NewTurn]], replaces: tuple[int, int] | None = None
) -> None:
    """Write turns, given as number and turn, and their keys."""
    moment = now()
    other, other_seq = replaces or (None, None)
    values = [
        {
            "stream": stream,
            "seq": seq,
            "role": one.role,
            "speaker": one.speaker,
            "text": one.text,
            "said": one.said,
            "time": None if one.time is None else one.time.micros,
            "recorded": moment,
            "metadata": json.dumps(one.metadata, ensure_ascii=False),
            "replaces_stream": other,
            "replaces_seq": other_seq,
        }
        for seq, one in turns
    ]
    connection.execute(insert(schema.turn), values)
    keys = [{"stream": stream, "key": key, "seq": seq} for seq, one in turns for key in one.keys]
    if keys:
        connection.execute(insert(schema.turn_key), keys)


def seqs_of_keys(connection: Connection, stream: int, keys: Iterable[str]) -> dict[str, int]:
    """Return the turns that were added with these keys."""
    k = schema.turn_key.c
    found: dict[str, int] = {}
    for part in parts(list(keys)):
        asked = select(k.key, k.seq).where(k.stream == stream, k.key.in_(part))
        found.update((row.key, row.seq) for row in connection.execute(asked))
    return found


def stored_turns(connection: Connection, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], StoredTurn]:
    """Return turns by stream id and number; those that are gone are left out."""
    found: dict[tuple[int, int], StoredTurn] = {}
    for stream, seqs in _grouped(places):
        found |= _turns_where(connection, and_(schema.turn.c.stream == stream, schema.turn.c.seq.in_(seqs)))
    return found


def turns_between(connection: Connection, stream: int, after: int, up_to: int) -> list[StoredTurn]:
    """Return the turns of a stream behind ``after``, up to ``up_to``, in order."""
    t = schema.turn.c
    found = _turns_where(connection, and_(t.stream == stream, t.seq > after, t.seq <= up_to))
    return [found[place] for place in sorted(found)]


def _turns_where(connection: Connection, condition: Any) -> dict[tuple[int, int], StoredTurn]:
    turn, stream, other = schema.turn, schema.stream, schema.stream.alias()
    joined = turn.join(stream, stream.c.id == turn.c.stream).outerjoin(other, other.c.id == turn.c.replaces_stream)
    columns: list[Any] = [
        turn,
        stream.c.name.label("name"),
        stream.c.zone.label("zone"),
        stream.c.stale_from,
        other.c.name.label("other"),
    ]
    rows = connection.execute(select(*columns).select_from(joined).where(condition)).all()
    followers = replaced_by(connection, [(row.stream, row.seq) for row in rows])
    return {(row.stream, row.seq): _stored(row, followers.get((row.stream, row.seq), ())) for row in rows}


def replaced_by(connection: Connection, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[TurnId, ...]]:
    """Return, for turns by stream id and number, the turns that took their place, oldest first."""
    t, s = schema.turn.c, schema.stream.c
    found: dict[tuple[int, int], tuple[TurnId, ...]] = {}
    for stream, seqs in _grouped(places):
        asked = select(t.replaces_seq, s.name, t.seq).where(
            s.id == t.stream, t.replaces_stream == stream, t.replaces_seq.in_(seqs)
        )
        for row in connection.execute(asked.order_by(t.recorded, t.stream, t.seq)):
            place = (stream, row.replaces_seq)
            found[place] = (*found.get(place, ()), TurnId(row.name, row.seq))
    return found


def neighbours(connection: Connection, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the turns that some turns replace, and those that replace them, by stream id and number."""
    t = schema.turn.c
    found: list[tuple[int, int]] = []
    for stream, seqs in _grouped(places):
        old = select(t.replaces_stream, t.replaces_seq).where(
            t.stream == stream, t.seq.in_(seqs), t.replaces_stream.is_not(None)
        )
        new = select(t.stream, t.seq).where(t.replaces_stream == stream, t.replaces_seq.in_(seqs))
        found += [(row[0], row[1]) for asked in (old, new) for row in connection.execute(asked)]
    return found


def _grouped(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Return turns as numbers of one stream, as many as one statement takes."""
    by_stream: dict[int, list[int]] = {}
    for stream, seq in places:
        by_stream.setdefault(stream, []).append(seq)
    for stream, seqs in by_stream.items():
        yield from ((stream, part) for part in parts(seqs))


def parts(values: Sequence[T]) -> Iterator[list[T]]:
    """Return values in parts that one statement takes."""
    for start in range(0, len(values), _MANY):
        yield list(values[start : start + _MANY])


def instant(micros: int, zone: str) -> Instant:
    """Return a time that was given, as it is handed in."""
    return Instant(micros, "naive" if zone == "naive" else "aware")


def _stored(row: Any, followers: tuple[TurnId, ...]) -> StoredTurn:
    given = row.time is not None
    return StoredTurn(
        stream=row.name,
        seq=row.seq,
        text=row.text,
        time=datetime_of(row.time if given else row.recorded, row.zone),
        metadata=json.loads(row.metadata),
        speaker=row.speaker,
        role=row.role,
        recorded=datetime_of(row.recorded, "aware"),
        replaces=None if row.other is None else TurnId(row.other, row.replaces_seq),
        replaced_by=followers,
        is_stale=row.stale_from is not None and row.seq > row.stale_from,
    )
