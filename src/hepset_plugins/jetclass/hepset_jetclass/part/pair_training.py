"""The embedding of pairs in training, computed a cache's worth of pairs at a time.

There are a dozen times more pairs than particles, so that step by step all of the time would go
into memory. Here nothing is kept but what the linear layers give; the rest is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hepset.nn.onednn import linear

__all__ = ["embed_in_training"]

CHUNK = 8192
"""Pairs at a time."""


def embed_in_training(
    x: Tensor,
    first_norm: nn.BatchNorm1d,
    layers: Sequence[tuple[nn.Conv1d, nn.BatchNorm1d]],
    *,
    last_activation: bool,
) -> Tensor:
    """Give ``norm, (linear, norm, GELU), …, linear, norm`` by the statistics of these rows.

    The running statistics of the norms are updated. No gradient flows to the features.

    Args:
        x: Features, shape ``(row, feature)``, at least two rows.
        first_norm: The normalisation of the features.
        layers: Convolutions of width 1, each with the normalisation after it.
        last_activation: Whether a GELU follows the last normalisation as well.

    Returns:
        Shape ``(row, channel)``.
    """
    norms = [first_norm, *(norm for _, norm in layers)]
    offsets = [linear.bias for linear, _ in layers]
    found = _Chain.apply(  # type: ignore[no-untyped-call]
        x,
        tuple(norm.eps for norm in norms),
        last_activation,
        *(linear.weight[..., 0] for linear, _ in layers),
        *offsets,
        *(norm.weight for norm in norms),
        *(norm.bias for norm in norms),
    )
    values: Tensor = found[0]
    means, variances = found[1 : len(norms) + 1], found[len(norms) + 1 :]
    for norm, offset, mean, variance in zip(norms, [None, *offsets], means, variances, strict=True):
        _keep(norm, mean if offset is None else mean + offset.detach(), variance, len(x))
    return values


def _keep(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, rows: int) -> None:
    """Update the running statistics."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), share)


class _Norm(NamedTuple):
    """A normalisation by known moments: ``scale * y + shift``."""

    mean: Tensor
    rate: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return torch.addcmul(self.shift, y, self.scale)

    def gradient(self, y: Tensor, above: Tensor, sums: tuple[Tensor, Tensor], rows: int) -> Tensor:
        """Gradient of y, whose moments depend on it, from that of the output and its sums."""
        slope = -self.scale * self.rate * sums[1] / rows
        level = -self.scale * sums[0] / rows - slope * self.mean
        return torch.addcmul(level, y, slope).addcmul_(above, self.scale)


def _norm(mean: Tensor, variance: Tensor, eps: float, weight: Tensor, bias: Tensor) -> _Norm:
    rate = torch.rsqrt(variance + eps)
    scale = weight * rate
    return _Norm(mean, rate, scale, bias - mean * scale)


