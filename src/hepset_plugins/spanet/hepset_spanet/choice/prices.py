"""Prices of objects: what makes particles that want the same objects settle for different ones.

The best joint assignment is the solution of a linear program over tuples with the condition that
every object is used at most once. Its dual has a price λ ≥ 0 per object. For *any* prices, and
with ``r = s − Σ λ`` over a tuple's objects, every assignment scores at most ``Σ λ + Σ r``
(M. L. Fisher, Management Science 27 (1981) 1), so that prices cannot make a result wrong; good ones
make the bound nearly tight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from hepset_spanet.choice.candidates import LOWEST, Candidates, incidence

__all__ = ["find_prices", "priced"]

_WARM: Final = 1.5
_COLD: Final = 0.2
"""First and last temperature, in units of the scores: of log-probabilities."""
_STEP: Final = 0.6
"""Change of a price, in units of the temperature, where an object is wanted e times."""
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
        exists = [group.spread((group.scores > LOWEST).float()) for group in groups]
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
    """What one kind of particle would like to have."""

    def __init__(self, each: Candidates, value: Tensor, none: Tensor, objects: int) -> None:
        self.slots = objects
        self.scores = torch.cat([value.float(), none.float()], 1)
        self.held: Tensor | None = None
        self.objects = each.objects
        if each.objects.dim() == 2:
            held = incidence(each, objects)
            self.held = torch.cat([held, torch.zeros_like(held[:1])])
        else:
            nothing = torch.full_like(each.objects[:, :1], objects)
            self.objects = torch.cat([each.objects, nothing], 1)

    def weights(self, prices: Tensor, temperature: float) -> Tensor:
        """Return the probabilities (B, C + 1) of tuples at prices (B, T)."""
        if self.held is not None:
            cost = prices @ self.held.transpose(0, 1)
        else:
            padded = torch.cat([prices, torch.zeros_like(prices[:, :1])], 1)
            cost = padded.gather(1, self.objects.flatten(1)).reshape(self.objects.shape).sum(-1)
        return torch.softmax((self.scores - cost) / temperature, 1)

    def spread(self, weight: Tensor) -> Tensor:
        """Return the sum (B, T) by object of the tuples' weights (B, C + 1)."""
        if self.held is not None:
            return weight @ self.held
        shape = self.objects.shape
        flat = weight[..., None].expand(shape).flatten(1)
        total = weight.new_zeros((shape[0], self.slots + 1))
        return total.scatter_add(1, self.objects.flatten(1), flat)[:, : self.slots]


def priced(value: Tensor, each: Candidates, prices: Tensor, objects: int) -> Tensor:
    """Return the scores (B, C) less the prices of the objects, in float64."""
    if each.objects.dim() == 2:
        return value.double() - prices @ incidence(each, objects).double().transpose(0, 1)
    cost = prices.gather(1, each.objects.flatten(1)).reshape(each.objects.shape).sum(-1)
    return value.double() - cost
