"""Another model for a store: it reads everything again beside the one in use, then takes its place in one commit."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from tqdm import tqdm

from evoemb._errors import InputError
from evoemb.store import rows, schema
from evoemb.store.core import Core
from evoemb.store.reading import Generation, generation_of, read_turns_on, spec_text, state_of

_CALLS_A_COMMIT = 8


def reembed(core: Core, model: Any, *, progress: bool) -> int:
    """Let a model read all turns of all tenants again, and use it from then on.

    Readers and writers go on with the model of before until the end. A call that was broken off goes on where it was.

    Returns:
        Turns that were read; 0 where the store is this model's already.
    """
    if core.tenant:
        raise InputError("A model is changed for all tenants together. Open the store without tenant= to do so.")
    count = 0
    generation = _begun(core, model)
    if generation is not None:
        with core.database.read() as connection:
            total = sum(_waiting(connection, generation).values())
        with tqdm(total=total, desc="Reading again", unit="turn", disable=not progress) as bar:
            while not _switched(core, generation):
                for stream in _unfinished(core, generation):
                    while done := _read_on(core, model, generation, stream):
                        count += done
                        bar.update(done)
    core.use_model(model)
    core.states.clear()
    core.vectors.clear()
    _remove_others(core)
    return count


def _begun(core: Core, model: Any) -> Generation | None:
    """Return the generation that the model's readings go to; None if the store is the model's already."""
    with core.database.write() as connection:
        current = rows.current_generation(connection)
        if current is None:
            return None
        wanted = generation_of(model, core.precision or current.precision)
        if not current.spec.differences(wanted.spec) and current[2:] == wanted[2:]:
            return None
        g = schema.generation.c
        found = connection.scalar(
            select(g.id).where(
                g.spec == spec_text(wanted.spec),
                g.dimension == wanted.dimension,
                g.precision == wanted.precision,
                g.id != current.id,
            )
        )
        return wanted._replace(id=int(found)) if found is not None else rows.add_generation(connection, wanted)


class _Next(NamedTuple):
    """What of a stream is read next."""

    version: int
    seqs: list[int]
    texts: list[str]


def _read_on(core: Core, model: Any, generation: Generation, stream: int) -> int:
    """Read the next turns of a stream and keep what they left; return how many, 0 if none are left."""
    s = schema.stream.c
    while True:
        with core.database.read() as connection:
            todo = _next(connection, generation, stream)
            if todo is None:
                return 0
            last = todo.seqs[0] - 1
            latents = rows.latent_rows(connection, generation, stream, last)
            state = state_of(generation, latents, rows.count_turns(connection, stream, last))
        (read,) = read_turns_on(model, generation, [state], [todo.texts])
        try:
            with core.database.write() as connection:
                same = update(schema.stream).where(s.id == stream, s.version == todo.version)
                if connection.execute(same.values(version=todo.version)).rowcount:  # and it is held until the commit
                    numbered = list(zip(todo.seqs, read, strict=True))
                    rows.add_readings(connection, generation.id, stream, todo.version, numbered)
                    return len(read)
        except IntegrityError:  # another process reads the same stream for the same model
            continue


def _next(connection: Connection, generation: Generation, stream: int) -> _Next | None:
    """Return the turns of a stream that come next; None if there are none."""
    s, t, r = schema.stream.c, schema.turn.c, schema.reading.c
    version = connection.scalar(select(s.version).where(s.id == stream))
    done = connection.scalar(select(func.max(r.seq)).where(r.generation == generation.id, r.stream == stream)) or 0
    asked = select(t.seq, t.text).where(t.stream == stream, t.seq > done).order_by(t.seq)
    found = connection.execute(asked.limit(generation.turns_a_call * _CALLS_A_COMMIT)).all()
    if version is None or not found:
        return None
    return _Next(version, [row.seq for row in found], [row.text for row in found])


def _unfinished(core: Core, generation: Generation) -> list[int]:
    """Return the streams with turns that wait; what was read before turns were taken away is dropped."""
    s, p = schema.stream.c, schema.progress.c
    with core.database.write() as connection:
        known = {
            row.stream: row.edition
            for row in connection.execute(select(p.stream, p.edition).where(p.generation == generation.id))
        }
        for stream, edition in connection.execute(select(s.id, s.edition)).all():
            if known.get(stream) == edition:
                continue
            for table in (schema.reading, schema.progress):
                connection.execute(delete(table).where(table.c.generation == generation.id, table.c.stream == stream))
            values = {"generation": generation.id, "stream": stream, "edition": edition}
            connection.execute(insert(schema.progress).values(**values))
        return sorted(_waiting(connection, generation))


def _waiting(connection: Connection, generation: Generation) -> dict[int, int]:
    """Return how many turns of each stream the model has not read, or read before others were taken away."""
    t, r, s, p = schema.turn.c, schema.reading.c, schema.stream.c, schema.progress.c
    joined = (
        schema.turn.join(schema.stream, s.id == t.stream)
        .outerjoin(schema.progress, and_(p.generation == generation.id, p.stream == t.stream))
        .outerjoin(schema.reading, and_(r.generation == generation.id, r.stream == t.stream, r.seq == t.seq))
    )
    missing = or_(r.seq.is_(None), p.edition.is_(None), p.edition != s.edition)
    asked = select(t.stream, func.count().label("turns")).select_from(joined).where(missing).group_by(t.stream)
    return {row.stream: row.turns for row in connection.execute(asked)}


def _switched(core: Core, generation: Generation) -> bool:
    """Use the new readings from now on, if they are complete; return whether they were."""
    with core.database.write() as connection:
        m = schema.meta.c
        connection.execute(  # first of all: every writer that has begun is waited for
            update(schema.meta).where(m.name == "generation").values(value=str(generation.id))
        )
        if _waiting(connection, generation):
            connection.rollback()
            return False
        connection.execute(update(schema.stream).values(stale_from=None, version=schema.stream.c.version + 1))
    return True


def _remove_others(core: Core) -> None:
    """Delete what other models made of the turns."""
    with core.database.write() as connection:
        current = rows.current_generation(connection)
        if current is None:
            return
        for table in (schema.reading, schema.progress):
            connection.execute(delete(table).where(table.c.generation != current.id))
        connection.execute(delete(schema.progress))
        connection.execute(delete(schema.generation).where(schema.generation.c.id != current.id))
    core.database.erase()
