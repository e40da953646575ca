"""Random shortening of the longest jets of a training batch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["kept_at_random"]

QUANTILES: Final = (0.9, 1.02)
"""Range that the quantile of the lengths is drawn from; what is above 1 keeps all particles."""


def kept_at_random(mask: Tensor) -> Tensor:
    """Choose the particles that a training batch keeps.

    A quantile is drawn between 0.9 and 1, which is 1 in one of six batches; jets with more
    particles than this quantile of the batch's lengths lose random ones.

    Args:
        mask: True where the particle is real, shape ``(jet, particle)``.

    Returns:
        True where it is kept.
    """
    if not len(mask):
        return mask
    level = torch.empty((), device=mask.device).uniform_(*QUANTILES).clamp(max=1)
    length = torch.quantile(mask.sum(1).float(), level).long().clamp(min=1)
    order = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    rank = order.argsort(1).argsort(1)
    return mask & (rank < length)
