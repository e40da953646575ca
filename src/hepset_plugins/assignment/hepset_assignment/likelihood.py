"""The loss: how likely the true tuples are, under the permutations that change nothing."""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hepset_assignment.log_sum_exp import log_sum_exp, only
from hepset_assignment.selection import FORBIDDEN
from hepset_assignment.topology import Kind, ProcessPlan

__all__ = [
    "Combination",
    "Symmetrised",
    "best_permutation",
    "compatible",
    "focal",
    "negative_log_likelihood",
    "overlap_penalty",
    "symmetrise",
]

Combination = Literal["min", "softmin", "mean"]

_LISTED = 24
"""Permutations that are compared one by one; of more the best is found by linear assignment."""


class Symmetrised(NamedTuple):
    """Terms by particle, with the symmetry taken care of.

    Attributes:
        assignment: (B, P).
        detection: (B, P).
        order: (B, P) int64, the true particle that each is compared with under the permutation
            with the smallest sum of both.
    """

    assignment: Tensor
    detection: Tensor
    order: Tensor


def compatible(objects: Tensor, target: Tensor, kind: Kind) -> Tensor:
    """Tell which tuples agree with what is known of a target.

    Args:
        objects: Positions of the tuples' objects, (C, k) or (B, C, k).
        target: True positions (B, k); negative = missing, any object will do.
        kind: Which products may be interchanged.

    Returns:
        (B, C).
    """
    cells = objects if objects.dim() == 3 else objects[None]
    wanted = target[:, None, :]
    count = objects.shape[-1]
    equal = {
        (mine, true): (cells[..., mine] == wanted[..., true]) | (wanted[..., true] < 0)
        for orbit in kind.group.orbits
        for mine in orbit
        for true in orbit
    }
    if kind.free_orbits:
        # Known objects of an orbit are distinct, so each has a place of its own.
        agrees = torch.ones_like(equal[0, 0])
        for orbit in kind.group.orbits:
            for true in orbit:
                found = equal[orbit[0], true]
                for mine in orbit[1:]:
                    found = found | equal[mine, true]
                agrees = agrees & found
        return agrees
    agrees = torch.zeros_like(equal[0, 0])
    for element in kind.group.elements:
        same = torch.ones_like(agrees)
        for mine in range(count):
            same = same & equal[mine, element[mine]]
        agrees = agrees | same
    return agrees


def negative_log_likelihood(scores: Tensor, agrees: Tensor, gamma: float) -> Tensor:
    """Return -ln of the summed probability of the tuples that agree with the target.

    Args:
        scores: (B, Q, C), `FORBIDDEN` where there is no such tuple.
        agrees: (B, C), at least one allowed tuple per event, else the value is meaningless but
            finite.
        gamma: Exponent γ of the factor (1 - p)^γ.

    Returns:
        (B, Q).
    """
    logarithm = log_sum_exp(only(scores, agrees[:, None, :])) - log_sum_exp(scores)
    return focal(logarithm.clamp(min=FORBIDDEN, max=0.0), gamma)


