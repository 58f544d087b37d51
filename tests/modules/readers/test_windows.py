"""Attention over the queue and a text's own tokens: as written plainly, and the same in chunks."""

from __future__ import annotations

import pytest
import torch

from evoemb.modules.backbones.family import Heads
from evoemb.modules.readers import windows
from evoemb.modules.readers.windows import Queue, Window, attend

ROWS, STREAMS, HEADS, SIZE, HELD, WIDTH, AGES, TOKENS = 5, 2, 3, 8, 10, 6, 4, 7


@pytest.fixture(params=["absolute", "rotary"])
def given(request):
    """Queries, keys, the mask of the text, a queue, and windows of which one is empty and one has a hole."""
    torch.manual_seed(0)

    def one():
        return torch.randn(ROWS, HEADS, TOKENS, SIZE, requires_grad=True)

    query, key, value = one(), one(), one()
    free = (query, key) if request.param == "absolute" else (one(), one())
    mask = (torch.rand(ROWS, 1, TOKENS, TOKENS) < 0.7) | torch.eye(TOKENS, dtype=torch.bool)
    queue = Queue(
        torch.randn(STREAMS, HEADS, HELD, SIZE, requires_grad=True),
        torch.randn(STREAMS, HEADS, HELD, SIZE, requires_grad=True),
        torch.randn(HEADS, AGES, requires_grad=True),
        torch.randn(HEADS, AGES, SIZE, requires_grad=True),
        torch.rand(WIDTH, AGES),
    )
    valid = torch.arange(WIDTH) >= torch.tensor([[0], [2], [WIDTH], [5], [1]])
    valid[4, 3] = False
    places = torch.randint(0, STREAMS * HELD, (ROWS, WIDTH))
    return Heads(query, key, value, *free), mask, queue, Window.of(places, valid)


def _plainly(heads, mask, queue, window):
    """Score every slot and every token of a row, one row and head at a time."""
    rows = []
    for row in range(ROWS):
        for head in range(HEADS):
            # Age terms lie between those of a few ages, whichever slot the row sees there.
            offset, bias = queue.age_weight @ queue.age_key[head], queue.age_weight @ queue.age_bias[head]
            streams, slots = window.places[row] // HELD, window.places[row] % HELD
            key, value = queue.key[streams, head, slots] + offset, queue.value[streams, head, slots]
            to_memory = heads.free_query[row, head] @ key.T / SIZE**0.5 + bias
            to_memory = to_memory.masked_fill(~window.valid[row], -torch.inf)
            to_text = heads.query[row, head] @ heads.key[row, head].T / SIZE**0.5
            to_text = to_text.masked_fill(~mask[row, 0], -torch.inf)
            weights = torch.cat((to_memory, to_text), dim=-1).softmax(-1)
            rows.append(weights @ torch.cat((value, heads.value[row, head])))
    return torch.stack(rows).view(ROWS, HEADS, TOKENS, SIZE)


def _leaves(heads, queue):
    return [*{id(part): part for part in (heads.query, heads.key, heads.value, heads.free_query)}.values(), *queue[:4]]


@pytest.mark.parametrize("row_bytes", [1, 10**12], ids=["one chunk", "a chunk a row"])
def test_attention_and_its_gradients_are_those_of_one_softmax(given, monkeypatch, row_bytes):
    heads, mask, queue, window = given
    monkeypatch.setattr(Window, "chunks", lambda self, _, cut=Window.chunks: cut(self, row_bytes))
    found, expected = attend(heads, heads, mask, queue, window), _plainly(heads, mask, queue, window)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    ours, plain = (torch.autograd.grad((one * weight).sum(), _leaves(heads, queue)) for one in (found, expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_chunks_hold_every_row_once_and_no_slot_that_none_of_theirs_sees(given, monkeypatch):
    window = given[3]
    monkeypatch.setattr(windows, "_CACHE_BYTES", 200)
    found = list(window.chunks(100))
    assert [rows for rows, _, _ in found] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert [places.shape for _, places, _ in found] == [(2, WIDTH), (2, 1), (1, WIDTH - 1)]
    for rows, places, valid in found:
        width = places.shape[1]
        assert torch.equal(valid, window.valid[rows, WIDTH - width :])
        assert not window.valid[rows, : WIDTH - width].any()
        assert torch.equal(places, window.places[rows, WIDTH - width :])


def test_without_a_queue_texts_see_themselves_alone(given):
    heads, mask, _, window = given
    expected = torch.nn.functional.scaled_dot_product_attention(heads.query, heads.key, heads.value, attn_mask=mask)
    torch.testing.assert_close(attend(heads, heads, mask, None, window), expected)
