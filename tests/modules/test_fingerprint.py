"""The fingerprint: the same for the same weights in any dtype, another after any training step."""

from __future__ import annotations

import copy

import pytest
import torch

from evoemb.modules.fingerprint import fingerprint
from tiny_models import build_model, make_model


@pytest.fixture
def own(base_folder):
    """A model that a test may change."""
    return make_model(base_folder("bert"), "attention")


def test_two_builds_of_one_model_have_one_fingerprint(base_folder, own):
    digest = fingerprint(own)
    assert len(digest) == 32
    assert fingerprint(build_model(base_folder("bert"), "attention")) == digest
    assert fingerprint(copy.deepcopy(own)) == digest


def test_the_mode_and_the_dtype_do_not_matter(own):
    digest = fingerprint(own)
    assert fingerprint(own.train()) == digest
    assert fingerprint(own.to(torch.float64)) == digest
    assert fingerprint(own.to(torch.bfloat16)) == digest
    assert fingerprint(own.to(torch.float32)) == digest


def test_encoding_does_not_change_it(own, stream):
    digest = fingerprint(own)
    own.encode(stream, stateful=True)
    own.encode(stream)
    assert fingerprint(own) == digest


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-5),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, foreach=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
    ],
    ids=["adamw", "foreach", "fused", "sgd"],
)
def test_every_training_step_gives_another(own, optimizer):
    seen = {fingerprint(own)}
    trained = [parameter for parameter in own.parameters() if parameter.requires_grad]
    steps = optimizer(trained)
    for step in range(3):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        steps.step()
        seen.add(fingerprint(own))
    assert len(seen) == 4


def test_each_part_of_the_memory_counts(own):
    seen = {fingerprint(own)}
    for name, parameter in own.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            with torch.no_grad():
                parameter.add_(0.01)
            before = len(seen)
            seen.add(fingerprint(own))
            assert len(seen) == before + 1, name


def test_loading_weights_gives_theirs(base_folder, own):
    other = make_model(base_folder("bert"), "attention", trained=False)
    assert fingerprint(other) != fingerprint(own)
    other.load_state_dict(own.state_dict())
    assert fingerprint(other) == fingerprint(own)


def test_a_table_of_a_large_vocabulary_is_read_within_its_bounds():
    # As large as the embeddings of Qwen3-0.6B; one number seen everywhere takes no memory.
    large = torch.nn.Module()
    large.table = torch.nn.Parameter(torch.zeros(1).expand(151_936 * 1024), requires_grad=False)
    assert len(fingerprint(large)) == 32
