"""The async methods: the same calls, awaited; none is missing."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from evoemb import InputError, MemoryStore
from evoemb.store import StreamHandle
from store_laws import assert_holds

HARMLESS = {"close", "stream"}  # they wait for nothing


@pytest.mark.parametrize("kind", [MemoryStore, StreamHandle])
def test_every_method_that_works_on_the_database_can_be_awaited(kind):
    own = {name: one for name, one in vars(kind).items() if not name.startswith("_") and inspect.isfunction(one)}
    awaited = {name for name, one in own.items() if inspect.iscoroutinefunction(one)}
    plain = own.keys() - awaited - HARMLESS
    assert awaited == {f"a{name}" for name in plain}
    for name in plain:
        assert inspect.signature(own[f"a{name}"]) == inspect.signature(own[name])
        assert own[f"a{name}"].__name__ == f"a{name}"


def test_awaited_calls_do_what_plain_ones_do(bert, stream, open_store):
    store = open_store(bert)

    async def talk():
        chats = [store.stream(f"chat-{number}", user="alice") for number in range(3)]
        await asyncio.gather(*(chat.aadd(stream[: 3 + number]) for number, chat in enumerate(chats)))
        await chats[2].aforget(2)
        hits = await store.asearch("where do i live", user="alice", top_k=None)
        with pytest.raises(InputError, match="There is no stream 'none'"):
            await store.stream("none").asearch("where")
        return chats, hits

    chats, hits = asyncio.run(talk())
    assert len(hits) == 3 + 4 + 4
    assert_holds(chats[1], stream[:4], bert)
    assert_holds(chats[2], [stream[0], *stream[2:5]], bert)
