"""Any number of threads may encode on one model, each with a state of its own, as one thread would."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from evoemb.modules.tokenizing import token_ids
from laws import assert_same_embeddings

TURNS, THREADS, TIMES = 8, 4, 2


def streams_of(number: int) -> list[str]:
    """Turns of which every third is longer than the models' window of 64 tokens, so that it is cut."""
    words = "i live in paris rome lyon the red blue key lamp dog cat moved to porto oslo".split()
    texts = []
    for turn in range(TURNS):
        length = 90 if turn % 3 == number % 3 else 3 + turn
        texts.append(" ".join(words[(turn * 5 + number + place) % len(words)] for place in range(length)))
    return texts


@pytest.fixture
def hasty():
    """Threads take turns far more often than usual, so that few calls are enough to come between each other."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.filterwarnings("ignore:.*longer than.*")
@pytest.mark.parametrize("case", [("bert", "attention"), ("qwen3", "prefix"), ("qwen3_5", "prefix")], ids="-".join)
def test_threads_with_long_turns_give_what_one_thread_gives(models, case):
    model = models(*case)
    streams = [streams_of(number) for number in range(THREADS)]

    def read(stream):
        state = model.new_state()
        parts = [model.encode(stream[at : at + 2], stateful=True, state=state) for at in range(0, TURNS, 2)]
        asked = model.encode_query("where do i live", state=state)
        return np.concatenate([*parts, asked[None], model.encode(stream)]), state

    expected = [read(stream)[0] for stream in streams]
    found: list[list[np.ndarray]] = [[] for _ in streams]
    errors: list[BaseException] = []

    def work(number):
        try:
            for _ in range(TIMES):
                found[number].append(read(streams[number])[0])
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for rows, right in zip(found, expected, strict=True):
        assert len(rows) == TIMES
        for row in rows:
            assert_same_embeddings(row, right)


@pytest.mark.usefixtures("hasty")
@pytest.mark.filterwarnings("ignore:.*longer than.*")
def test_texts_are_cut_in_one_thread_while_another_needs_them_whole(models):
    """The same as above where it goes wrong first, and so often that it cannot go right by luck."""
    module = models("bert", "attention")[0]
    texts = [turn for turn in streams_of(0) if len(turn.split()) > 64]
    cut, whole = module.preprocess(texts)["input_ids"], token_ids(module.tokenizer, texts)
    assert len(whole[0]) > cut.shape[1]

    def read(number):
        if number % 2:
            return all(token_ids(module.tokenizer, texts) == whole for _ in range(100))
        return all(torch.equal(module.preprocess(texts)["input_ids"], cut) for _ in range(100))

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(read, range(THREADS)))
