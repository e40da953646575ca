"""Lagrangian relaxation: objects have prices, so that particles settle for different ones.

The best joint assignment is the solution of a linear program over tuples with the condition that
every object is used at most once. Its dual has a Lagrange multiplier λ ≥ 0 per object, here called
its price. For *any* prices, and with ``r = s − Σ λ`` over a tuple's objects, every assignment
scores at most ``Σ λ + Σ r`` (M. L. Fisher, Management Science 27 (1981) 1), so that prices cannot
make a result wrong; good ones make the bound nearly tight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from hepset_assignment.selection.bounds import find_top
from hepset_assignment.selection.candidates import LOWEST, Candidates, incidence

__all__ = ["find_prices", "priced"]

_WARM: Final = 1.0
_COLD: Final = 0.02
"""First and last temperature, in units of the scores: of log-probabilities."""
_STEP: Final = 0.6
"""Change of a price, in units of the temperature, where an object is wanted e times."""
_LISTED: Final = 256
"""Tuples of a particle that look for their objects; any prices are right, if not as good."""
_UNWANTED: Final = 1e-3
"""Demand that counts as none."""


def find_prices(
    candidates: Sequence[Candidates],
    values: Sequence[Tensor],
    none: Sequence[Tensor],
    alike: Sequence[bool],
    objects: int,
    *,
    scarce: bool,
    rounds: int,
) -> Tensor:
    """Raise the prices of objects that are wanted more than once, lower those of others.

    Each particle wants its tuples with probabilities ∝ exp(r / τ) while τ falls, so that
    interchangeable particles do not all jump from one tuple to the next.

    Args:
        candidates: One per particle.
        values: Their scores (B, C), `FORBIDDEN` where there is no tuple.
        none: Per particle (B, 1), the score of leaving it out.
        alike: Whether each particle has the candidates of the one before.
        objects: Number of positions T.
        scarce: Whether all particles want an object even where they cannot all have one.
        rounds: Number of changes.

    Returns:
        Prices (B, T) in float64, not negative.
    """
    starts = [number for number, same in enumerate(alike) if not same]
    ends = [*starts[1:], len(alike)]
    # Leaving a particle out is one more tuple, without an object.
    groups = [_Wishes(candidates[n], values[n], none[n], objects) for n in starts]
    prices = groups[0].scores.new_zeros((groups[0].scores.shape[0], objects))
    share: Tensor | None = None
    if scarce:
        exists = [_presence(candidates[n], values[n], objects) for n in starts]
        count = (torch.stack(exists).sum(0) > 0.5).sum(1, keepdim=True)
        wanted = sum(each.objects.shape[-1] for each in candidates)
        share = (count / wanted).clamp(max=1.0)
    for number in range(rounds):
        temperature = _WARM * (_COLD / _WARM) ** (number / max(rounds - 1, 1))
        demand: Tensor | None = None
        for group, first, end in zip(groups, starts, ends, strict=True):
            wish = group.spread(group.weights(prices, temperature))
            wish = (end - first) * wish if end - first > 1 else wish
            demand = wish if demand is None else demand + wish
        assert demand is not None
        demand = demand if share is None else demand * share
        change = demand.clamp(min=_UNWANTED).log()
        prices = (prices + _STEP * temperature * change).clamp(min=0.0)
    return prices.double()


class _Wishes:
    """What one kind of particle would like to have: one of its best tuples, or none."""

    def __init__(self, each: Candidates, value: Tensor, none: Tensor, objects: int) -> None:
        top = find_top(each, value, value, none, objects, _LISTED)
        self.scores, self.held = top.values.float(), top.occupied

    def weights(self, prices: Tensor, temperature: float) -> Tensor:
        """Return the probabilities (B, K + 1) of tuples at prices (B, T)."""
        cost = (self.held @ prices[:, :, None])[..., 0]
        return torch.softmax((self.scores - cost) / temperature, 1)

    def spread(self, weight: Tensor) -> Tensor:
        """Return the sum (B, T) by object of the tuples' weights (B, K + 1)."""
        return (weight[:, None] @ self.held)[:, 0]


def _presence(each: Candidates, value: Tensor, objects: int) -> Tensor:
    """Return in how many tuples each object is, (B, T)."""
    there = (value > LOWEST).float()
    if each.objects.dim() == 2:
        return there @ incidence(each, objects)
    flat = there[..., None].expand(each.objects.shape).flatten(1)
    return there.new_zeros((len(there), objects)).scatter_add(1, each.objects.flatten(1), flat)


def priced(value: Tensor, each: Candidates, prices: Tensor, objects: int) -> Tensor:
    """Return the scores (B, C) less the prices of the objects, in float64."""
    if each.objects.dim() == 2:
        return value.double() - prices @ incidence(each, objects).double().transpose(0, 1)
    cost = prices.gather(1, each.objects.flatten(1)).reshape(each.objects.shape).sum(-1)
    return value.double() - cost
