"""The loss: how likely the true tuples are, under the permutations that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset_spanet.assignment.topology import Kind
from hepset_spanet.selection import FORBIDDEN

__all__ = ["Combination", "Symmetrised", "compatible", "negative_log_likelihood", "symmetrise"]

Combination = Literal["min", "softmin", "mean"]


class Symmetrised(NamedTuple):
    """Sums over the particles of an event, with the symmetry taken care of, each (B,)."""

    assignment: Tensor
    detection: Tensor


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


def negative_log_likelihood(scores: Tensor, agrees: Tensor, focal: float) -> Tensor:
    """Return -ln of the summed probability of the tuples that agree with the target.

    Args:
        scores: (B, Q, C), `FORBIDDEN` where there is no such tuple.
        agrees: (B, C), at least one allowed tuple per event, else the value is meaningless but
            finite.
        focal: Exponent γ of the factor (1 - p)^γ.

    Returns:
        (B, Q).
    """
    chosen = torch.where(agrees[:, None, :], scores, FORBIDDEN)
    logarithm = torch.logsumexp(chosen, -1) - torch.logsumexp(scores, -1)
    logarithm = logarithm.clamp(min=FORBIDDEN, max=0.0)
    if focal == 0:
        return -logarithm
    # 1 - p is 0 with an infinite slope where rounding gives p = 1.
    rest = (-torch.expm1(logarithm)).clamp(min=1e-7)
    return -logarithm * rest**focal


def symmetrise(
    assignment: Tensor,
    detection: Tensor | None,
    elements: Sequence[Sequence[int]],
    combination: Combination,
    detection_weight: float,
) -> Symmetrised:
    """Combine the permutations of the true particles.

    Args:
        assignment: (B, P, P), loss of particle i with the target of particle j.
        detection: The same of the detection.
        elements: Permutations s: particle i is compared with the target s[i].
        combination: ``min`` takes the permutation with the smallest sum of both, ``softmin``
            weights them by exp(-sum), ``mean`` all alike.
        detection_weight: Factor of the detection when permutations are compared.
    """
    count = assignment.shape[1]
    order = torch.tensor([list(element) for element in elements], device=assignment.device)
    pair = order + torch.arange(count, device=order.device) * count

    def under_each(values: Tensor) -> Tensor:
        return values.flatten(1)[:, pair.flatten()].reshape(-1, *pair.shape).sum(-1)

    assigned = under_each(assignment)
    detected = torch.zeros_like(assigned) if detection is None else under_each(detection)
    if len(elements) == 1:
        return Symmetrised(assigned[:, 0], detected[:, 0])
    total = assigned + detection_weight * detected
    if combination == "mean":
        weights = torch.full_like(total, 1 / len(elements))
    elif combination == "softmin":
        weights = torch.softmax(-total, 1)
    else:
        best = total.detach().argmin(1)
        weights = functional.one_hot(best, len(elements)).to(total.dtype)
    return Symmetrised((weights * assigned).sum(1), (weights * detected).sum(1))
