"""Answers on disk, a file for each request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from evoemb._files import write_whole

logger = logging.getLogger(__name__)


class AnswerCache:
    """Keeps answers by request. Only their owner may read the files, since they hold whole prompts.

    Args:
        folder: Made when the first answer is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, address: str, request: dict[str, Any]) -> str | None:
        """Return the answer kept for a request to an address, or None.

        A file that cannot be read is set aside under another name, with a warning.
        """
        path = self._path(address, request)
        try:
            kept = json.loads(path.read_bytes())
            if isinstance(kept, dict) and isinstance(kept.get("answer"), str) and kept.get("request") == request:
                return str(kept["answer"])
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The kept answer %s cannot be read (%s), so its question is asked again.", path, error)
            return None
        except (ValueError, RecursionError):
            pass
        aside = path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        logger.warning("The kept answer %s is damaged: it is now %s, and its question is asked again.", path, aside)
        return None

    def keep(self, address: str, request: dict[str, Any], answer: str) -> None:
        """Write an answer in one step: a run that is stopped leaves a whole file or none.

        Where it cannot be written, a warning says so; the answer is not lost for that.
        """
        path = self._path(address, request)
        content = json.dumps({"request": request, "answer": answer}).encode()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, content, new_mode=0o600)
        except OSError as error:  # a StorageError is one
            logger.warning("An answer could not be kept in %s (%s).", self._folder, error)

    def _path(self, address: str, request: dict[str, Any]) -> Path:
        # The address is part of the key: one name may be another model elsewhere.
        named = json.dumps([address, request], sort_keys=True).encode()
        return self._folder / f"{hashlib.sha256(named).hexdigest()}.json"
