"""A stream at other moments: its state then, going back, another way from there, and what changed between two."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Select, delete, insert, literal, select, update

from evoemb._errors import InputError, StateError
from evoemb.state import MemoryState
from evoemb.store import rows, schema
from evoemb.store.core import Core
from evoemb.store.moments import Moment, seq_at
from evoemb.store.reading import state_of
from evoemb.store.rows import StreamRow
from evoemb.store.times import now
from evoemb.store.types import Difference, StoredTurn


def state_at(core: Core, name: str, as_of: Moment | None) -> MemoryState:
    """Return the memory of a stream, as reading it only so far would have left it. No model is needed."""
    with core.database.read() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        generation = rows.current_generation(connection)
        if generation is None:
            raise StateError("This store holds no turns yet. Add some first.")
        seq = stream.head if as_of is None else seq_at(connection, stream, as_of)
        _check_repaired(stream, seq)
        latents = rows.latent_rows(connection, generation, stream.id, seq)
        count = rows.count_turns(connection, stream.id, seq)
        unanswered = _unanswered(connection, stream, seq)
    if unanswered is None:
        return state_of(generation, latents, count)
    return state_of(generation, latents, count, unanswered, state_of(generation, latents[:-1], count - 1))


def turns_at(core: Core, name: str, as_of: Moment | None, after: int = 0) -> list[StoredTurn]:
    """Return the turns of a stream, as they were at a moment."""
    with core.database.read() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        seq = stream.head if as_of is None else seq_at(connection, stream, as_of)
        return rows.turns_between(connection, stream.id, after, seq)


def chain(core: Core, name: str, seq: int) -> list[StoredTurn]:
    """Return the turns that a turn replaced, itself, and those that replaced it, oldest first."""
    with core.database.read() as connection:
        start = (rows.known_stream(connection, core.tenant, name).id, seq)
        if not rows.present(connection, start[0], [seq]):
            raise InputError(f"The stream {name!r} has no turn {seq}. Pass the number of one that is there.")
        found, waiting = {start}, [start]
        while waiting:
            new = [place for place in rows.neighbours(connection, waiting) if place not in found]
            found.update(new)
            waiting = new
        turns = rows.stored_turns(connection, found)
    return sorted(turns.values(), key=lambda turn: (turn.recorded, turn.stream, turn.seq))


def fork(core: Core, name: str, new: str, at: Moment | None) -> int:
    """Copy a stream as it was at a moment under a new name, with turns, keys and snapshots; return how many turns."""
    with core.database.write() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        if rows.find_stream(connection, core.tenant, new) is not None:
            raise InputError(f"There is a stream {new!r} already. Fork under another name, or forget that one first.")
        seq = stream.head if at is None else seq_at(connection, stream, at, "at")
        stale = stream.stale_from if stream.stale_from is not None and stream.stale_from <= seq else None
        count = rows.count_turns(connection, stream.id, seq)
        last = connection.scalar(_last_seq(stream.id, seq)) or 0
        made = connection.execute(
            insert(schema.stream).values(
                tenant=core.tenant,
                user=stream.user,
                name=new,
                version=1,
                edition=0,
                head=last,
                next_seq=seq + 1,
                num_turns=count,
                zone=stream.zone,
                stale_from=stale,
                created=now(),
            )
        )
        target = int((made.inserted_primary_key or [0])[0])
        for table in (schema.turn, schema.turn_key, schema.reading, schema.snapshot):
            columns = [column for column in table.c if column.name != "stream"]
            values = [literal(1) if column.name == "written" else column for column in columns]
            taken = select(literal(target), *values).where(table.c.stream == stream.id, table.c.seq <= seq)
            connection.execute(insert(table).from_select(["stream", *(column.name for column in columns)], taken))
        # What a copied turn replaced in the old stream is replaced in the copy.
        t = schema.turn.c
        connection.execute(
            update(schema.turn).where(t.stream == target, t.replaces_stream == stream.id).values(replaces_stream=target)
        )
    return count


def rewind(core: Core, name: str, to: Moment) -> int:
    """Take away all turns after a moment, for good; return how many."""
    with core.locked(name), core.database.write() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        seq = seq_at(connection, stream, to, "to")
        gone = [one for one, _ in rows.texts_from(connection, stream.id, seq + 1)]
        if gone:
            s, p = schema.stream.c, schema.snapshot.c
            stale = stream.stale_from if stream.stale_from is not None and stream.stale_from <= seq else None
            values = {"version": stream.version + 1, "edition": stream.edition + 1, "stale_from": stale}
            connection.execute(update(schema.stream).where(s.id == stream.id).values(**values))
            take_away(connection, stream, gone)
            connection.execute(delete(schema.snapshot).where(p.stream == stream.id, p.seq > seq))
    if gone:
        core.database.erase()
    return len(gone)


def snapshot(core: Core, name: str, label: str) -> int:
    """Give a stream's present moment a name; return the number of its last turn. A name that is there moves."""
    with core.database.write() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        p = schema.snapshot.c
        connection.execute(delete(schema.snapshot).where(p.stream == stream.id, p.name == label))
        values = {"stream": stream.id, "name": label, "seq": stream.head, "created": now()}
        connection.execute(insert(schema.snapshot).values(**values))
    return stream.head


