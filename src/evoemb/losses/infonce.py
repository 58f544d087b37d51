"""The paper's contrastive loss as a pure function of scores and masks."""

from __future__ import annotations

import torch
from torch import Tensor


def evidence_infonce(scores: Tensor, positive: Tensor, negative: Tensor, *, length_weight: bool = True) -> Tensor:
    """Return each query's loss: InfoNCE of every positive against all negatives, averaged and weighed.

    Args:
        scores: Cosines divided by the temperature, ``(Q, N)`` for the candidates of a batch.
        positive: True at evidence, ``(Q, N)``.
        negative: True at the candidates to keep away from, ``(Q, N)``; those in neither mask are left out.
        length_weight: Whether it is multiplied by ``log(negatives + 1)``.

    Returns:
        ``(Q,)``; 0 for queries without positives or without negatives.

    Source: EvoEmbedding (arXiv 2606.21649), L_con.
    """
    blocked = torch.finfo(scores.dtype).min
    against = scores.masked_fill(~negative, blocked).logsumexp(-1, keepdim=True)
    each = (torch.logaddexp(scores, against) - scores).masked_fill(~positive, 0.0)
    num_positive, num_negative = positive.sum(-1), negative.sum(-1)
    weight = torch.log(num_negative + 1.0) if length_weight else (num_negative > 0).float()
    return each.sum(-1) * weight / num_positive.clamp(min=1)
