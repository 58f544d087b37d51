"""The one rule for the async methods: each runs its plain one in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_thread(method: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return the async form of a method: the same call, awaited while a thread runs it."""

    @wraps(method)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, *args, **kwargs)

    awaited.__name__ = f"a{method.__name__}"
    awaited.__qualname__ = f"a{method.__name__}".join(method.__qualname__.rsplit(method.__name__, 1))
    awaited.__doc__ = f"Do what ``{method.__name__}`` does, awaited: it runs in a thread."
    return awaited
