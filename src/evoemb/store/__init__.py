"""A durable memory in a SQLite file or a database server. Needs the ``store`` extra (SQLAlchemy)."""

from evoemb._errors import EvoembError

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401
except ImportError as error:
    raise EvoembError(
        'MemoryStore needs the package sqlalchemy, which is not installed. Run: pip install "evoemb[store]"'
    ) from error

from evoemb.store.handle import StreamHandle
from evoemb.store.store import MemoryStore
from evoemb.store.types import Counted, Difference, Forgotten, StoredHit, StoredTurn, TurnId

__all__ = ["Counted", "Difference", "Forgotten", "MemoryStore", "StoredHit", "StoredTurn", "StreamHandle", "TurnId"]
