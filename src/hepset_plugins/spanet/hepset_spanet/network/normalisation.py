"""Normalisations of SPANet's blocks, over features or over the rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError, did_you_mean
from hepset_spanet.network.stacked import Stacked, StackedLayerNorm
from hepset_spanet.options import folded

__all__ = ["MaskedBatchNorm", "Normalisation", "StackedBatchNorm", "make_normalisation"]

_MOMENTUM, _EPS = 0.1, 1e-5


class StackedBatchNorm(Stacked):
    """BatchNorm over rows, padded ones included, for each copy."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(copies, width))
        self.bias = nn.Parameter(torch.zeros(copies, width))
        self.register_buffer("running_mean", torch.zeros(copies, width))
        self.register_buffer("running_var", torch.ones(copies, width))
        self.register_buffer("num_batches_tracked", torch.zeros(copies, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape ``(copies, rows, width)``."""
        copies, _, width = x.shape
        if self.training:
            self.num_batches_tracked += 1
        beside = x.transpose(0, 1).reshape(-1, copies * width)
        found: Tensor = functional.batch_norm(
            beside,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            _MOMENTUM,
            _EPS,
        )
        return found.reshape(-1, copies, width).transpose(0, 1)


class Normalisation(nn.Module):
    """LayerNorm over features, or BatchNorm over all rows of the batch, padded ones included."""

    def __init__(self, copies: int, width: int, kind: str) -> None:
        super().__init__()
        self.normalization: nn.Module = (
            StackedLayerNorm(copies, width)
            if kind == "layernorm"
            else StackedBatchNorm(copies, width)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise `x`, shape ``(copies, rows, width)``."""
        del mask
        normalised: Tensor = self.normalization(x)
        return normalised


class MaskedBatchNorm(Stacked):
    """BatchNorm over real rows only; no gradient flows through the moments.

    The first batch sets the running moments, each further one moves them by `momentum`. Without
    any real row nothing moves.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(copies, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(copies, 1, 1, width))
        self.register_buffer("running_mean", torch.zeros(copies, 1, 1, width))
        self.register_buffer("running_var", torch.ones(copies, 1, 1, width))
        self.register_buffer("num_batches_tracked", torch.zeros(copies, dtype=torch.int64))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise `x`, shape ``(copies, rows, width)``; `mask` has the shape ``(rows, 1)``."""
        if self.training:
            mean, variance = self._moments(x.detach(), mask)
        else:
            mean, variance = self.running_mean, self.running_var
        scaled = (x - mean[:, 0]) / torch.sqrt(variance[:, 0] + _EPS)
        normalised = scaled * self.weight[:, 0] + self.bias[:, 0]
        return normalised if mask is None else normalised * mask

    def _moments(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        # Sums with a mask need no number of rows on the host, for which a GPU would be waited for.
        real = torch.ones_like(x[0, :, :1], dtype=torch.bool) if mask is None else mask
        rows = torch.where(real, x, 0.0).to(self.running_mean.dtype)
        count = real.sum()
        some = count > 0
        mean = (rows.sum(1) / count.clamp(min=1))[:, None, None]
        squares = torch.where(real, rows - mean[:, 0], 0.0) ** 2
        variance = squares.sum(1)[:, None, None] / (count - 1).clamp(min=1)
        mean = torch.where(some, mean, self.running_mean)
        variance = torch.where(some, variance, self.running_var)
        share = torch.where(self.num_batches_tracked == 0, 1.0, _MOMENTUM)[:, None, None, None]
        share = share.to(self.running_mean.dtype)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
        self.num_batches_tracked += some
        return mean, variance


_KINDS = ("LayerNorm", "BatchNorm", "MaskedBatchNorm")


def make_normalisation(name: str, copies: int, width: int) -> Normalisation | MaskedBatchNorm:
    """Return the normalisation that SPANet's option ``normalization`` names.

    Raises:
        ConfigurationError: If there is none of this name; SPANet cannot run without one.
    """
    kind = folded(name)
    if kind not in {folded(each) for each in _KINDS}:
        raise ConfigurationError(
            f"normalization {name!r}{did_you_mean(name, _KINDS)}; SPANet has {', '.join(_KINDS)}"
        )
    if kind == "maskedbatchnorm":
        return MaskedBatchNorm(copies, width)
    return Normalisation(copies, width, kind)
