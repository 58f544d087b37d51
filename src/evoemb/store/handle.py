"""One stream of a store, in the hands of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evoemb._errors import InputTypeError
from evoemb.data.turns import Message, Stream
from evoemb.state import MemoryState
from evoemb.store import forgetting, history, search, writing
from evoemb.store.core import Core
from evoemb.store.forgetting import Repair
from evoemb.store.incoming import checked_name, pieces_of
from evoemb.store.moments import Moment
from evoemb.store.search import Filters, Query
from evoemb.store.threads import in_thread
from evoemb.store.times import Time
from evoemb.store.types import Difference, Forgotten, StoredHit, StoredTurn


class StreamHandle:
    """A stream of a store: one conversation, one document that grows, one log. Get one with ``store.stream(name)``.

    It holds nothing but the name. Any number of handles, threads and processes may use one stream.
    """

    def __init__(self, core: Core, name: str, user: str) -> None:
        self._core, self.name, self.user = core, name, user

    def __repr__(self) -> str:
        return f"StreamHandle({self.name!r}, store={self._core.database.name!r})"

    def add(
        self,
        turns: str | Message | Stream,
        *,
        time: Time | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | Sequence[str] | None = None,
        replaces: int | tuple[str, int] | StoredTurn | None = None,
        head: int | None = None,
    ) -> list[int]:
        """Read turns and keep them: all of them, or on an error none. The first call makes the stream.

        An assistant message goes to the user message before it, also in a later call; that turn is then read again.

        Args:
            turns: A text, a message, or several of either.
            time: When they were said; None takes each message's own time, and else the present.
            metadata: What a program wants to filter by or find again; kept as JSON.
            key: A name of its own for each message (one text or a list). A message whose key is there already is left
                out, so that a call can be repeated.
            replaces: The turn whose place this one takes: its number here, or ``(stream, number)``, or a hit.
            head: The number of the stream's last turn as the caller knows it; another one is refused.

        Returns:
            The number of every turn that holds what was given.

        Raises:
            InputError: Something cannot be kept; the text says what and why.
            InputTypeError: It is of another kind.
            StateError: The store was written by another model, the stream does not stand at ``head``, or the store is
                closed.
            StorageError: The database refuses to write.
        """
        place = None if replaces is None else self._place(replaces)
        pieces = pieces_of(turns, time, metadata, key)
        (numbers,) = writing.add(self._core, [writing.Request(self.name, self.user, pieces, place, head)])
        return numbers

    def search(
        self,
        query: str,
        *,
        top_k: int | None = 10,
        as_of: Moment | None = None,
        where: Mapping[str, Any] | None = None,
        after: Time | None = None,
        before: Time | None = None,
        speaker: str | None = None,
        current_only: bool = False,
    ) -> list[StoredHit]:
        """Rank the stream's turns for a question, which is read on the stream's memory. Nothing is written.

        Args:
            top_k: Hits at most; None for all.
            as_of: Ask as of a turn's number, a time or a snapshot: with the memory of then, among the turns of then.
            where: What the metadata must hold; a list stands for any of its values.
            after: Only turns of this time or later.
            before: Only turns before this time.
            speaker: Only turns of this speaker, or of this role where messages had no names.
            current_only: Leave out turns that others took the place of.

        Returns:
            Hits, best first. ``score`` is the cosine of question and turn.

        Raises:
            InputError: There is no such stream, or a filter cannot be read.
            StateError: The store was written by another model, or is closed.
        """
        filters = Filters.of(where, after, before, speaker)
        asked = Query.of(query, top_k, filters, as_of, current_only=current_only)
        return search.search_stream(self._core, self.name, asked)

    def turns(self, *, as_of: Moment | None = None) -> list[StoredTurn]:
        """Return all turns in order, as they are or as they were at a moment.

        Raises:
            InputError: There is no such stream.
        """
        return history.turns_at(self._core, self.name, as_of)

    def history(self, turn: int) -> list[StoredTurn]:
        """Return what a fact was and became: the turns that this one took the place of, itself, and those after it.

        Args:
            turn: Its number. ``time`` and ``metadata`` of each turn say when and why.

        Returns:
            The chain, oldest first, also where it goes through other streams.

        Raises:
            InputError: There is no such turn.
        """
        return history.chain(self._core, self.name, turn)

    def state(self, *, as_of: Moment | None = None) -> MemoryState:
        """Return the stream's memory now or at a moment, a copy of its own: the store does not see what is done to it.

        Raises:
            InputError: There is no such stream, or it has not come so far.
        """
        return history.state_at(self._core, self.name, as_of)

    def forget(self, turns: int | Sequence[int], *, repair: Repair = "now") -> Forgotten:
        """Forget turns as if they had never been read: text, vector, latents, and their trace in later turns.

        Args:
            turns: The number of a turn, or a list or range of numbers. Those that are gone already count nothing.
            repair: ``"now"`` reads all later turns again before anything is deleted. ``"later"`` deletes at once and
                marks the later turns; :meth:`repair`, or the next :meth:`add`, reads them again.

        Returns:
            How many turns were forgotten. To forget a whole stream, use ``MemoryStore.forget``.

        Raises:
            InputError: There is no such stream, or it never had such a turn.
        """
        return forgetting.forget_turns(self._core, self.name, forgetting.checked_turns(turns), repair)

    def repair(self) -> int:
        """Read the turns again that ``forget(..., repair="later")`` marked; return how many."""
        return forgetting.repair_stream(self._core, self.name)

    def rewind(self, *, to: Moment) -> int:
        """Take away every turn after a moment, for good, and the snapshots behind it.

        Returns:
            How many turns were taken away.
        """
        return history.rewind(self._core, self.name, to)

    def fork(self, name: str, *, at: Moment | None = None) -> StreamHandle:
        """Copy the stream, as it is or as it was at a moment, to a new name; both go on by themselves.

        Raises:
            InputError: There is no such stream, or one of the new name.
        """
        history.fork(self._core, self.name, checked_name(name, "The stream's name"), at)
        return StreamHandle(self._core, name, self.user)

    def snapshot(self, name: str) -> int:
        """Name the present moment, so that ``as_of``, ``rewind``, ``fork`` and ``diff`` take the name.

        Returns:
            The number of the last turn.
        """
        return history.snapshot(self._core, self.name, checked_name(name, "The snapshot's name"))

    def diff(self, first: Moment, second: Moment) -> Difference:
        """Return the turns that stand between two moments."""
        return history.difference(self._core, self.name, first, second)

    def _place(self, replaces: object) -> tuple[str, int]:
        if isinstance(replaces, StoredTurn):
            return replaces.stream, replaces.seq
        if isinstance(replaces, int) and not isinstance(replaces, bool):
            return self.name, replaces
        if isinstance(replaces, tuple) and len(replaces) == 2:
            stream, seq = replaces
            if isinstance(stream, str) and isinstance(seq, int):
                return stream, seq
        raise InputTypeError(f"replaces={replaces!r:.60}, expected a turn's number, (stream, number), or a hit.")

    aadd = in_thread(add)
    asearch = in_thread(search)
    aturns = in_thread(turns)
    ahistory = in_thread(history)
    astate = in_thread(state)
    aforget = in_thread(forget)
    arepair = in_thread(repair)
    arewind = in_thread(rewind)
    afork = in_thread(fork)
    asnapshot = in_thread(snapshot)
    adiff = in_thread(diff)
