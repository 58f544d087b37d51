"""What all parts of an open store share: its database, its model, what it holds in memory, and locks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from evoemb._errors import StateError
from evoemb.state import MemoryState
from evoemb.store import rows
from evoemb.store.database import Database
from evoemb.store.reading import Generation, Precision, generation_of, state_of
from evoemb.store.rows import StreamRow

T = TypeVar("T")


class Kept(Generic[T]):
    """Values held in memory by a key, of which the longest unused leave first.

    Args:
        limit_bytes: What all of them take at most.
        size: Says what one takes.
    """

    def __init__(self, limit_bytes: int, size: Callable[[T], int]) -> None:
        self._limit, self._size = limit_bytes, size
        self._values: OrderedDict[Any, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        """Return a value that is held; None if it is not."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Any, value: T) -> None:
        """Hold a value, if it is not too large."""
        size = self._size(value)
        with self._lock:
            self._values.pop(key, None)
            if size <= self._limit:
                self._values[key] = (value, size)
            total = sum(taken for _, taken in self._values.values())
            while total > self._limit:
                total -= self._values.popitem(last=False)[1][1]

    def drop(self, key: Any) -> None:
        """Let go of one."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._values.clear()


class _Lock:
    """A lock that goes when nobody holds it any more."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Core:
    """An open store's shared parts.

    Args:
        model: What reads; None for the model that ships with evoemb, loaded when it is first needed.
        tenant: Whose streams are seen.
        precision: How vectors and latents of a new store are kept.
        cache_bytes: Held in memory at most, for states and for vectors each.
    """

    def __init__(
        self, database: Database, model: Any, tenant: str, precision: Precision | None, cache_bytes: int
    ) -> None:
        self.database, self.tenant, self.precision = database, tenant, precision
        self._model = model
        self._model_lock = threading.Lock()
        self.states: Kept[MemoryState] = Kept(cache_bytes, lambda state: state.nbytes + state.cache_nbytes + 1024)
        self.vectors: Kept[Any] = Kept(cache_bytes, lambda vectors: int(vectors.nbytes))
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._locks_lock = threading.Lock()

    @property
    def model(self) -> Any:
        """The model that reads."""
        with self._model_lock:
            if self._model is None:
                from evoemb.model import EvoEmbedding  # not before it is needed: it takes seconds

                self._model = EvoEmbedding()
            return self._model

    @property
    def has_model(self) -> bool:
        """Whether a model was given or loaded already."""
        return self._model is not None

    def use_model(self, model: Any) -> None:
        """Read with another model from now on."""
        with self._model_lock:
            self._model = model

    def locked(self, stream: str) -> AbstractContextManager[Any]:
        """Return the lock of a stream: its writers in this process wait for each other here."""
        with self._locks_lock:
            found = self._locks.get(stream)
            if found is None:
                found = self._locks[stream] = _Lock()
        return _holding(found)

    def generation(self, connection: Connection) -> Generation:
        """Return the generation that the model reads and writes; with number 0 where the store has none yet.

        Raises:
            StateError: The store's turns were read by another model.
        """
        stored = rows.current_generation(connection)
        mine = generation_of(self.model, self.precision or "float16")
        if stored is None:
            return mine
        if differences := mine.spec.differences(stored.spec):
            raise StateError(
                f"{self.database.name} was written by {stored.spec.model_id!r} and is opened with "
                f"{mine.spec.model_id!r}: {'; '.join(differences)} (model against store). Pass the model that wrote "
                "it, or let this one read all turns again: MemoryStore(path).reembed(model)."
            )
        if mine.dimension != stored.dimension:
            raise StateError(
                f"{self.database.name} holds vectors of {stored.dimension} numbers and this model gives "
                f"{mine.dimension}. Load it with the same truncate_dim, or call MemoryStore(path).reembed(model)."
            )
        return stored

    def state(self, connection: Connection, generation: Generation, stream: StreamRow, seq: int) -> MemoryState:
        """Return the memory of a stream after turn ``seq``. It may be shared: read a ``clone()``, advance a slice."""
        key = (generation.id, stream.id, stream.version)
        if seq >= stream.head and (held := self.states.get(key)) is not None:
            return held
        latents = rows.latent_rows(connection, generation, stream.id, seq)
        count = stream.num_turns if seq >= stream.head else rows.count_turns(connection, stream.id, seq)
        built = state_of(generation, latents, count)
        if seq >= stream.head:
            self.states.put(key, built)
        return built


class _holding(AbstractContextManager[None]):  # noqa: N801 - a context manager, named as it is used
    def __init__(self, lock: _Lock) -> None:
        self._held = lock  # keeps it from being collected

    def __enter__(self) -> None:
        self._held.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.lock.release()
