"""Opening a store's database: a SQLite file of one's own, any URL of SQLAlchemy, or a program's own engine."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from evoemb._errors import InputError, InputTypeError, StateError, StorageError
from evoemb.store.migrations import migrate, version_of

_BUSY_SECONDS = 60.0
_ERASE_TRIES = 10
_SQLITE_START = b"SQLite format 3\0"
_WRITES = "evoemb_writes"


class Database:
    """Transactions on one database. Readers never wait for writers; a writer waits for other writers.

    Args:
        target: A file's path, a URL of SQLAlchemy, or an engine, which stays its owner's to dispose of.
        read_only: Refuse every write; the file must be there.
    """

    def __init__(self, target: str | os.PathLike[str] | Engine, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self._closed = False
        self._owns_engine = not isinstance(target, Engine)
        self._file: Path | None = None
        engine: Engine
        if isinstance(target, Engine):
            self.name, engine = target.url.render_as_string(hide_password=True), target.execution_options()
            if engine.dialect.name == "sqlite":
                event.listen(engine, "begin", _begin)
        else:
            self.name, engine = self._open(target)
        self.engine = engine
        self._writers = engine.execution_options(**{_WRITES: True})
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction in which everything is read as of one moment."""
        with self._transaction(self.engine) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes: all of it is kept, durably, or nothing."""
        if self.read_only:
            raise StorageError(f"{self.name} was opened with read_only=True. Open it without to change it.")
        with self._transaction(self._writers) as connection:
            yield connection

    def erase(self) -> bool:
        """Let the file forget what was deleted from its tables; return whether it could, or readers were at work.

        A server's files are the server's own to clean.
        """
        if not self.is_sqlite:
            return False  # a server lets go of it when it next cleans up
        for attempt in range(_ERASE_TRIES):
            with self._translated(), self.engine.connect() as connection:
                raw = connection.connection.cursor()  # outside of a transaction
                try:
                    raw.execute("PRAGMA busy_timeout=100")
                    busy, *_ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    raw.execute(f"PRAGMA busy_timeout={int(_BUSY_SECONDS * 1000)}")
                    raw.close()
            if not busy:
                return True
            time.sleep(0.01 * (attempt + 1))
        return False

    def size(self) -> int:
        """Return the bytes of the database, its log left out."""
        asked = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        with self.read() as connection:
            return int(connection.exec_driver_sql(asked if self.is_sqlite else _POSTGRES_SIZE).scalar() or 0)

    def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        if self._owns_engine and hasattr(self, "engine"):
            self.engine.dispose()

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        if self._closed:
            raise StateError("This store is closed. Open it again with MemoryStore(...).")
        with self._translated(), engine.connect() as connection, connection.begin():
            if not self.is_sqlite and engine is self.engine:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say in evoemb's own words what a database refuses."""
        try:
            yield
        except (OperationalError, sqlite3.Error) as error:
            raise self._refusal(error) from error
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.DatabaseError) and not isinstance(error.orig, sqlite3.IntegrityError):
                raise self._refusal(error) from error
            raise

    def _refusal(self, error: Exception) -> StorageError:
        said = str(getattr(error, "orig", error)).strip()
        remedy = next((advice for words, advice in _REMEDIES.items() if words in said), _REMEDIES[""])
        return StorageError(f"{self.name}: {said}. Nothing was changed. {remedy}")

    def _open(self, target: str | os.PathLike[str]) -> tuple[str, Engine]:
        url = _url_of(target)
        if url.get_backend_name() != "sqlite":
            return url.render_as_string(hide_password=True), create_engine(url, pool_pre_ping=True)
        if url.database in (None, "", ":memory:"):
            raise InputError("A store needs a file, but a SQLite database in memory was asked for. Pass a path.")
        self._file = file = Path(str(url.database)).absolute()
        _check_file(file, read_only=self.read_only)
        mode = "ro" if self.read_only or not os.access(file, os.W_OK) else "rw"
        place = f"file:{quote(str(file))}?mode={mode}"

        def connect() -> sqlite3.Connection:
            made = sqlite3.connect(
                place, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            made.execute("PRAGMA secure_delete=ON")
            made.execute("PRAGMA foreign_keys=ON")
            return made

        engine = create_engine("sqlite:///" + str(file), creator=connect, pool_size=8, max_overflow=-1)
        event.listen(engine, "begin", _begin)
        return str(file), engine

    def _prepare(self) -> None:
        """Find the store in the database, or make one."""
        with self.read() as connection:
            version = version_of(connection)
            tables = inspect(connection).get_table_names() if version is None and self._file else []
        if version is None and (self.read_only or tables):
            raise StorageError(
                f"{self.name} is a database, but no store of evoemb (its tables: {', '.join(tables)[:80] or 'none'}). "
                "Pass a store's file, or a new name."
            )
        if self._file and version is None:
            with self._translated(), self.engine.connect() as connection:
                raw = connection.connection.cursor()
                raw.execute("PRAGMA journal_mode=WAL")
                raw.close()
        with self.read() if self.read_only or version is not None else self.write() as connection:
            needs_writing = migrate(connection, self.name, check_only=self.read_only or version is not None)
        if needs_writing and not self.read_only:
            with self.write() as connection:
                migrate(connection, self.name)


_POSTGRES_SIZE = "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables WHERE relname LIKE 'evoemb%%'"
_REMEDIES = {
    "disk is full": "Free some space and call again.",
    "readonly": "Make the file and its folder writable to add or forget; searching works without.",
    "locked": "Another process has been writing for a minute; call again.",
    "not a database": "Pass a store's file, or a new name.",
    "malformed": "The file is damaged: take it from a backup, or import an export into a new one.",
    "unable to open": "Check the path and its permissions.",
    "": "Check that the database can be reached, and call again.",
}


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite as what it is: of a reader, or of a writer, who waits for others at once."""
    raw: Any = connection.connection.dbapi_connection
    if raw.in_transaction:  # the program's own engine has begun it
        return
    if connection.get_execution_options().get(_WRITES):
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")


def _url_of(target: object) -> URL:
    if not isinstance(target, str | os.PathLike):
        raise InputTypeError(
            f"A store was asked for in {type(target).__name__}. Pass a file's path, a URL such as "
            '"postgresql://host/name", or an engine of SQLAlchemy.'
        )
    place = os.fspath(target)
    if not isinstance(place, str) or not place or "\0" in place:
        raise InputError(f"A store was asked for in {place!r:.60}. Pass the path of a file.")
    if "://" not in place:
        return URL.create("sqlite", database=place)
    for short in ("postgresql://", "postgres://"):
        if place.startswith(short):
            place = "postgresql+psycopg://" + place.removeprefix(short)
    try:
        url = make_url(place)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(
            f"{place.partition('://')[0]}://... is no database that evoemb knows. Pass a file's path or postgresql://..."
        ) from error
    return url


def _check_file(file: Path, *, read_only: bool) -> None:
    """Make a file that only its owner can read, or refuse one that is no database."""
    try:
        if not file.exists():
            if read_only:
                raise StorageError(f"{file} does not exist, so it cannot be opened with read_only=True.")
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        with open(file, "rb") as opened:
            start = opened.read(len(_SQLITE_START))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} cannot be opened: {error.strerror or error}. Choose another place.") from error
    if start and start != _SQLITE_START:
        raise StorageError(f"{file} is no store of evoemb. Pass a store's file, or a new name.")
