"""The tables of a store. A turn is a row; what a model made of it is a row of its own, so that models can follow."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint

VERSION = 1
"""The newest schema; see :mod:`evoemb.store.migrations`."""

TABLES = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in a column of this type

meta = Table(
    "evoemb_meta", TABLES, Column("name", String(100), primary_key=True), Column("value", Text, nullable=False)
)

generation = Table(
    "evoemb_generation",
    TABLES,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("spec", Text, nullable=False),  # of the states: model, reader, sizes, packing
    Column("dimension", Integer, nullable=False),
    Column("precision", String(20), nullable=False),
    sqlite_autoincrement=True,  # a number is never given twice: what is held in memory goes by it
)

stream = Table(
    "evoemb_stream",
    TABLES,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("tenant", String(500), nullable=False),
    Column("user", String(500), nullable=False),  # "" is nobody's
    Column("name", String(500), nullable=False),
    Column("version", BigInteger, nullable=False),  # of every commit that touches the stream
    Column("edition", BigInteger, nullable=False),  # of every commit that takes turns away
    Column("head", BigInteger, nullable=False),  # the last turn's number; 0 before the first
    Column("next_seq", BigInteger, nullable=False),
    Column("num_turns", BigInteger, nullable=False),
    Column("stale_from", BigInteger),  # the first turn that is to be read again
    Column("zone", String(10), nullable=False),  # whether its times have a zone: "", "aware" or "naive"
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("tenant", "name"),
    Index("evoemb_stream_user", "tenant", "user"),
    sqlite_autoincrement=True,
)

turn = Table(
    "evoemb_turn",
    TABLES,
    Column("stream", _Id, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("role", String(20), nullable=False),
    Column("speaker", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("said", Text),  # while an answer may come: the lines that say something
    Column("time", BigInteger),  # microseconds since 1970, as the caller gave it
    Column("recorded", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("replaces_stream", _Id),
    Column("replaces_seq", BigInteger),
    Index("evoemb_turn_replaces", "replaces_stream", "replaces_seq"),
)

turn_key = Table(
    "evoemb_turn_key",
    TABLES,
    Column("stream", _Id, primary_key=True, autoincrement=False),
    Column("key", String(500), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Index("evoemb_turn_key_seq", "stream", "seq"),
)

reading = Table(
    "evoemb_reading",
    TABLES,
    Column("generation", _Id, primary_key=True, autoincrement=False),
    Column("stream", _Id, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("written", BigInteger, nullable=False),  # the stream's version then
    Column("vector", LargeBinary, nullable=False),
    Column("latents", LargeBinary, nullable=False),
    Column("open_ids", LargeBinary, nullable=False),  # this turn's token ids, while its segment is open
    Column("num_open", Integer, nullable=False),  # turns in the open segment after this one
    Index("evoemb_reading_written", "generation", "stream", "written"),
)

snapshot = Table(
    "evoemb_snapshot",
    TABLES,
    Column("stream", _Id, primary_key=True, autoincrement=False),
    Column("name", String(500), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
)

progress = Table(  # of a model that reads everything again, beside the one in use
    "evoemb_progress",
    TABLES,
    Column("generation", _Id, primary_key=True, autoincrement=False),
    Column("stream", _Id, primary_key=True, autoincrement=False),
    Column("edition", BigInteger, nullable=False),  # the stream's, when its first turn was read
)