class _Sums:
    """Sums over all rows, in 64 bits."""

    def __init__(self, width: int) -> None:
        self.first, self.second = torch.zeros(2, width, dtype=torch.float64)

    def add(self, values: Tensor, others: Tensor) -> None:
        """Add the values, and the values times the others, both ``(row, channel)``."""
        self.first += values.sum(0)
        self.second += (values * others).sum(0)


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per column."""
    pivot = y[:CHUNK].mean(0)
    sums = _Sums(y.shape[1])
    for part in y.split(CHUNK):
        distance = part - pivot
        sums.add(distance, distance)
    offset = sums.first / len(y)
    return pivot + offset.to(y.dtype), (sums.second / len(y) - offset**2).to(y.dtype)


class _Chain(torch.autograd.Function):
    """The chain; its outputs are the values, then means and variances of every norm's input."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own
        x: Tensor,
        epsilons: tuple[float, ...],
        last_activation: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        count = len(epsilons) - 1
        weights, factors, shifts = _parted(parameters, (count, -count, count + 1, count + 1))
        outputs, moments = [x], [_moments(x)]
        for number, weight in enumerate(weights):
            norm = _norm(*moments[-1], epsilons[number], factors[number], shifts[number])
            found = x.new_empty(len(x), len(weight))
            for part, place in zip(outputs[-1].split(CHUNK), found.split(CHUNK), strict=True):
                entering = functional.gelu(norm(part)) if number else norm(part)
                place.copy_(linear(entering, weight))
            outputs.append(found)
            moments.append(_moments(found))
        values = _norm(*moments[-1], epsilons[-1], factors[-1], shifts[-1])(outputs[-1])
        if last_activation:
            values = functional.gelu(values)
        means, variances = zip(*moments, strict=True)
        ctx.save_for_backward(*outputs, *parameters, *means, *variances)
        ctx.epsilons, ctx.last_activation = epsilons, last_activation
        ctx.mark_non_differentiable(*means, *variances)
        return values, *means, *variances

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # noqa: ANN401
        count = len(ctx.epsilons) - 1
        both = count + 1
        outputs, weights, offsets, factors, shifts, means, variances = _parted(
            ctx.saved_tensors, (both, count, count, both, both, both, both)
        )
        norms = [
            _norm(*each)
            for each in zip(means, variances, ctx.epsilons, factors, shifts, strict=True)
        ]
        above, sums = _behind_last(gradients[0], norms[-1], outputs[-1], ctx.last_activation)
        to_weights: list[Tensor] = []
        to_offsets: list[Tensor] = []
        to_norms = [_affine_gradients(norms[-1], sums)]
        for number in reversed(range(count)):
            weight, y, x = weights[number], outputs[number + 1], outputs[number]
            to_weight, to_offset = torch.zeros_like(weight), torch.zeros_like(offsets[number])
            below = above if above.shape == x.shape else torch.empty_like(x)
            sums = _Sums(below.shape[1])
            for upper, part, source, lower in zip(
                *(tensor.split(CHUNK) for tensor in (above, y, x, below)), strict=True
            ):
                to_linear = norms[number + 1].gradient(part, upper, to_norms[-1], len(y))
                entering, back = norms[number](source), linear(to_linear, weight.t())
                if number:
                    back = lower.copy_(torch.ops.aten.gelu_backward(back, entering))
                    entering = functional.gelu(entering)
                to_weight.addmm_(to_linear.t(), entering)
                to_offset += to_linear.sum(0)
                sums.add(back, source)
            to_weights.append(to_weight)
            to_offsets.append(to_offset)
            to_norms.append(_affine_gradients(norms[number], sums))
            above = below
        to_shifts, to_factors = zip(*reversed(to_norms), strict=True)
        per_layer = (*reversed(to_weights), *reversed(to_offsets))
        return None, None, None, *per_layer, *to_factors, *to_shifts


def _parted(tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Sequence[Tensor]]:
    """Cut a list into lists of these sizes; those of a negative size are left out."""
    found, start = [], 0
    for size in sizes:
        if size >= 0:
            found.append(tensors[start : start + size])
        start += abs(size)
    return found


def _behind_last(gradient: Tensor, norm: _Norm, y: Tensor, activated: bool) -> tuple[Tensor, _Sums]:
    """Gradient of the last normalisation's output, and its sums."""
    found = torch.empty(y.shape, dtype=y.dtype)
    sums = _Sums(y.shape[1])
    for part, given, source in zip(
        found.split(CHUNK), gradient.split(CHUNK), y.split(CHUNK), strict=True
    ):
        part.copy_(torch.ops.aten.gelu_backward(given, norm(source)) if activated else given)
        sums.add(part, source)
    return found, sums


def _affine_gradients(norm: _Norm, sums: _Sums) -> tuple[Tensor, Tensor]:
    """Gradients of bias and weight, from sums of the gradient and of the gradient times y."""
    centred = (sums.second - norm.mean * sums.first) * norm.rate
    return sums.first.to(norm.mean.dtype), centred.to(norm.mean.dtype)
