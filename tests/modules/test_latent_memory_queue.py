"""The queue's projections: identity where they must be, position-wise always, and saved with every choice."""

from __future__ import annotations

import pytest
import torch

from evoemb._errors import InputError
from evoemb.modules.latent_memory_queue import PROJECTIONS, LatentMemoryQueue


def queue_with(projection: str, *, embedding_dimension: int | None = None) -> LatentMemoryQueue:
    torch.manual_seed(0)
    queue = LatentMemoryQueue(8, embedding_dimension, num_latents=2, capacity_latents=5, projection=projection)
    with torch.no_grad():
        for parameter in queue.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return queue


def test_a_fresh_projection_passes_what_is_positive_as_it_is():
    states = torch.rand(3, 8)
    for projection in PROJECTIONS:
        queue = LatentMemoryQueue(8, num_latents=2, capacity_latents=5, projection=projection)
        torch.testing.assert_close(queue.read(queue.write(states)), states, rtol=0, atol=0)
        features = {"token_embeddings": states[None]}
        torch.testing.assert_close(queue(features)["token_embeddings"], states[None], rtol=0, atol=0)


def test_without_a_projection_there_is_nothing_to_train():
    queue = queue_with("none")
    assert list(queue.parameters()) == []
    states = torch.randn(3, 8)
    assert queue.read(queue.write(states)) is states


def test_the_reading_projection_is_applied_once_when_latents_are_read():
    queue, states = queue_with("read"), torch.randn(3, 8)
    assert queue.write(states) is states
    torch.testing.assert_close(queue.read(states), states @ queue.mem_to_latent.weight.T + queue.mem_to_latent.bias)
    features = {"token_embeddings": states}
    assert queue(features)["token_embeddings"] is states


def test_the_paper_s_projections_are_its_formulas():
    queue, states = queue_with("paper", embedding_dimension=6), torch.randn(2, 3, 8)
    hidden = torch.relu(states @ queue.latent_to_mem.weight.T + queue.latent_to_mem.bias)
    torch.testing.assert_close(queue.write(states), hidden)
    first, _, second = queue.mem_to_emb
    inner = torch.relu(hidden @ first.weight.T + first.bias)
    expected = inner @ second.weight.T + second.bias
    torch.testing.assert_close(queue({"token_embeddings": states})["token_embeddings"], expected)
    assert queue.get_embedding_dimension() == expected.shape[-1] == 6


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_projecting_every_position_equals_projecting_the_pooled_one(projection):
    queue, states = queue_with(projection), torch.randn(4, 7, 8)
    every = queue({"token_embeddings": states})["token_embeddings"]
    torch.testing.assert_close(every[:, -1], queue({"token_embeddings": states[:, -1:]})["token_embeddings"][:, 0])


def test_the_newest_latents_are_kept():
    queue = queue_with("none")
    for held in range(8):
        latents = torch.arange(held * 8.0).view(held, 8)
        kept = queue.keep(latents)
        assert torch.equal(kept, latents[max(0, held - 5) :])
        assert torch.equal(queue.keep(kept), kept)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_queue_is_saved_with_every_choice(projection, tmp_path):
    queue = queue_with(projection, embedding_dimension=6 if projection == "paper" else None)
    queue.save(str(tmp_path))
    loaded = LatentMemoryQueue.load(str(tmp_path))
    assert loaded.get_config_dict() == queue.get_config_dict()
    for name, tensor in queue.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"projection": "deep"}, "projection='deep' is not known. Use one of none, read, paper"),
        ({"num_latents": 0}, "num_latents=0 and capacity_latents=5 were given"),
        ({"num_latents": 6}, "Use num_latents >= 1 and capacity_latents >= num_latents"),
    ],
)
def test_a_queue_that_cannot_hold_one_turn_is_refused(choices, message):
    with pytest.raises(InputError, match=message):
        LatentMemoryQueue(8, **{"num_latents": 2, "capacity_latents": 5, **choices})
