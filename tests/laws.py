"""What the tests of the recurrence share: how close two runs must be, and how states are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from evoemb import MemoryState

# Float32 sums in another order (other batch, other padding) differ in the last bits; tiny models with doubled weights
# were seen to reach 2.1e-5 on unit vectors (Llama, 26 turns; float64 is 5e-5 away from either) and 1e-5 on latents of
# norm 10. Real differences between turns exceed 1e-3.
EMBEDDING_TOLERANCE = 4e-5
LATENT_TOLERANCE = 1e-4


def assert_same_embeddings(first: object, second: object, tolerance: float = EMBEDDING_TOLERANCE) -> None:
    """Fail unless two (n, D) results agree up to rounding."""
    np.testing.assert_allclose(np.asarray(first), np.asarray(second), rtol=0, atol=tolerance)


def assert_same_states(first: MemoryState, second: MemoryState, tolerance: float = LATENT_TOLERANCE) -> None:
    """Fail unless two states hold the same turns and, up to rounding, the same latents."""
    assert first.batch_size == second.batch_size
    assert first.num_turns == second.num_turns
    for mine, theirs in zip(first.snapshot(), second.snapshot(), strict=True):
        assert mine.open_turns == theirs.open_turns
        torch.testing.assert_close(mine.latents, theirs.latents, rtol=0, atol=tolerance)


def bytes_of(state: MemoryState) -> bytes:
    """All a state holds, as bytes: equal bytes mean that nothing at all has changed."""
    parts = [
        f"{memory.num_turns} {memory.open_turns} {tuple(memory.latents.shape)} ".encode()
        + memory.latents.contiguous().view(torch.uint8).numpy().tobytes()
        for memory in state.snapshot()
    ]
    return b"|".join(parts)


def shuffled(turns: Sequence[str]) -> list[str]:
    """The same turns with the first two swapped: the smallest change of order."""
    return [turns[1], turns[0], *turns[2:]]