def focal(logarithm: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^γ ln p for ln p."""
    if gamma == 0:
        return -logarithm
    # 1 - p is 0 with an infinite slope where rounding gives p = 1.
    rest = (-torch.expm1(logarithm)).clamp(min=1e-7)
    return -logarithm * rest**gamma


def overlap_penalty(first: Tensor, second: Tensor, *, parity: bool = False) -> Tensor:
    """Return exp(-J²) with the Jensen-Shannon divergence J of two distributions over tuples.

    Args:
        first: Scores (B, C), `FORBIDDEN` where there is no such tuple.
        second: The same of the other particle.
        parity: Let the gradient flow through the mixture of the two only, as in SPANet; it
            vanishes then, because the mixture's sum is constant.

    Returns:
        (B,), in natural units: 1 for equal distributions, exp(-(ln 2)²) for disjoint ones.
    """
    logarithms = [torch.log_softmax(scores.float(), -1) for scores in (first, second)]
    mixture = torch.logaddexp(*logarithms) - math.log(2)
    divergence = torch.zeros_like(mixture[:, 0])
    for logarithm in logarithms:
        own = logarithm.detach() if parity else logarithm
        possible = own > FORBIDDEN / 2
        difference = torch.where(possible, own - mixture, 0.0)
        divergence = divergence + (own.exp() * difference).sum(-1) / 2
    return torch.exp(-(divergence**2))


def symmetrise(
    assignment: Tensor,
    detection: Tensor,
    plan: ProcessPlan,
    combination: Combination,
    choice: Tensor | None = None,
) -> Symmetrised:
    """Combine the permutations of the true particles.

    All pairs are given once; permutations only pick from them. Where orbits may be reordered
    freely, nothing is listed: ``min`` is a linear assignment, ``mean`` the mean over each orbit
    and ``softmin`` a sum over subsets.

    Args:
        assignment: (B, P, P), loss of particle i with the target of particle j.
        detection: The same of the detection.
        plan: The particles and what may be interchanged.
        combination: ``min`` takes the permutation with the smallest sum of both, ``softmin``
            weights them by exp(-sum), ``mean`` all alike.
        choice: (B, P, P), what is compared between permutations instead of the sum of both.
    """
    total = assignment + detection if choice is None else choice
    order = best_permutation(total, plan)
    if plan.order == 1:
        order = torch.arange(total.shape[1], device=total.device).expand(total.shape[:2])
    if combination == "min" or plan.order == 1:
        share = functional.one_hot(order, total.shape[1]).to(total.dtype)
    elif combination == "mean":
        share = _shares(torch.zeros_like(total), plan)
    else:
        share = _shares(total, plan)
    return Symmetrised((share * assignment).sum(2), (share * detection).sum(2), order)


def best_permutation(total: Tensor, plan: ProcessPlan) -> Tensor:
    """Return the permutation with the smallest sum, the first of equals where they are listed.

    Args:
        total: (B, P, P), cost of comparing particle i with target j.
        plan: What may be interchanged.

    Returns:
        (B, P) int64, the target of each particle.
    """
    batch, count = total.shape[:2]
    if plan.elements and (len(plan.elements) <= _LISTED or not plan.free_orbits):
        order = torch.tensor(plan.elements, device=total.device)
        sums = _under_each(total.detach(), order)
        return order[sums.argmin(1)]
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  takes long to import

    costs = total.detach().double().cpu().numpy()
    found = np.tile(np.arange(count), (batch, 1))
    for orbit in plan.orbits:
        if len(orbit) > 1:
            place = np.asarray(orbit)
            for event, cost in enumerate(costs[:, place[:, None], place]):
                found[event, place] = place[linear_sum_assignment(cost)[1]]
    return torch.from_numpy(found).to(total.device)


def _shares(total: Tensor, plan: ProcessPlan) -> Tensor:
    """Σ of exp(-sum) over the permutations that compare i with j, divided by that over all."""
    if plan.elements and (plan.order <= _LISTED or not plan.free_orbits):
        order = torch.tensor(plan.elements, device=total.device)
        weight = torch.softmax(-_under_each(total, order), 1)
        which = functional.one_hot(order, total.shape[1]).to(total.dtype)
        return torch.einsum("bp,pij->bij", weight, which)
    count = total.shape[1]
    share = torch.zeros_like(total)
    for orbit in plan.orbits:
        place = torch.tensor(orbit, device=total.device)
        block = _free_shares(total[:, place[:, None], place])
        select = functional.one_hot(place, count).to(total.dtype)
        share = share + torch.einsum("im,bij,jn->bmn", select, block, select)
    return share


def _free_shares(total: Tensor) -> Tensor:
    """The same where every reordering of n particles is allowed, (B, n, n), in n 2ⁿ steps.

    ``before[S]`` is ln Σ over the ways in which the first |S| particles take the targets S.
    """
    count = total.shape[1]
    subsets = [
        [sum(1 << t for t in chosen) for chosen in itertools.combinations(range(count), size)]
        for size in range(count + 1)
    ]
    everything = (1 << count) - 1
    zero = torch.zeros_like(total[:, 0, 0])
    before, after = {0: zero}, {everything: zero}
    for size in range(1, count + 1):
        for code in subsets[size]:
            ways = [
                before[code ^ (1 << t)] - total[:, size - 1, t]
                for t in range(count)
                if code >> t & 1
            ]
            before[code] = torch.logsumexp(torch.stack(ways), 0)
    for size in range(count - 1, -1, -1):
        for code in subsets[size]:
            ways = [
                after[code | (1 << t)] - total[:, size, t]
                for t in range(count)
                if not code >> t & 1
            ]
            after[code] = torch.logsumexp(torch.stack(ways), 0)
    rows = []
    for own in range(count):
        row = []
        for t in range(count):
            ways = [
                before[code] - total[:, own, t] + after[code | (1 << t)]
                for code in subsets[own]
                if not code >> t & 1
            ]
            row.append(torch.logsumexp(torch.stack(ways), 0) - before[everything])
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, 1).exp()


def _under_each(values: Tensor, order: Tensor) -> Tensor:
    """Sum over the particles under each listed permutation, (B, permutation)."""
    count = values.shape[1]
    pair = order + torch.arange(count, device=order.device) * count
    return values.flatten(1)[:, pair.flatten()].reshape(-1, *pair.shape).sum(-1)
