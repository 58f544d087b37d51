"""Few rows on a large weight: in blocks, the numbers are those of torch's own linear layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evoemb.modules import few_rows
from evoemb.modules.adapters import AdapterConfig, add_adapter, using
from evoemb.modules.few_rows import linear

LARGE = (1024, 2048)  # (out, in), 8 MiB in float32


@pytest.fixture
def products(monkeypatch):
    """The shapes of the block products that run."""
    seen: list[tuple[int, ...]] = []
    product = torch.bmm

    def watched(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        seen.append((*first.shape, second.shape[2]))
        return product(first, second)

    monkeypatch.setattr(few_rows.torch, "bmm", watched)
    monkeypatch.setattr(few_rows.torch.backends.mkl, "is_available", lambda: True)
    return seen


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("shape", [(2,), (7,), (2, 40), (1, 3, 5), (192,)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_blocks_give_what_the_whole_product_gives(products, shape, with_bias):
    rows, weight = drawn(*shape, LARGE[1]), drawn(*LARGE)
    bias = drawn(LARGE[0]) if with_bias else None
    with torch.no_grad():
        found = linear(rows, weight, bias)
    assert products == [(4, rows[..., 0].numel(), 2048, 256)]
    torch.testing.assert_close(found, F.linear(rows, weight, bias), rtol=1e-5, atol=1e-3)
    assert found.is_contiguous()


def test_rows_that_are_a_view_are_taken_as_they_are(products):
    rows, weight = drawn(2, LARGE[1], 8).transpose(1, 2), drawn(*LARGE)
    before = rows.clone()
    with torch.no_grad():
        torch.testing.assert_close(linear(rows, weight, None), F.linear(rows, weight), rtol=1e-5, atol=1e-3)
    assert len(products) == 1
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("rows", "weight"),
    [
        (drawn(1, 2048), drawn(*LARGE)),
        (drawn(193, 2048), drawn(*LARGE)),
        (drawn(8, 64), drawn(256, 64)),
        (drawn(8, 2048), drawn(1100, 2048)),
        (drawn(8, 2048), drawn(2048, 1024).t()),
        (drawn(8, 2048, dtype=torch.bfloat16), drawn(*LARGE, dtype=torch.bfloat16)),
    ],
    ids=["one row", "many rows", "small weight", "uneven width", "transposed weight", "bfloat16"],
)
def test_what_gains_nothing_runs_whole(products, rows, weight):
    with torch.no_grad():
        assert torch.equal(linear(rows, weight, None), F.linear(rows, weight))
    assert products == []


def test_gradients_run_whole(products):
    rows, weight = drawn(8, LARGE[1]).requires_grad_(), drawn(*LARGE)
    linear(rows, weight, None).sum().backward()
    assert products == []
    torch.testing.assert_close(rows.grad, weight.sum(0).expand(8, -1), rtol=1e-5, atol=1e-3)


def test_layers_with_adapters_use_it_in_inference(products):
    holder = nn.Module()
    holder.layer = nn.Linear(LARGE[1], LARGE[0]).requires_grad_(False)
    bare = nn.Linear(LARGE[1], LARGE[0])
    bare.load_state_dict(holder.layer.state_dict())
    add_adapter(holder, "memory", AdapterConfig(rank=4, alpha=8.0, dropout=0.0), ["layer"])
    holder.eval()
    rows = drawn(8, LARGE[1])
    with torch.no_grad():
        for name in (None, "memory"):  # a fresh adapter changes nothing
            with using(name):
                torch.testing.assert_close(holder.layer(rows), bare(rows), rtol=1e-5, atol=1e-4)
    assert len(products) == 2
