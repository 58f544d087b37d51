"""Token ids of texts from a tokenizer that several threads share.

A fast tokenizer keeps truncation and padding as settings of its own, and every call sets them anew. So a call that cuts
nothing would switch off the cutting of a call in another thread. Whatever tokenizes does so alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()  # a copy has its own
_guard = threading.Lock()


@contextmanager
def alone(tokenizer: Any) -> Iterator[None]:
    """Run a block in which no other thread uses ``tokenizer``."""
    with _guard:
        lock = _locks.setdefault(tokenizer, threading.RLock())
    with lock:
        yield


def token_ids(tokenizer: Any, texts: list[str], *, add_special_tokens: bool = False) -> list[list[int]]:
    """Return each text's token ids, whole: nothing is cut or padded."""
    if not texts:
        return []
    with alone(tokenizer):
        found = tokenizer(texts, add_special_tokens=add_special_tokens, truncation=False, verbose=False)
    return [list(ids) for ids in found["input_ids"]]
