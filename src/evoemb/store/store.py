"""A durable memory: the streams of many users in one database."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from evoemb._errors import InputError
from evoemb.data.turns import Message, Stream
from evoemb.store import files, forgetting, generations, rows, search, writing
from evoemb.store.core import Core
from evoemb.store.database import Database
from evoemb.store.handle import StreamHandle
from evoemb.store.incoming import checked_name, pieces_of
from evoemb.store.reading import PRECISIONS, Precision
from evoemb.store.search import Filters, Query
from evoemb.store.threads import in_thread
from evoemb.store.times import Time, instant_of
from evoemb.store.types import Counted, Forgotten, StoredHit
from evoemb.store.writing import Request

if TYPE_CHECKING:
    from evoemb.model import EvoEmbedding

_CACHE_BYTES = 2**28
_STREAMS_A_COMMIT = 64


class MemoryStore:
    """Streams that outlive the process: every turn's text, vector, latents and time are kept in one commit.

    Args:
        target: A file's path (SQLite; made if it is missing, for its owner alone), a URL such as
            ``"postgresql://host/name"``, or an engine of SQLAlchemy.
        model: What reads; None for the model that ships with evoemb, loaded when it is first needed.
        tenant: Whose streams are seen; others do not exist for this store.
        precision: How a new store keeps vectors and latents: ``"float16"`` or ``"float32"``. A store that holds turns
            keeps its own.
        read_only: Refuse every write.
        cache_bytes: What is held in memory at most, for vectors and for memories each.

    Raises:
        StateError: The turns were read by another model than the one given.
        StorageError: The file is no store, was made by a newer evoemb, or cannot be opened.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Engine,
        model: EvoEmbedding | None = None,
        *,
        tenant: str | None = None,
        precision: Precision | None = None,
        read_only: bool = False,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision={precision!r} was given. Use one of: {', '.join(PRECISIONS)}.")
        bound = "" if tenant is None else checked_name(tenant, "tenant")
        self._core = Core(Database(target, read_only=read_only), model, bound, precision, cache_bytes)
        if model is not None:
            try:
                with self._core.database.read() as connection:
                    self._core.generation(connection)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryStore({self._core.database.name!r})"

    def close(self) -> None:
        """Let go of the database. Everything added is on disk already; closing twice is harmless."""
        self._core.database.close()
        self._core.states.clear()
        self._core.vectors.clear()

    def stream(self, name: str, *, user: str | None = None) -> StreamHandle:
        """Return a handle on a stream. Nothing is written before the first ``add``.

        Args:
            name: Of the stream, one in the whole store.
            user: Whose it is.

        Raises:
            InputError: The stream belongs to another user.
        """
        checked_name(name, "The stream's name")
        owner = "" if user is None else checked_name(user, "user")
        if owner:
            with self._core.database.read() as connection:
                found = rows.find_stream(connection, self._core.tenant, name)
            if found is not None:
                writing.check_user(found, owner)
        return StreamHandle(self._core, name, owner)

    def streams(self, *, user: str | None = None) -> list[str]:
        """Return the names of the streams of a user, or of all, in the order in which they were made."""
        with self._core.database.read() as connection:
            return [stream.name for stream in rows.streams_of(connection, self._core.tenant, user)]

    def add_many(
        self,
        streams: Mapping[str, str | Message | Stream],
        *,
        user: str | None = None,
        time: Time | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, list[int]]:
        """Read turns of many streams side by side, which is quicker than one after another, and keep them.

        Args:
            streams: The turns to add to each stream, by its name.
            user: Whose streams they are.
            time: And ``metadata``: of all turns; see ``StreamHandle.add``.

        Returns:
            For every stream the numbers of the turns that hold what was given. Every 64 streams are one commit.

        Raises:
            InputError: As ``StreamHandle.add``. What is wrong with any stream is told before anything is kept.
            StateError: As ``StreamHandle.add``.
            StorageError: The database refuses to write.
        """
        handles = [self.stream(name, user=user) for name in streams]
        requests = [
            Request(handle.name, handle.user, pieces_of(streams[handle.name], time, metadata)) for handle in handles
        ]
        found: list[list[int]] = []
        for start in range(0, len(requests), _STREAMS_A_COMMIT):
            found += writing.add(self._core, requests[start : start + _STREAMS_A_COMMIT])
        return dict(zip(streams, found, strict=True))

    def search(
        self,
        query: str,
        *,
        user: str | None = None,
        top_k: int | None = 10,
        as_of: Time | None = None,
        where: Mapping[str, Any] | None = None,
        after: Time | None = None,
        before: Time | None = None,
        speaker: str | None = None,
        current_only: bool = False,
    ) -> list[StoredHit]:
        """Rank the turns of all streams of a user for a question. Nothing is written.

        The question is read without a memory, so that its cosine means the same in every stream.

        Args:
            user: Whose streams; None for all.
            as_of: Only what had been said at this time.
            top_k: And the other arguments: as for ``StreamHandle.search``.

        Raises:
            InputError: The user has no stream, or a filter cannot be read.
            StateError: The store was written by another model, or is closed.
        """
        if as_of is not None:
            instant_of(as_of, "as_of")
            if isinstance(as_of, int | float):
                raise InputError(
                    f"as_of={as_of} was given, but turns are numbered in each stream by itself. Pass a time, or search "
                    "one stream: store.stream(name).search(...)."
                )
        filters = Filters.of(where, after, before, speaker)
        asked = Query.of(query, top_k, filters, as_of, current_only=current_only)
        return search.search_user(self._core, None if user is None else checked_name(user, "user"), asked)

    def forget(self, *, stream: str | None = None, user: str | None = None) -> Forgotten:
        """Forget a stream, or all streams of a user, with everything that was kept of them.

        What is not there counts nothing, so a call can be repeated. For single turns, see ``StreamHandle.forget``.

        Returns:
            How many streams and turns are gone, and whether the file holds nothing of them any more.

        Raises:
            InputError: Neither was named.
        """
        if stream is None and user is None:
            raise InputError("forget was called without a stream or a user. Name one: forget(user=...).")
        return forgetting.forget_streams(
            self._core,
            None if stream is None else checked_name(stream, "stream"),
            None if user is None else checked_name(user, "user"),
        )

    def export(self, path: str | os.PathLike[str], *, user: str | None = None) -> Counted:
        """Write streams with all that was kept of them to a file of JSON lines, which only its owner can read.

        Args:
            path: Packed if it ends in ``.gz``.
            user: Whose streams; None for all.

        Raises:
            StorageError: The file cannot be written.
        """
        return files.export(self._core, path, None if user is None else checked_name(user, "user"))

    def import_(self, path: str | os.PathLike[str]) -> Counted:
        """Take all streams from a file that :meth:`export` wrote, or none. Nothing is read again, no model is needed.

        Raises:
            InputError: The file is no export or damaged, or a stream of it is here already.
            StateError: Its turns were read by another model than this store's.
            StorageError: The file cannot be read, or the database refuses to write.
        """
        return files.import_(self._core, path)

    def reembed(self, model: EvoEmbedding, *, progress: bool = False) -> int:
        """Let another model read all turns again, and use it from then on.

        Until it is done, the store answers with the model of before; then it changes over in one commit. A call that
        was broken off goes on where it was. Call it on a store that was opened without a model or with the old one.

        Args:
            progress: Show a bar that counts turns.

        Returns:
            Turns that were read; 0 where the store is this model's already.

        Raises:
            InputError: The store is bound to a tenant; the model changes for all of them.
            StorageError: The database refuses to write.
        """
        return generations.reembed(self._core, model, progress=progress)

    def stats(self) -> dict[str, int | str]:
        """Return what the store holds: streams, users, turns, its model, and the bytes of its file."""
        with self._core.database.read() as connection:
            found = rows.counts(connection, self._core.tenant)
        return {**found, "bytes": self._core.database.size()}

    aexport = in_thread(export)
    aimport_ = in_thread(import_)
    areembed = in_thread(reembed)
    astats = in_thread(stats)
    aadd_many = in_thread(add_many)
    aforget = in_thread(forget)
    astreams = in_thread(streams)
    asearch = in_thread(search)
