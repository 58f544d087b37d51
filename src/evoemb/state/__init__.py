"""What a model remembers: the value of one stream, the handle that callers hold, and bytes and files of it."""

from evoemb.state.handle import MemoryState
from evoemb.state.memory import StateSpec

__all__ = ["MemoryState", "StateSpec"]
