"""Laws of the losses over batches of whole streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from evoemb import EvoEmbedding, InputError, UnsupportedBackboneError
from evoemb.losses import (
    CachedStreamLoss,
    CombinedLoss,
    EvidenceContrastiveLoss,
    MemoryLanguageModelingLoss,
    StreamLoss,
)
from evoemb.losses.cached import join_outputs, split_streams
from evoemb.modules.adapters import keep_adapter_in_checkpoints
from evoemb.streaming import whole
from evoemb.training import StreamCollator, parse_row
from tiny_models import make_model
from training.streams import rows

KINDS = [("qwen3", "prefix"), ("bert", "attention")]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def fresh(request: pytest.FixtureRequest, base_folder: Callable[[str], Path]) -> EvoEmbedding:
    """A model of its own, without dropout, whose gradients a test may fill."""
    kind, reader = request.param
    return make_model(base_folder(kind), reader, lora_dropout=0.0)


def features(model: EvoEmbedding, data: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return StreamCollator(model, **options).features([parse_row(row) for row in data])


def mixed_rows() -> list[dict[str, Any]]:
    """Streams of differing length, one with two queries, one without evidence, one of a single turn."""
    one, two, three, four = rows(4)
    two = {**two, "query": ["where do i live", "who has a key"], "evidence": [[0], [1]], "asked_at": [1, 5]}
    two["answer"] = [None, "my sister"]
    return [one, two, {**three, "evidence": []}, {**four, "turns": ["ok"], "evidence": [0]}]


def step(loss: StreamLoss | MatryoshkaLoss, batch: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch and the gradient of every parameter that has one."""
    loss.zero_grad()
    value = loss([batch], None)
    total: Tensor = sum(value.values()) if isinstance(value, dict) else value
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in loss.model.named_parameters() if p.grad is not None}


def assert_same_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    size = max(float(gradient.abs().max()) for gradient in first.values())
    for name, gradient in first.items():
        # Sums in another order: float32 noise grows with the largest terms, not with the element.
        torch.testing.assert_close(second[name], gradient, rtol=1e-3, atol=1e-4 * size, msg=name)


def head_of(model: EvoEmbedding) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(model[0].model.get_input_embeddings().weight.shape, generator=generator)


def both_losses(model: EvoEmbedding, **options: Any) -> StreamLoss:
    """The paper's loss where the model can answer, else its contrastive part."""
    contrastive = EvidenceContrastiveLoss(model, **options)
    if model.memory_config.reader != "prefix":
        return contrastive
    return CombinedLoss(model, [MemoryLanguageModelingLoss(model, head_of(model)), contrastive], [0.5, 2.0])


def test_a_batch_of_streams_embeds_as_encode_does(any_model):
    data = mixed_rows()
    with torch.no_grad():
        output = any_model(features(any_model, data, answers=False))
    found = output[whole.EMBEDDING]
    start, queries = 0, sum(len(row["turns"]) for row in data)
    for row in data:
        state = any_model.new_state()
        asked = parse_row(row).questions
        for question in asked:
            state = any_model.new_state()
            any_model.encode(row["turns"][: question.asked_at], stateful=True, state=state)
            expected = any_model.encode_query(question.text, state=state, convert_to_tensor=True)
            torch.testing.assert_close(found[queries], expected, rtol=0, atol=2e-5)
            queries += 1
        turns = any_model.encode(row["turns"], stateful=True, convert_to_tensor=True)
        torch.testing.assert_close(found[start : start + len(turns)], turns, rtol=0, atol=2e-5)
        start += len(turns)


def test_the_contrastive_loss_is_the_papers_formula(fresh):
    (row,) = rows(1)
    row = {**row, "evidence": [0, 3]}
    with torch.no_grad():
        batch = features(fresh, [row])
        loss = EvidenceContrastiveLoss(fresh)([batch])
        state = fresh.new_state()
        turns = fresh.encode(row["turns"], stateful=True, state=state, convert_to_tensor=True)
        query = fresh.encode_query(row["query"], state=state, convert_to_tensor=True)
    scores = F.cosine_similarity(turns, query.expand_as(turns)) / 0.1
    negatives = scores[[1, 2, 4]]
    each = [torch.logsumexp(torch.cat((scores[p : p + 1], negatives)), 0) - scores[p] for p in (0, 3)]
    assert loss.item() == pytest.approx((math.log(4) / 2 * sum(each)).item(), abs=2e-4)


def test_streams_of_a_batch_weigh_alike_whatever_their_number_of_queries(fresh):
    data = mixed_rows()
    with torch.no_grad():
        loss = EvidenceContrastiveLoss(fresh)
        together = loss([features(fresh, data)])
        apart = [loss([features(fresh, [row])]) for row in data]
    assert together.item() == pytest.approx(torch.stack(apart).mean().item(), abs=2e-4)
    assert apart[2].item() == 0  # without evidence
    assert apart[3].item() == 0  # without negatives


