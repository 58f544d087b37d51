"""Training through the recurrence: every trainable part learns, nothing frozen moves, checkpoints change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from evoemb import EvoEmbedding
from evoemb.modules.adapters import MEMORY_ADAPTER, RETRIEVER_ADAPTER
from evoemb.streaming import engine
from evoemb.streaming.rows import Limits
from kinds import CASES, MORE_CASES
from tiny_models import make_model


@pytest.fixture(params=CASES + MORE_CASES, ids="-".join)
def trainable(request, base_folder) -> EvoEmbedding:
    """A model of its own, in training mode without dropout, so that two passes can be compared."""
    model = make_model(base_folder(request.param[0]), request.param[1], lora_dropout=0.0)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(model[0].model.config, name):
            setattr(model[0].model.config, name, 0.0)
    return model


def loss_of(model: EvoEmbedding, streams: list[list[str]], *, embed: bool = True) -> torch.Tensor:
    """A number that depends on every embedding and on the memory after the streams."""
    memories = list(model.new_state(len(streams)).snapshot())
    ids = [model[0].token_ids(turns) for turns in streams]
    emitted = list(engine.advance(model._stack(), memories, ids, Limits(), embed=embed))
    query = engine.read(model._stack(), memories, [[model[0].token_ids(["where"])[0]]] * len(streams), Limits())
    found = [one.embedding for one in emitted if one.embedding is not None] + [one[0] for one in query]
    weights = torch.randn(len(found), 32, generator=torch.Generator().manual_seed(0))
    return (torch.stack(found) * weights).sum()


def gradients_of(model: EvoEmbedding, run: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    run().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_opens_in_tens_of_steps_at_the_learning_rate_of_the_rest(base_folder, dtype):
    reader = make_model(base_folder("qwen3"), "prefix", trained=False).to(dtype)[0].reader
    start = reader.gate_bias.item()
    optimizer = torch.optim.AdamW([reader.gate_opening], lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        (-1e-6 * reader.gate_bias).backward()  # a nearly closed gate passes little
        optimizer.step()
    assert reader.gate_bias.item() - start == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(("latents", "capacity"), [(16, 512), (16, 64), (2, 512)])
def test_a_gate_starts_by_what_one_turn_weighs_and_lower_for_queues_of_more_than_32(base_folder, latents, capacity):
    model = make_model(base_folder("qwen3"), "prefix", trained=False, num_latents=latents, capacity_latents=capacity)
    weight = model[0].reader.gate_bias.detach().exp()
    assert float(weight * max(latents, capacity / 32)) == pytest.approx(math.exp(-4), rel=1e-5)


def test_gradients_reach_every_trainable_part_and_no_frozen_one(trainable, stream):
    frozen = {name: p.clone() for name, p in trainable.named_parameters() if not p.requires_grad}
    gradients = gradients_of(trainable, lambda: loss_of(trainable, [stream, stream[:5]]))
    for name, parameter in trainable.named_parameters():
        if not parameter.requires_grad:
            assert name not in gradients
        elif not unused(trainable, name):
            assert gradients[name].any(), f"{name} gets no gradient"
            assert torch.isfinite(gradients[name]).all()
    trained = [p for p in trainable.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=0.1).step()
    for name, before in frozen.items():
        assert torch.equal(trainable.get_parameter(name), before)


def unused(model: EvoEmbedding, name: str) -> bool:
    """Weights that take part in no latent and no embedding.

    The attention reader's latents are states entering a layer, so what its memory adapter would do in the last layer
    enters nothing.
    """
    last = f".{len(list(model[0].reader.family.layers)) - 1}." if model.memory_config.reader == "attention" else "none"
    return last in name and f".{MEMORY_ADAPTER}." in name


def test_what_is_trainable_is_the_memory_alone(trainable):
    for name, parameter in trainable.named_parameters():
        part_of_memory = "lora_" in name or ".reader." in name or name.startswith("1.")
        assert parameter.requires_grad == part_of_memory, name


def test_both_adapters_learn_from_what_is_asked_after_a_stream(trainable, stream):
    gradients = gradients_of(trainable, lambda: loss_of(trainable, [stream], embed=False))
    one_layer = getattr(trainable[0].reader, "num_memory_layers", 2) == 1  # its latents enter it untouched
    for adapter in (RETRIEVER_ADAPTER,) if one_layer else (MEMORY_ADAPTER, RETRIEVER_ADAPTER):
        assert any(grad.any() for name, grad in gradients.items() if f".{adapter}." in name)


def test_gradient_checkpointing_gives_the_same_gradients(trainable, stream):
    """Recomputing a block under the adapter of a later role would give other gradients, without any error."""
    streams = [stream, stream[3:8]]
    plain = gradients_of(trainable, lambda: loss_of(trainable, streams))
    trainable.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    for module in trainable.modules():
        if checkpoint := getattr(module, "_gradient_checkpointing_func", None):
            module._gradient_checkpointing_func = lambda *a, run=checkpoint, **k: calls.append(1) or run(*a, **k)
    checkpointed = gradients_of(trainable, lambda: loss_of(trainable, streams))
    assert set(plain) == set(checkpointed)
    for name, gradient in plain.items():
        # Other kernels run without a cache, so sums differ in their last bits; a wrong adapter differs by its own size.
        assert (checkpointed[name] - gradient).abs().max() <= 1e-3 * gradient.abs().max() + 1e-5, name
    assert calls, "nothing was checkpointed"


def test_the_differentiable_pass_gives_the_embeddings_of_encode(trainable, stream):
    memories = list(trainable.new_state().snapshot())
    ids = [trainable[0].token_ids(stream)]
    with torch.enable_grad():
        emitted = list(engine.advance(trainable._stack(), memories, ids, Limits()))
    by_turn = torch.stack([one.embedding for one in sorted(emitted, key=lambda one: one.turn)])
    assert by_turn.requires_grad
    # Inference may use merged weights: the same product, summed in another order.
    torch.testing.assert_close(
        by_turn.detach(), trainable.encode(stream, stateful=True, convert_to_tensor=True), rtol=0, atol=2e-5
    )


def test_an_update_is_seen_by_the_next_call(trainable, stream):
    """Merged weights and fingerprints are kept from call to call; a training step must not leave them stale."""
    before = trainable.encode(stream, stateful=True)
    spec = trainable.state_spec
    trainable.train()
    gradients_of(trainable, lambda: loss_of(trainable, [stream]))
    torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.01).step()
    after = trainable.encode(stream, stateful=True)
    assert abs(after - before).max() > 1e-4
    assert trainable.state_spec.fingerprint != spec.fingerprint
