"""A chat through the recurrence: turns embedded on the memory before them, the query on all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evoemb.chat.ids import DialogueIds
from evoemb.state.memory import StreamMemory
from evoemb.streaming import engine
from evoemb.streaming.candidates import CandidateEmbeddings, CandidateStream, embed_candidates, stacked
from evoemb.streaming.rows import Limits, Stack, TokenIds


def embed_dialogue(
    stack: Stack, ids: DialogueIds, memory: StreamMemory, limits: Limits, on_turn: Callable[[], object] = lambda: None
) -> CandidateEmbeddings:
    """Embed the turns, each on the memory before it, and the query on all of it.

    Where the chat's parts do not match its turns, all turns see the memory after the whole chat.

    Args:
        memory: What the chat continues; unchanged.
        on_turn: Called whenever a turn has been read.
    """
    if ids.is_aligned:
        stream = CandidateStream(ids.asked, ids.encoded, ids.written)
        return embed_candidates(stack, [stream], [memory], limits, on_turn)[0]
    after = write_turns(stack, ids.written, memory, limits)
    *turns, query = engine.read(stack, [after], [[*ids.encoded, ids.asked]], limits)[0]
    return CandidateEmbeddings(query, stacked(turns, query))


def write_turns(stack: Stack, turns: Sequence[TokenIds], memory: StreamMemory, limits: Limits) -> StreamMemory:
    """Read turns into a memory without embedding them; returns the new memory."""
    memories = [memory]
    for _ in engine.advance(stack, memories, [list(turns)], limits, embed=False):
        pass
    return memories[0]