def test_turns_after_the_question_are_no_candidates(fresh):
    (row,) = rows(1)
    early = {**row, "evidence": [0], "asked_at": 2}
    with torch.no_grad():
        loss = EvidenceContrastiveLoss(fresh)
        short = loss([features(fresh, [{**early, "turns": row["turns"][:2]}])])
        assert loss([features(fresh, [early])]).item() == pytest.approx(short.item(), abs=2e-4)


def test_gathering_needs_in_batch_negatives_and_changes_nothing_in_one_process(fresh):
    with pytest.raises(InputError, match="without in_batch_negatives"):
        EvidenceContrastiveLoss(fresh, gather_across_devices=True)
    batch = features(fresh, mixed_rows())
    alone, gathered = (
        step(EvidenceContrastiveLoss(fresh, in_batch_negatives=True, gather_across_devices=gather), batch)
        for gather in (False, True)
    )
    assert gathered[0] == alone[0]
    assert_same_gradients(gathered[1], alone[1])


def test_in_batch_negatives_add_the_other_streams_turns(fresh):
    data = rows(2)
    with torch.no_grad():
        output = fresh(features(fresh, data, answers=False))
        loss = EvidenceContrastiveLoss(fresh, in_batch_negatives=True).compute(output)
    embeddings = output[whole.EMBEDDING]
    turns, queries = embeddings[:11], embeddings[11:]
    assert [len(row["turns"]) for row in data] == [5, 6]
    expected = []
    for query, positive in zip(queries, (3, 8), strict=True):
        scores = F.cosine_similarity(turns, query.expand_as(turns)) / 0.1
        expected.append(math.log(11) * (torch.logsumexp(scores, 0) - scores[positive]))
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=2e-4)


def test_turns_that_resemble_evidence_can_be_left_out_of_the_negatives(fresh):
    (row,) = rows(1)
    with torch.no_grad():
        output = fresh(features(fresh, [row], answers=False))
        assert EvidenceContrastiveLoss(fresh, false_negative_threshold=-1.0).compute(output).item() == 0
        kept = EvidenceContrastiveLoss(fresh, false_negative_threshold=1.0).compute(output)
        assert kept.item() == pytest.approx(EvidenceContrastiveLoss(fresh).compute(output).item())


def test_gradients_reach_every_part_of_the_memory(any_model):
    model = any_model.train()
    try:
        batch = features(model, rows(2), answers=False)
        EvidenceContrastiveLoss(model)([batch]).backward()
        missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        # What the attention reader's last layer would write is read by no later layer.
        assert all(".lora_" in name and ".memory." in name for name in missing), missing
        if model.memory_config.reader == "prefix":
            assert missing == set()
        written = [p for name, p in model.named_parameters() if name.endswith("memory_queries")]
        assert all(float(p.grad.abs().max()) > 0 for p in written)
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
        assert frozen == []
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


def test_the_memory_gets_its_gradient_from_turns_behind_it(fresh):
    batch = features(fresh, rows(1), answers=False)
    _, gradients = step(EvidenceContrastiveLoss(fresh), batch)
    through = [name for name in gradients if ".memory." in name and "lora_B" in name]
    assert max(float(gradients[name].abs().max()) for name in through) > 0


@pytest.mark.parametrize("streams_per_step", [1, 2, 9])
def test_cached_gradients_are_exact(fresh, streams_per_step):
    batch = features(fresh, mixed_rows())
    loss = both_losses(fresh, in_batch_negatives=True)
    value, gradients = step(loss, batch)
    cached_value, cached = step(CachedStreamLoss(fresh, loss, streams_per_step), batch)
    assert cached_value == pytest.approx(value, abs=1e-4)
    assert_same_gradients(gradients, cached)


def test_a_batch_cut_into_streams_and_joined_is_the_batch(fresh):
    batch = features(fresh, mixed_rows())
    with torch.no_grad():
        output = fresh(batch)
        joined = join_outputs([fresh(part) for part in split_streams(batch, 1)])
    assert joined.keys() == output.keys()
    for name, value in output.items():
        torch.testing.assert_close(joined[name], value, rtol=0, atol=1e-3 if value.is_floating_point() else 0)


def test_checkpointing_recomputes_blocks_and_changes_no_gradient(fresh):
    batch, loss = features(fresh, mixed_rows()), both_losses(fresh)
    fresh.train()
    torch.manual_seed(0)
    value, gradients = step(loss, batch)
    calls = []
    fresh.gradient_checkpointing_enable()
    for module in fresh.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            checkpoint = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = lambda *a, _run=checkpoint, **k: (calls.append(1), _run(*a, **k))[1]
    torch.manual_seed(0)
    again, recomputed = step(loss, batch)
    assert calls
    assert again == pytest.approx(value, abs=1e-5)
    assert_same_gradients(gradients, recomputed)


def test_checkpointing_without_the_kept_adapter_fails(base_folder):
    """The control of the test above: a recomputation under another adapter is noticed."""
    model = make_model(base_folder("qwen3"), "prefix", lora_dropout=0.0).train()
    batch, loss = features(model, rows(2)), EvidenceContrastiveLoss(model)
    _, gradients = step(loss, batch)
    backbone: Any = model[0].model
    getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)()
    with pytest.raises(CheckpointError):
        step(loss, batch)
    keep_adapter_in_checkpoints(backbone)
    assert_same_gradients(gradients, step(loss, batch)[1])


