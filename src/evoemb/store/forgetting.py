"""Forgetting: a turn as if it had never been read, a stream, a user; and the file holds nothing of them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from sqlalchemy import Connection, Select, delete, func, select, update

from evoemb._errors import InputError, InputTypeError, StateError
from evoemb.store import history, rows, schema
from evoemb.store.commits import TRIES, moved, wait_a_little
from evoemb.store.core import Core
from evoemb.store.reading import Generation, ReadTurn, read_turns_on
from evoemb.store.rows import StreamRow
from evoemb.store.types import Forgotten

Repair: TypeAlias = Literal["now", "later"]
REPAIRS: tuple[Repair, ...] = ("now", "later")


def checked_turns(turns: object) -> list[int]:
    """Return the numbers of turns that are to be forgotten, in order.

    Raises:
        InputError: None were given, or one is below 1.
        InputTypeError: They are no numbers.
    """
    given = [turns] if type(turns) is int else turns
    if not isinstance(given, Sequence) or not all(isinstance(one, int) and not isinstance(one, bool) for one in given):
        raise InputTypeError(f"forget takes a turn's number, or a list or range of them, but {turns!r:.60} was given.")
    if not given or min(given) < 1:
        raise InputError(f"forget was asked for the turns {list(given)!r:.60}. Turns are numbered from 1.")
    return sorted(set(given))


def forget_turns(core: Core, name: str, seqs: Sequence[int], repair: Repair) -> Forgotten:
    """Forget turns of a stream, and read those behind them again from the state before.

    Args:
        repair: ``"later"`` only marks those behind; :func:`repair_stream` reads them.
    """
    if repair not in REPAIRS:
        raise InputError(f"repair={repair!r} was given. Use one of: {', '.join(REPAIRS)}.")
    with core.locked(name):
        return _change(core, name, seqs, read_again=repair == "now")


def repair_stream(core: Core, name: str) -> int:
    """Read the turns again that are marked; return how many."""
    with core.database.read() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        if stream.stale_from is None:
            return 0
        marked = len(rows.texts_from(connection, stream.id, stream.stale_from))
    with core.locked(name):
        repair_held(core, name)
    return marked


def repair_held(core: Core, name: str) -> None:
    """Read the turns again that are marked, in the hands of one who holds the stream's lock."""
    _change(core, name, [], read_again=True)


def forget_streams(core: Core, name: str | None, user: str | None) -> Forgotten:
    """Forget a stream, or all streams of a user, with everything that was kept of them."""
    s = schema.stream.c
    chosen = select(s.id).where(s.tenant == core.tenant)
    chosen = chosen if name is None else chosen.where(s.name == name)
    chosen = chosen if user is None else chosen.where(s.user == user)
    with core.database.write() as connection:
        turns = _delete_streams(connection, chosen)
        streams = connection.execute(delete(schema.stream).where(s.id.in_(chosen))).rowcount
    core.states.clear()
    core.vectors.clear()
    return Forgotten(streams, turns, core.database.erase())


class _Plan(NamedTuple):
    """What is forgotten of a stream as it is, and what the turns behind it give when they are read again."""

    stream: StreamRow
    generation: Generation
    gone: list[int]
    first: int
    read: list[tuple[int, ReadTurn]]
    stale_from: int | None


def _change(core: Core, name: str, seqs: Sequence[int], *, read_again: bool) -> Forgotten:
    for attempt in range(TRIES):
        plan = _plan(core, name, seqs, read_again=read_again)
        if plan is None:
            return Forgotten(0, 0)
        if _keep(core, plan):
            core.vectors.drop((plan.generation.id, plan.stream.id))
            return Forgotten(0, len(plan.gone), core.database.erase())
        wait_a_little(attempt)
    raise StateError(f"The stream {name!r} was changed by others {TRIES} times, so nothing was forgotten. Call again.")


def _plan(core: Core, name: str, seqs: Sequence[int], *, read_again: bool) -> _Plan | None:
    """Return what is to be done; None if there is nothing."""
    with core.database.read() as connection:
        stream = rows.known_stream(connection, core.tenant, name)
        if seqs and seqs[-1] >= stream.next_seq:
            raise InputError(
                f"The stream {name!r} has no turn {seqs[-1]}: the last number it gave was {stream.next_seq - 1}."
            )
        gone = rows.present(connection, stream.id, seqs)
        starts = [*gone[:1], *([] if stream.stale_from is None else [stream.stale_from])]
        if not gone and (not starts or not read_again):
            return None
        first = min(starts)
        behind = [(seq, text) for seq, text in rows.texts_from(connection, stream.id, first) if seq not in set(gone)]
        if not read_again or not behind:
            generation = rows.current_generation(connection)
            if generation is None:
                raise StateError("This store holds no model's readings. Import it again.")
            return _Plan(stream, generation, gone, first, [], first if behind else None)
        generation = core.generation(connection)
        state = core.state(connection, generation, stream, first - 1)
    (read,) = read_turns_on(core.model, generation, [state[0:1]], [[text for _, text in behind]])
    numbered = [(seq, one) for (seq, _), one in zip(behind, read, strict=True)]
    return _Plan(stream, generation, gone, first, numbered, None)


def _keep(core: Core, plan: _Plan) -> bool:
    """Delete and write, if the stream is still as it was; say whether it was."""
    stream, r = plan.stream, schema.reading.c
    with core.database.write() as connection:
        if not moved(connection, stream, plan.generation, edition=stream.edition + 1, stale_from=plan.stale_from):
            return False
        history.take_away(connection, stream, plan.gone)
        if plan.read:
            connection.execute(
                delete(schema.reading).where(
                    r.generation == plan.generation.id, r.stream == stream.id, r.seq >= plan.first
                )
            )
            rows.add_readings(connection, plan.generation.id, stream.id, stream.version + 1, plan.read)
    return True


def _delete_streams(connection: Connection, chosen: Select[tuple[int]]) -> int:
    """Delete what lies under the chosen streams; return how many turns there were."""
    t = schema.turn.c
    count = int(connection.scalar(select(func.count()).where(t.stream.in_(chosen))) or 0)
    connection.execute(
        update(schema.turn).where(t.replaces_stream.in_(chosen)).values(replaces_stream=None, replaces_seq=None)
    )
    for table in (schema.turn, schema.turn_key, schema.reading, schema.snapshot, schema.progress):
        connection.execute(delete(table).where(table.c.stream.in_(chosen)))
    return count
