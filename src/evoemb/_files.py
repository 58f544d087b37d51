"""Files that are written as a whole: a crash, a full disk or an error leaves what was there before, or the new file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from evoemb._errors import StorageError

# A temporary file this old belongs to a process that was killed while it wrote.
_STALE_SECONDS = 3600
# It can only be read by setting it, for all threads; so it is read once.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def write_whole(path: str | os.PathLike[str], content: bytes, *, new_mode: int | None = None) -> None:
    """Write ``content`` to ``path``, durably, so that no reader ever sees a part of it.

    A link is followed to the file it names; the mode of a file that is replaced is kept; missing folders are made.

    Args:
        new_mode: Permissions of a file that was not there before; None leaves them to the process, as for any file.

    Raises:
        StorageError: It cannot be written: the disk is full, the name is too long, the folder is read-only, or there
            is a folder of that name. What was there before is unchanged.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(21, "there is a folder of that name")
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content, new_mode)
    except OSError as error:
        raise StorageError(
            f"{os.fspath(path)!s} cannot be written: {error.strerror or error}. The file that was there before is "
            "unchanged. Free some space, or choose another place."
        ) from error


def _replace(target: Path, content: bytes, new_mode: int | None) -> None:
    # Named after a digest: the target's own name may be as long as names can be.
    prefix = f".{hashlib.sha256(target.name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}."
    _remove_stale(target.parent, prefix)
    mode = _mode_of(target, new_mode)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _mode_of(target: Path, new_mode: int | None) -> int:
    """Return the mode of the file that is replaced, or the one a new file gets."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_UMASK if new_mode is None else new_mode


def _remove_stale(folder: Path, prefix: str) -> None:
    """Remove what killed processes left of this file."""
    for leftover in folder.glob(f"{prefix}*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; its rename is durable by itself
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