@pytest.mark.parametrize("cached", [False, True])
def test_matryoshka_of_sentence_transformers_and_ours_agree(fresh, cached):
    dims, weights = [32, 16, 8], [1.0, 0.5, 0.25]
    batch = features(fresh, mixed_rows())
    value, gradients = step(MatryoshkaLoss(fresh, EvidenceContrastiveLoss(fresh), dims, weights), batch)
    own: StreamLoss = EvidenceContrastiveLoss(fresh, matryoshka_dims=dims, matryoshka_weights=weights)
    own_value, own_gradients = step(CachedStreamLoss(fresh, own) if cached else own, batch)
    assert own_value == pytest.approx(value, abs=1e-4)
    assert_same_gradients(gradients, own_gradients)


def test_truncated_backpropagation_changes_gradients_and_not_the_loss(fresh):
    data = [{**rows(1)[0], "turns": [turn for row in rows(4) for turn in row["turns"]]}]
    loss = EvidenceContrastiveLoss(fresh)
    value, full = step(loss, features(fresh, data))
    long_value, long = step(loss, features(fresh, data, bptt_turns=100))
    short_value, short = step(loss, features(fresh, data, bptt_turns=4))
    assert value == pytest.approx(long_value, abs=1e-5) == pytest.approx(short_value, abs=1e-4)
    assert_same_gradients(full, long)
    memory = [name for name in full if ".memory." in name and "lora_B" in name]
    assert any(not torch.allclose(full[name], short[name], rtol=1e-3) for name in memory)


def test_row_limits_change_no_number(fresh):
    loss = both_losses(fresh)
    value, gradients = step(loss, features(fresh, mixed_rows()))
    small, again = step(loss, features(fresh, mixed_rows(), row_limit=2, token_limit=60))
    assert small == pytest.approx(value, abs=1e-4)
    assert_same_gradients(gradients, again)


def test_the_memory_loss_is_that_of_the_bare_base_model(base_folder):
    model = make_model(base_folder("qwen3"), "prefix")
    (row,) = rows(1)
    head = head_of(model)
    batch = features(model, [row])
    with torch.no_grad():
        loss = MemoryLanguageModelingLoss(model, head)([batch])
        state = model.new_state()
        model.encode(row["turns"], stateful=True, state=state)
        memory = model[1].read(state.latents[0])
        ids, labels = batch[whole.ANSWER_IDS][0], batch[whole.ANSWER_LABELS][0]
        rows_in = torch.cat((memory, model[0].model.get_input_embeddings()(ids)))
        hidden = model[0].model(inputs_embeds=rows_in[None]).last_hidden_state[0]
    logits = hidden[len(memory) - 1 : -1] @ head.T
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=-100).item(), abs=1e-4)
    assert (labels != -100).sum() == 2  # the answer's word and the end


def test_the_memory_loss_is_zero_without_answers_and_still_has_a_gradient(base_folder):
    model = make_model(base_folder("qwen3"), "prefix")
    batch = features(model, [{**rows(1)[0], "answer": None}])
    loss = MemoryLanguageModelingLoss(model, head_of(model))([batch])
    loss.backward()
    assert loss.item() == 0


def test_the_memory_loss_needs_a_decoder(base_folder):
    model = make_model(base_folder("bert"), "prefix")
    with pytest.raises(UnsupportedBackboneError, match="encoder"):
        MemoryLanguageModelingLoss(model)
    with pytest.raises(InputError, match="only a decoder"):
        StreamCollator(model, answers=True)


def test_a_head_of_another_size_is_refused(base_folder):
    model = make_model(base_folder("qwen3"), "prefix")
    with pytest.raises(InputError, match=r"head has shape \(3, 4\), expected"):
        MemoryLanguageModelingLoss(model, torch.zeros(3, 4))


def test_losses_refuse_text_columns(fresh):
    with pytest.raises(InputError, match="data_collator=StreamCollator"):
        EvidenceContrastiveLoss(fresh)([{"input_ids": torch.zeros(1, 1)}])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"false_negative_threshold": 2.0}, "It is a cosine"),
        ({"matryoshka_dims": [64]}, "Use sizes from 1 to 32"),
        ({"matryoshka_dims": [8], "matryoshka_weights": [1, 1]}, "one weight a dimension"),
    ],
)
def test_contrastive_options_out_of_range_are_refused(fresh, options, told):
    with pytest.raises(InputError, match=told):
        EvidenceContrastiveLoss(fresh, **options)


def test_combined_weights_must_match(fresh):
    with pytest.raises(InputError, match="1 losses and 2 weights"):
        CombinedLoss(fresh, [EvidenceContrastiveLoss(fresh)], [1, 2])
    with pytest.raises(InputError, match="streams_per_step=0"):
        CachedStreamLoss(fresh, EvidenceContrastiveLoss(fresh), 0)
