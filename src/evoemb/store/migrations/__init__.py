"""How a store's tables came to be, in numbered steps: each goes one version forward, and none is changed later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, func, insert, inspect, select, update

from evoemb._errors import StorageError
from evoemb.store import schema
from evoemb.store.migrations import m0001_tables

_LOCK = 0x65766F  # "evo"
STEPS: dict[int, Callable[[Connection], Any]] = {1: m0001_tables.run}


def version_of(connection: Connection) -> int | None:
    """Return the schema's version; None where there is no store yet."""
    if not inspect(connection).has_table(schema.meta.name):
        return None
    found = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "version"))
    return int(found) if found else None


def migrate(connection: Connection, name: str, *, check_only: bool = False) -> bool:
    """Bring the tables to the newest version, in the transaction of ``connection``.

    Args:
        name: What errors call the store.
        check_only: Change nothing.

    Returns:
        Whether steps were, or with ``check_only`` are, to be taken.

    Raises:
        StorageError: A newer evoemb made it.
    """
    if connection.dialect.name == "postgresql" and not check_only:  # others who open it for the first time wait here
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    version = version_of(connection)
    if version is not None and version > max(STEPS):
        raise StorageError(
            f"{name} has the schema {version}, and this version of evoemb knows schemas up to {max(STEPS)}. "
            "Upgrade evoemb: pip install -U evoemb."
        )
    steps = range((version or 0) + 1, max(STEPS) + 1)
    for step in () if check_only else steps:
        STEPS[step](connection)
        if step == 1:
            connection.execute(insert(schema.meta).values(name="version", value="1"))
        else:
            connection.execute(update(schema.meta).where(schema.meta.c.name == "version").values(value=str(step)))
    return bool(steps)
