"""Batch normalisation over real objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedBatchNorm"]


class MaskedBatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the real objects of a batch, on the last axis.

    Parameters, buffers and options are those of torch's layer, and without padding so is the
    result. Padded objects enter no moment. No number of objects is needed on the host, so that a
    GPU is not waited for.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise objects.

        Args:
            x: Packed rows ``(row, width)``, or a padded tensor ``(..., width)``.
            mask: True where the object is real, shape ``(...)``; None = everywhere.

        Returns:
            Shape of `x`; 0 where padded. Where a batch has no real object at all, the moments that
            are kept stay as they are.
        """
        real = None if mask is None else mask[..., None]
        if real is not None:
            x = torch.where(real, x, 0.0)
        if self.training or self.running_mean is None or self.running_var is None:
            mean, variance = self._moments(x, real)
        else:
            mean, variance = self.running_mean, self.running_var
        found = (x - mean) * torch.rsqrt(variance + self.eps)
        if self.affine:
            found = found * self.weight + self.bias
        return found if real is None else torch.where(real, found, 0.0)

    def _moments(self, x: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch, which also move those that are kept."""
        if real is None:
            real = torch.ones_like(x[..., :1], dtype=torch.bool)
        axes = tuple(range(x.dim() - 1))
        count = real.sum()
        mean = x.sum(axes) / count.clamp(min=1)
        squares = torch.where(real, x - mean, 0.0) ** 2
        variance = squares.sum(axes) / count.clamp(min=1)
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self._keep(mean, variance, count)
        return mean, variance

    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the moments that are kept: by `momentum`, or as a plain average without one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        some = count > 0
        self.num_batches_tracked += some
        share = (
            1 / self.num_batches_tracked.clamp(min=1) if self.momentum is None else self.momentum
        )
        share = torch.where(some, torch.as_tensor(share, device=mean.device), 0.0).to(mean.dtype)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased, share)
