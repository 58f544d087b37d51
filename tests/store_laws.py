"""What the tests of stores share: what a stream must hold, read plainly, without any store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evoemb import EvoEmbedding
from evoemb.store import StreamHandle
from laws import EMBEDDING_TOLERANCE, assert_same_embeddings, assert_same_states


def vectors_of(stream: StreamHandle) -> NDArray[np.float32]:
    """The stored vectors of a stream, ``(n, D)``, of unit length."""
    from evoemb.store import rows
    from evoemb.store.candidates import candidates_of

    core = stream._core
    with core.database.read() as connection:
        found = rows.known_stream(connection, core.tenant, stream.name)
        return candidates_of(core, connection, core.generation(connection), found).vectors


def assert_holds(stream: StreamHandle, texts: list[str], model: EvoEmbedding) -> None:
    """Fail unless a stream holds these turns, their vectors and the state of having read them and nothing else."""
    assert [turn.text for turn in stream.turns()] == texts
    plain = model.new_state()
    expected = model.encode_document(texts, stateful=True, state=plain) if texts else np.zeros((0, 0))
    state = stream.state()
    assert_same_states(state, plain)
    if texts:
        assert_same_embeddings(vectors_of(stream), expected, EMBEDDING_TOLERANCE)
        asked = "where do i live"
        hits = stream.search(asked, top_k=None)
        scores = expected @ model.encode_query(asked, state=plain)
        assert [hit.text for hit in hits[:1]] == [texts[int(np.argmax(scores))]] or np.ptp(scores) < 1e-4
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], rtol=0, atol=2e-4)
