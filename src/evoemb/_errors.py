"""The exceptions evoemb raises on purpose; each is also the built-in class a caller would expect."""

from __future__ import annotations


class EvoembError(Exception):
    """Base of every error evoemb raises on purpose.

    Catch it to tell a refused request (bad input, a state that does not fit) from a defect. Its text says what was
    given, what was expected, and what to do.
    """


class InputError(EvoembError, ValueError):
    """The content of a stream, a turn or a file cannot be read as one: an unknown role, an empty stream, a bad line."""


class InputTypeError(EvoembError, TypeError):
    """An input is of a kind evoemb does not take: a number or bytes as a stream, content that is not a string."""


class StateError(EvoembError, ValueError):
    """A memory state does not fit the call.

    It was made by another model or packing, holds another number of streams, comes from a corrupted file, or was
    advanced by someone else meanwhile.
    """


class UnsupportedBackboneError(EvoembError, ValueError):
    """The backbone, or a part of it that evoemb has to reach, is of a kind evoemb cannot read a memory with."""


class CheckpointError(EvoembError, ValueError):
    """A checkpoint cannot be loaded: a file or tensor is missing, damaged, or does not fit the model."""


class StorageError(EvoembError, OSError):
    """A file or database cannot be written, read or opened. What was there before is unchanged."""
