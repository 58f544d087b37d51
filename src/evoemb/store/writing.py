"""Adding turns: read outside of the transaction, then kept all together if the stream has not moved meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from evoemb._errors import InputError, StateError
from evoemb.state import MemoryState
from evoemb.store import rows, schema
from evoemb.store.commits import TRIES, moved, wait_a_little
from evoemb.store.core import Core
from evoemb.store.forgetting import repair_held
from evoemb.store.incoming import NewTurn, Piece, turns_of
from evoemb.store.reading import Generation, ReadTurn, read_turns_on
from evoemb.store.rows import StreamRow
from evoemb.store.times import now, same_zone


class Request(NamedTuple):
    """What is to be added to a stream.

    Args:
        replaces: Stream and number of the turn whose place the new one takes.
        head: The number of the last turn that the caller knows; None to add behind whatever there is.
    """

    name: str
    user: str
    pieces: Sequence[Piece]
    replaces: tuple[str, int] | None = None
    head: int | None = None


class _Plan(NamedTuple):
    """What a request adds to a stream as it is.

    Args:
        first: The number of the first turn.
        is_continued: Whether that turn is the stream's last one, which is read again with what continues it.
        known: The turns that hold what was there already.
    """

    request: Request
    stream: StreamRow | None
    generation: Generation
    state: MemoryState
    turns: list[NewTurn]
    first: int
    is_continued: bool
    zone: str
    replaces: tuple[int, int] | None
    known: list[int]

    @property
    def numbers(self) -> list[int]:
        """The turns that hold what was given."""
        return sorted({*self.known, *range(self.first, self.first + len(self.turns))})


def add(core: Core, requests: Sequence[Request]) -> list[list[int]]:
    """Add turns to streams side by side, in one commit.

    Returns:
        For every stream the numbers of its turns; of turns whose key is known, the number they have.

    Raises:
        StateError: A stream's head is not the one the caller knows.
    """
    with ExitStack() as locks:
        for name in sorted({request.name for request in requests}):  # in one order, so that nobody waits in a circle
            locks.enter_context(core.locked(name))
        for attempt in range(TRIES):
            with core.database.read() as connection:
                plans = [_plan(core, connection, request) for request in requests]
            if stale := [one for one in plans if one.turns and one.stream is not None and one.stream.stale_from]:
                for one in stale:  # later turns must not build on what is forgotten
                    repair_held(core, one.request.name)
                continue
            todo = [plan for plan in plans if plan.turns]
            if not todo or _read_and_keep(core, todo):
                return [plan.numbers for plan in plans]
            wait_a_little(attempt)
    names = ", ".join(repr(request.name) for request in requests[:3])
    raise StateError(
        f"The streams {names} were changed by others {TRIES} times while these turns were read: they are not added. "
        "Call again, or let one process write to a stream."
    )


def _read_and_keep(core: Core, plans: Sequence[_Plan]) -> bool:
    """Read and write turns; return whether the streams were still as they had been planned for."""
    plans = sorted(plans, key=lambda plan: plan.request.name)  # as all do, so that nobody waits in a circle
    states = [plan.state[0:1] for plan in plans]
    read = read_turns_on(core.model, plans[0].generation, states, [[one.text for one in plan.turns] for plan in plans])
    try:
        with core.database.write() as connection:
            generation = _written(connection, plans[0].generation)
            kept = [_keep(connection, core, generation, *pair) for pair in zip(plans, read, strict=True)]
    except _MovedError:
        return False
    for stream, state in zip(kept, states, strict=True):
        core.states.put((generation.id, stream.id, stream.version), state)
    return True


class _MovedError(Exception):
    """A stream is not as it was planned for, so that nothing is kept."""


def check_user(stream: StreamRow, user: str | None) -> None:
    """Refuse a stream that belongs to somebody else.

    Raises:
        InputError: It does.
    """
    if user is not None and stream.user != user:
        raise InputError(
            f"The stream {stream.name!r} belongs to another user than {user!r}. Give every stream a name of its own."
        )


def _plan(core: Core, connection: Connection, request: Request) -> _Plan:
    stream = rows.find_stream(connection, core.tenant, request.name)
    generation = core.generation(connection)
    if stream is not None:
        check_user(stream, request.user or None)
    if request.head is not None and request.head != (stream.head if stream else 0):
        raise StateError(
            f"The stream {request.name!r} stands at turn {stream.head if stream else 0}, not at {request.head}: "
            "somebody else has added or forgotten turns. Look at it again before you add."
        )
    known = {} if stream is None else rows.seqs_of_keys(connection, stream.id, _keys(request.pieces))
    pieces = [piece for piece in request.pieces if piece.key is None or piece.key not in known]
    turns = turns_of(pieces) if pieces else []
    first, is_continued, base = (1, False, 0) if stream is None else (stream.next_seq, False, stream.head)
    if stream is not None and turns and turns[0].continues:
        before = _unanswered(connection, stream)
        if before is not None:
            turns[0] = _joined(before, turns[0])
            first, is_continued, base = stream.head, True, stream.head - 1
    zone = stream.zone if stream else ""
    for turn in turns:
        zone = zone if turn.time is None else same_zone(zone, turn.time, "time")
    replaces = None
    if request.replaces is not None and turns:
        if len(turns) != 1:
            raise InputError(
                f"{len(turns)} turns were given with replaces. One turn takes the place of one: add it alone."
            )
        replaces = _place_of(connection, core, request.replaces)
    if stream is None:
        state = MemoryState.of_turns(generation.spec, [], num_turns=0)
    else:
        state = core.state(connection, generation, stream, base)
    return _Plan(
        request, stream, generation, state, turns, first, is_continued, zone, replaces, sorted(set(known.values()))
    )


def _written(connection: Connection, generation: Generation) -> Generation:
    """Return the generation with its number; the first turn of a store writes it."""
    if generation.id:
        return generation
    if rows.current_generation(connection) is not None:
        raise _MovedError  # another one has just written the first turn
    try:
        with connection.begin_nested():
            generation = rows.add_generation(connection, generation)
            connection.execute(insert(schema.meta).values(name="generation", value=str(generation.id)))
    except IntegrityError as error:
        raise _MovedError from error
    return generation


def _keep(
    connection: Connection, core: Core, generation: Generation, plan: _Plan, read: Sequence[ReadTurn]
) -> StreamRow:
    """Write what was read of a stream, if it is still as it was; return it as it is now."""
    stream = plan.stream or _new_stream(connection, core.tenant, plan.request)
    last = plan.first + len(plan.turns) - 1
    numbers = range(plan.first, last + 1)
    values = {
        "head": last,
        "next_seq": max(stream.next_seq, last + 1),
        "num_turns": stream.num_turns + len(plan.turns) - plan.is_continued,
        "zone": plan.zone,
    }
    if not moved(connection, stream, generation, **values):
        raise _MovedError
    replaces = plan.replaces
    if plan.is_continued:
        replaces = _take_out(connection, stream.id, plan.first) or replaces
    version = stream.version + 1
    rows.add_turns(connection, stream.id, list(zip(numbers, plan.turns, strict=True)), replaces)
    rows.add_readings(connection, generation.id, stream.id, version, list(zip(numbers, read, strict=True)))
    return stream._replace(version=version)


def _new_stream(connection: Connection, tenant: str, request: Request) -> StreamRow:
    """Make a stream, unless another one has just made it."""
    values = {"version": 0, "edition": 0, "head": 0, "next_seq": 1, "num_turns": 0, "zone": "", "created": now()}
    try:
        with connection.begin_nested():
            connection.execute(
                insert(schema.stream).values(tenant=tenant, user=request.user, name=request.name, **values)
            )
    except IntegrityError as error:
        raise _MovedError from error
    return rows.known_stream(connection, tenant, request.name)


def _take_out(connection: Connection, stream: int, seq: int) -> tuple[int, int] | None:
    """Take out a turn that is written again as a whole; return what it replaces."""
    t, r = schema.turn.c, schema.reading.c
    old = connection.execute(select(t.replaces_stream, t.replaces_seq).where(t.stream == stream, t.seq == seq)).one()
    connection.execute(delete(schema.turn).where(t.stream == stream, t.seq == seq))
    connection.execute(delete(schema.reading).where(r.stream == stream, r.seq == seq))
    return None if old.replaces_stream is None else (old.replaces_stream, old.replaces_seq)


class _Before(NamedTuple):
    said: str
    turn: NewTurn


def _unanswered(connection: Connection, stream: StreamRow) -> _Before | None:
    """Return the stream's last turn, if its answer may still come."""
    found = rows.stored_turns(connection, [(stream.id, stream.head)])
    t = schema.turn.c
    row = connection.execute(select(t.said, t.time).where(t.stream == stream.id, t.seq == stream.head)).first()
    if row is None or row.said is None:
        return None
    turn = found[stream.id, stream.head]
    time_given = None if row.time is None else rows.instant(row.time, stream.zone)
    return _Before(
        row.said,
        NewTurn(turn.text, role=turn.role, speaker=turn.speaker, time=time_given, metadata=turn.metadata),
    )


def _joined(before: _Before, new: NewTurn) -> NewTurn:
    """Return the turn that an unanswered one makes with what continues it."""
    lines = "\n".join(one for one in (before.said, new.lines) if one)
    return NewTurn(
        lines or new.text,
        said=None if new.said is None else lines,
        role=before.turn.role,
        speaker=before.turn.speaker,
        time=before.turn.time if before.turn.time is not None else new.time,
        metadata={**before.turn.metadata, **new.metadata},
        keys=new.keys,
    )


def _place_of(connection: Connection, core: Core, place: tuple[str, int]) -> tuple[int, int]:
    name, seq = place
    stream = rows.known_stream(connection, core.tenant, name)
    if not rows.stored_turns(connection, [(stream.id, seq)]):
        raise InputError(f"replaces=({name!r}, {seq}) names a turn that is not there. Pass the number of one that is.")
    return stream.id, seq


def _keys(pieces: Sequence[Piece]) -> list[str]:
    return [piece.key for piece in pieces if piece.key is not None]