def difference(core: Core, name: str, first: Moment, second: Moment) -> Difference:
    """Return the turns that stand between two moments."""
    with core.database.read() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        start, end = seq_at(connection, stream, first, "first"), seq_at(connection, stream, second, "second")
        return Difference(
            rows.turns_between(connection, stream.id, start, end), rows.turns_between(connection, stream.id, end, start)
        )


def take_away(connection: Connection, stream: StreamRow, seqs: Sequence[int]) -> None:
    """Delete turns of a stream with all that was kept of them, and set what the stream's row says of its turns."""
    t, k, r, s = schema.turn.c, schema.turn_key.c, schema.reading.c, schema.stream.c
    for part in rows.parts(seqs):
        connection.execute(delete(schema.turn).where(t.stream == stream.id, t.seq.in_(part)))
        connection.execute(delete(schema.turn_key).where(k.stream == stream.id, k.seq.in_(part)))
        connection.execute(delete(schema.reading).where(r.stream == stream.id, r.seq.in_(part)))
        connection.execute(
            update(schema.turn)
            .where(t.replaces_stream == stream.id, t.replaces_seq.in_(part))
            .values(replaces_stream=None, replaces_seq=None)
        )
    head = connection.scalar(_last_seq(stream.id, stream.head)) or 0
    connection.execute(
        update(schema.stream)
        .where(s.id == stream.id)
        .values(head=head, num_turns=stream.num_turns - len(seqs), zone=stream.zone if head else "")
    )


def _check_repaired(stream: StreamRow, seq: int) -> None:
    """Refuse to build on turns that still show traces of a forgotten one.

    Raises:
        StateError: The stream waits for its repair.
    """
    if stream.stale_from is not None and seq >= stream.stale_from:
        raise StateError(
            f"The turns of {stream.name!r} from {stream.stale_from} on were read with a turn that is forgotten now, "
            "and wait to be read again. Call repair() of the stream first."
        )


def _unanswered(connection: Connection, stream: StreamRow, seq: int) -> str | None:
    """Return what the last turn up to ``seq`` says while its answer may come; None if it waits for none."""
    t = schema.turn.c
    said: str | None = connection.scalar(
        select(t.said).where(t.stream == stream.id, t.seq <= seq).order_by(t.seq.desc()).limit(1)
    )
    return said


def _last_seq(stream: int, seq: int) -> Select[tuple[int]]:
    t = schema.turn.c
    return select(t.seq).where(t.stream == stream, t.seq <= seq).order_by(t.seq.desc()).limit(1)
