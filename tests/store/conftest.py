"""Stores in files of their own, on tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from evoemb import EvoEmbedding, MemoryStore


@pytest.fixture
def bert(models) -> EvoEmbedding:
    """The smallest model that reads with attention, one turn a segment."""
    return models("bert", "attention")


@pytest.fixture
def open_store(tmp_path) -> Iterator[Callable[..., MemoryStore]]:
    """A function that opens a store by a file's name, exact to float32 unless told; all are closed at the end."""
    opened: list[MemoryStore] = []

    def open_one(model: EvoEmbedding | None = None, name: str = "agent.db", **options: object) -> MemoryStore:
        store = MemoryStore(tmp_path / name, model, **{"precision": "float32", **options})  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()
