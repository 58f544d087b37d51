"""Tiny random models, built in memory and saved once a session; no network, no real weights.

Light to import, because pytest's own process reads this before it starts the workers: what needs torch is imported by
the fixtures.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: tests never reach a hub

import pytest

from kinds import CASES, MORE_CASES

if TYPE_CHECKING:
    from evoemb import EvoEmbedding


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names with an address in them: workers that name a test differently cannot share it."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} is named otherwise in every process. Give its parameters ids.")


@pytest.fixture(scope="session", autouse=True)
def a_process_for_small_models() -> None:
    """One thread, as more would wait for each other; and what was imported is not searched for garbage ever again."""
    import torch

    torch.set_num_threads(1)
    gc.freeze()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a tiny sentence-transformers model of a kind, once, and give its folder."""
    from tiny_models import save_base

    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = save_base(kind, *(tmp_path_factory.mktemp(f"{kind}-{part}") for part in ("plain", "st")))
        return folders[kind]

    return folder_of


@pytest.fixture(scope="session")
def models(base_folder: Callable[[str], Path]) -> Callable[[str, str], EvoEmbedding]:
    """Give the model with trained-looking memory of a kind and reader; built once, never changed by a test."""
    from tiny_models import make_model

    built: dict[tuple[str, str], EvoEmbedding] = {}

    def model_of(kind: str, reader: str) -> EvoEmbedding:
        if (kind, reader) not in built:
            built[kind, reader] = make_model(base_folder(kind), reader)
        return built[kind, reader]

    return model_of


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def model(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """The three kinds every law is checked on: a decoder, a hybrid decoder, an encoder."""
    return models(*request.param)


@pytest.fixture(params=CASES + MORE_CASES, ids=lambda case: "-".join(case))
def any_model(request: pytest.FixtureRequest, models: Callable[[str, str], EvoEmbedding]) -> EvoEmbedding:
    """Every kind of backbone with every reader it takes."""
    return models(*request.param)


@pytest.fixture(scope="session")
def released() -> EvoEmbedding:
    """A released checkpoint of a few thousand weights; not to be changed by a test."""
    from evoemb import load_upstream

    data = Path(__file__).parent / "parity" / "data"
    ids = {"end_of_text": 678, "im_end": 680, "user": 272}
    folder = data / "qwen3"
    return load_upstream(
        folder / "checkpoint", base_model=folder / "base", tokenizer=data / "tokenizer", token_ids=ids, device="cpu"
    )


@pytest.fixture(autouse=True)
def levels_of_logging_stay() -> Iterator[None]:
    """A command run with ``--quiet`` lowers the libraries' logging for the process; the next test starts afresh."""
    libraries = ("evoemb", "huggingface_hub", "sentence_transformers", "transformers")
    loggers = [logging.getLogger(name) for name in libraries]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def stream() -> list[str]:
    """Thirteen turns: more than a segment, more than the queue holds."""
    return [
        "i live in paris",
        "my sister has a red key",
        "i moved to rome",
        "",
        "the dog lost the blue lamp yesterday and we found the book at work today",
        "where is my brother",
        "we moved from rome to lyon then to porto",
        "ok",
        "my cat is in oslo",
        "i work in bern",
        "what did you do",
        "the key was red not blue",
        "last i live in porto",
    ]
