"""The first tables."""

from __future__ import annotations

from sqlalchemy import Connection

from evoemb.store import schema


def run(connection: Connection) -> None:
    """Make the tables for generations, streams, turns, readings and snapshots."""
    schema.TABLES.create_all(connection)
