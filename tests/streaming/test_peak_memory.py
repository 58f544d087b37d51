"""Memory use while a stream is read: the same for a short stream and a long one, outputs aside."""

from __future__ import annotations

import gc

import pytest
import torch

from evoemb import EvoEmbedding


def held_bytes() -> int:
    """Bytes of all tensors made since the last ``gc.freeze()``, each storage counted once."""
    storages = {}
    for item in gc.get_objects():
        # By type: asking objects for their class wakes up deprecated names of torch.
        if issubclass(type(item), torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_while_reading(model: EvoEmbedding, turns: list[str], **options: object) -> int:
    """The most bytes held when a forward of the backbone begins, beyond those held before reading."""
    seen: list[int] = []
    handle = model[0].model.register_forward_pre_hook(lambda *_: seen.append(held_bytes()))
    gc.freeze()
    try:
        model.encode(turns, stateful=True, state=model.new_state(), batch_size=8, **options)
    finally:
        gc.unfreeze()
        handle.remove()
    assert len(seen) > 2
    assert max(seen) > 0
    return max(seen)


@pytest.mark.parametrize("memory", ["causal", "final"])
def test_the_peak_does_not_grow_with_the_stream(models, stream, memory):
    model = models("qwen3", "prefix")
    short, long = stream * 2, stream * 6
    peaks = [peak_while_reading(model, turns, memory=memory) for turns in (stream, short, long)]
    outputs = (len(long) - len(short)) * 32 * 4
    # The first reading merges the adapters; the others find them merged, and both fill the queue.
    assert peaks[2] <= peaks[1] + outputs + 5_000
