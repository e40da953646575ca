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

_WARM: Final = 2.0
_COLD: Final = 0.2
"""First and last temperature, in units of the scores: of log-probabilities."""
_STEP: Final = 0.5
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
    held = [
        incidence(candidates[first], objects) if candidates[first].objects.dim() == 2 else None
        for first in starts
    ]
    scores = [values[first].float() for first in starts]
    absent = [none[first].float() for first in starts]
    prices = scores[0].new_zeros((scores[0].shape[0], objects))
    share: Tensor | float = 1.0
    if scarce:
        exists = [
            _spread(s > LOWEST, h, candidates[f], objects)
            for s, h, f in zip(scores, held, starts, strict=True)
        ]
        count = (torch.stack(exists).sum(0) > 0.5).sum(1, keepdim=True)
        wanted = sum(each.objects.shape[-1] for each in candidates)
        share = (count / wanted).clamp(max=1.0)
    for number in range(rounds):
        temperature = _WARM * (_COLD / _WARM) ** (number / max(rounds - 1, 1))
        demand = torch.zeros_like(prices)
        for place, (first, end) in enumerate(zip(starts, ends, strict=True)):
            reduced = scores[place] - _cost(prices, held[place], candidates[first])
            best = torch.maximum(reduced.amax(1, keepdim=True), absent[place])
            weight = torch.exp((reduced - best) / temperature)
            total = weight.sum(1, keepdim=True) + torch.exp((absent[place] - best) / temperature)
            wish = _spread(weight, held[place], candidates[first], objects) / total
            demand = demand + (end - first) * wish
        change = (demand * share).clamp(min=_UNWANTED).log()
        prices = (prices + _STEP * temperature * change).clamp(min=0.0)
    return prices.double()


def priced(value: Tensor, each: Candidates, prices: Tensor, objects: int) -> Tensor:
    """Return the scores (B, C) less the prices of the objects, in float64."""
    held = incidence(each, objects).double() if each.objects.dim() == 2 else None
    return value.double() - _cost(prices, held, each)


def _cost(prices: Tensor, held: Tensor | None, each: Candidates) -> Tensor:
    if held is not None:
        return prices @ held.transpose(0, 1)
    return prices.gather(1, each.objects.flatten(1)).reshape(each.objects.shape).sum(-1)


def _spread(weight: Tensor, held: Tensor | None, each: Candidates, objects: int) -> Tensor:
    """Sum of the tuples' weights (B, C) by object, (B, T)."""
    weight = weight.float()
    if held is not None:
        return weight @ held
    shape = each.objects.shape
    spread = weight[..., None].expand(shape).flatten(1)
    return weight.new_zeros((shape[0], objects)).scatter_add(1, each.objects.flatten(1), spread)
