"""Normalisations of SPANet's blocks, over features or over the rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset_spanet.options import folded

__all__ = ["MaskedBatchNorm", "Normalisation", "make_normalisation"]


class Normalisation(nn.Module):
    """LayerNorm over features, or BatchNorm over all rows of the batch, padded ones included."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.normalization: nn.Module = (
            nn.LayerNorm(width) if kind == "layernorm" else nn.BatchNorm1d(width)
        )
        self.over_rows = kind == "batchnorm"

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise `x`, shape ``(..., width)``."""
        del mask
        if not self.over_rows:
            normalised: Tensor = self.normalization(x)
            return normalised
        rows: Tensor = self.normalization(x.reshape(-1, x.shape[-1]))
        return rows.reshape(x.shape)


class MaskedBatchNorm(nn.Module):
    """BatchNorm over real rows only; no gradient flows through the moments.

    The first batch sets the running moments, each further one moves them by `momentum`. Without
    any real row nothing moves.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, 1, width))
        self.bias = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("running_mean", torch.zeros(1, 1, width))
        self.register_buffer("running_var", torch.ones(1, 1, width))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise `x`, shape ``(..., width)``; `mask` has the shape ``(..., 1)``."""
        if mask is None:
            mask = torch.ones_like(x[..., :1], dtype=torch.bool)
        if self.training:
            mean, variance = self._moments(x.detach(), mask)
        else:
            mean, variance = self.running_mean.flatten(), self.running_var.flatten()
        scaled = (x - mean) / torch.sqrt(variance + self.eps)
        return (scaled * self.weight.flatten() + self.bias.flatten()) * mask

    def _moments(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows = x[mask[..., 0]]
        if len(rows) == 0:
            return self.running_mean.flatten(), self.running_var.flatten()
        mean = rows.mean(0)
        variance = ((rows - mean) ** 2).sum(0) / max(len(rows) - 1, 1)
        share = 1.0 if self.num_batches_tracked == 0 else self.momentum
        self.running_mean.lerp_(mean.expand_as(self.running_mean), share)
        self.running_var.lerp_(variance.expand_as(self.running_var), share)
        self.num_batches_tracked += 1
        return mean, variance


_KINDS = ("LayerNorm", "BatchNorm", "MaskedBatchNorm")


def make_normalisation(name: str, width: int) -> Normalisation | MaskedBatchNorm:
    """Return the normalisation that SPANet's option ``normalization`` names.

    Raises:
        ConfigurationError: If there is none of this name; SPANet cannot run without one.
    """
    kind = folded(name)
    if kind not in {folded(each) for each in _KINDS}:
        raise ConfigurationError(
            f"normalization {name!r}{did_you_mean(name, _KINDS)}; SPANet has {', '.join(_KINDS)}"
        )
    return MaskedBatchNorm(width) if kind == "maskedbatchnorm" else Normalisation(width, kind)
