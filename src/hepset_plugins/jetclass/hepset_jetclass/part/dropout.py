"""Dropout that costs less than torch's on a CPU."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting

__all__ = ["dropout"]

_LEVELS: Final = 2**16


def dropout(x: Tensor, probability: float, *, training: bool) -> Tensor:
    """Set random numbers to 0 and scale the others, in training.

    On a CPU every 64 random bits decide on four numbers; the probability is rounded to a multiple
    of 2⁻¹⁶, and the scale fits the rounded one. torch draws a float for each, at four times the
    cost.
    """
    if not training or not probability:
        return x
    if x.device.type != "cpu" or is_exporting():
        return functional.dropout(x, probability, training=True)
    dropped = round(probability * _LEVELS)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = bits.view(torch.int16)[: x.numel()].view(x.shape)
    kept = torch.ge(levels, dropped - _LEVELS // 2).to(x.dtype)
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
