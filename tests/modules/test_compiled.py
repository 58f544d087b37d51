"""``model.compile()``: the same numbers, and no new graph for a stream of other lengths."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from evoemb import UnsupportedBackboneError
from laws import assert_same_embeddings
from tiny_models import make_model


@pytest.fixture
def compiled(base_folder):
    """A decoder compiled without a C++ compiler: graphs are captured and run as they are."""
    torch._dynamo.reset()
    counters.clear()
    model = make_model(base_folder("qwen3"), "prefix")
    model.compile(backend="eager")
    yield model
    torch._dynamo.reset()


def test_a_compiled_model_gives_the_same_and_compiles_no_length_anew(compiled, models, stream):
    plain = models("qwen3", "prefix")
    states = compiled.new_state(), plain.new_state()

    def compare(turns: list[str]) -> None:
        pairs = zip((compiled, plain), states, strict=True)
        found, expected = (model.encode(turns, stateful=True, state=state) for model, state in pairs)
        assert_same_embeddings(found, expected)

    compare(stream)
    compiled.encode("where", state=states[0])  # torch keeps a graph of its own for a single token
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 2
    for turns in (stream[:1], stream[2:5], [" ".join(stream)], stream[::-1]):
        compare(turns)
    assert_same_embeddings(compiled.encode("where", state=states[0]), plain.encode("where", state=states[1]))
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def test_training_runs_the_blocks_as_they_are(compiled, stream):
    blocks = [module for module in compiled[0].model.modules() if type(module).__name__.endswith("MLP")]
    hidden = torch.randn(2, 3, 32, requires_grad=True)
    blocks[0](hidden).sum().backward()
    assert hidden.grad is not None
    assert counters["stats"]["unique_graphs"] == 0


def test_a_copy_of_a_compiled_model_has_weights_of_its_own(compiled, stream):
    before = compiled.encode(stream, stateful=True)
    other = copy.deepcopy(compiled)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "down_proj.weight" in name:
                parameter.zero_()
    assert np.abs(other.encode(stream, stateful=True) - before).max() > 1e-3
    assert_same_embeddings(compiled.encode(stream, stateful=True), before)


def test_a_backbone_without_such_blocks_is_told(base_folder):
    with pytest.raises(UnsupportedBackboneError, match=r"gate_proj.*Leave model.compile\(\) out"):
        make_model(base_folder("bert"), "attention").compile()
