"""The training loss and its gradients against the paper's code."""

from __future__ import annotations

import pytest
import torch

from evoemb.dialogue.losses import sequence_loss
from evoemb.upstream.keys import target_of
from parity.cases import TOLERANCE


def loss_of(model, case):
    model.eval()  # the reference was taken without dropout
    inputs, memory = case.inputs, model.new_state().snapshot()[0]
    return sequence_loss(
        model._stack(), inputs["input_ids"], inputs["labels"], inputs["turn_ids"], inputs["evidence_turns"], memory
    )


def parameters_of(model):
    rooms = {"transformer": model[0].model, "reader": model[0].reader, "queue": model[1]}
    return {f"{room}.{name}": one for room, module in rooms.items() for name, one in module.named_parameters()}


@pytest.mark.operation("forward_loss")
def test_the_loss_is_that_of_the_original(model, case):
    found = loss_of(model, case)
    pairs = {"total_loss": found.total, "lm_loss": found.lm, "contrastive_loss": found.contrastive}
    for name, value in pairs.items():
        expected = case.expected(name)
        assert (value is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(value, expected, rtol=0, atol=TOLERANCE["losses"])
    torch.testing.assert_close(found.logits, case.expected("logits"), rtol=0, atol=TOLERANCE["logits"])
    if found.scores is None:
        assert case.expected("pos_scores") is None
        return
    rest = [index for index in range(len(found.scores)) if index not in found.evidence]
    for name, chosen in (("pos_scores", found.evidence), ("neg_scores", rest)):
        expected = case.expected(name).flatten()
        torch.testing.assert_close(found.scores[chosen], expected, rtol=0, atol=TOLERANCE["scores"])


@pytest.mark.operation("forward_loss")
def test_gradients_are_those_of_the_original(model, case):
    expected = {name.removeprefix("grad."): name for name in case.expected_tensors if name.startswith("grad.")}
    if not expected:
        pytest.skip("no gradients were recorded for this case")
    parameters = parameters_of(model)
    try:
        loss_of(model, case).total.backward()
        for key, name in expected.items():
            gradient = parameters[target_of(key)].grad
            wanted = case.expected(name)
            gradient = torch.zeros_like(wanted) if gradient is None else gradient.view_as(wanted)
            torch.testing.assert_close(
                gradient, wanted, rtol=1e-3, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}"
            )
        for key, norm in case.expected_values["grad_norms"].items():
            gradient = parameters[target_of(key)].grad
            found = 0.0 if gradient is None else float(gradient.norm())
            assert found == pytest.approx(norm or 0.0, rel=1e-3, abs=2e-3), key
        trained = {target_of(key) for key in case.expected_values["grad_norms"]}
        assert {name for name, one in parameters.items() if one.grad is not None} <= trained
        assert trained <= {name for name, one in parameters.items() if one.requires_grad}
    finally:
        model.zero_grad(set_to_none=True)
