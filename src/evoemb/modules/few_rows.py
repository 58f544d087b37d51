"""Matrix products of a few rows with a large weight, in blocks of the weight's columns.

One turn more or one question is a few dozen rows, and for these MKL multiplies faster when it gets a large weight in
blocks. That was measured; why it is so was not. No weight is copied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured in float32 with MKL, rows by (out, in): between 2 and 192 rows on weights of 8 MiB and more, products took
# 0.95 to 1.6 times as long whole as in blocks on one thread, 1.0 to 2.8 times on two. One row, more rows and smaller
# weights gained nothing.
_ROWS = range(2, 193)
_WEIGHT_ELEMENTS = 2**21
_BLOCK = 256


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``rows @ weight.T + bias`` as :func:`torch.nn.functional.linear` does, without gradients.

    Args:
        rows: ``(..., in)``.
        weight: ``(out, in)``.
        bias: ``(out,)``, or None.
    """
    if not _pays(rows, weight):
        return F.linear(rows, weight, bias)
    width = weight.shape[0]
    flat = rows.reshape(-1, rows.shape[-1])
    blocks = weight.view(width // _BLOCK, _BLOCK, -1).transpose(1, 2)
    products = torch.bmm(flat.expand(len(blocks), *flat.shape), blocks)
    product = products.transpose(0, 1).reshape(*rows.shape[:-1], width)
    return product if bias is None else product.add_(bias)


def _pays(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and torch.backends.mkl.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and weight.shape[0] % _BLOCK == 0
        and weight.numel() >= _WEIGHT_ELEMENTS
        and weight.is_contiguous()
        and rows.shape[:-1].numel() in _ROWS
    )
