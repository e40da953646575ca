"""How sure the whole assignment of an event is: a probability, calibrated on held-out events.

The event is right if every particle that can be reconstructed is. Its probability is a logistic
function of what the decision says of itself: the joint probability of the chosen tuples, the
smallest one of a particle, the detections, and the number of objects. The coefficients are fitted
on the validation split after the training, because a network is surer of events that it has
learnt; before that the confidence is the joint probability itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hepset_assignment.likelihood import best_permutation
from hepset_assignment.topology import ProcessPlan

__all__ = ["Confidence", "features_of", "right_events"]

_LOWEST = 1e-6
"""Probabilities are taken to lie between this and one minus this."""
_FEATURES = 5
_FEWEST = 50
"""Events of the rarer kind that a calibration needs."""
_RIDGE = 1.0
_STEPS = 50


class Confidence(nn.Module):
    """A logistic function of `features_of`, at first the joint probability.

    Attributes:
        coefficients: (feature + 1,), the last is the constant.
        shift: Mean of the features where they were fitted.
        scale: Their standard deviation there.
    """

    coefficients: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        start = torch.zeros(_FEATURES + 1)
        start[0] = 1.0
        self.register_buffer("coefficients", start)
        self.register_buffer("shift", torch.zeros(_FEATURES))
        self.register_buffer("scale", torch.ones(_FEATURES))

    def forward(self, features: Tensor) -> Tensor:
        """Return the probability (B,) that an event with features (B, 5) is right."""
        scaled = (features - self.shift) / self.scale
        return torch.sigmoid(scaled @ self.coefficients[:-1] + self.coefficients[-1])

    def fit(self, features: Tensor, right: Tensor) -> bool:
        """Fit the coefficients, by Newton's method with a weak ridge on standardised features.

        Args:
            features: (E, 5).
            right: (E,) bool.

        Returns:
            Whether there were enough events; else nothing changes.
        """
        rarer = min(int(right.sum()), int((~right).sum()))
        if rarer < _FEWEST:
            return False
        x = features.double()
        shift, scale = x.mean(0), x.std(0)
        scale = torch.where(scale > 1e-6, scale, 1.0)
        x = torch.cat([(x - shift) / scale, torch.ones_like(x[:, :1])], 1)
        target = right.double()
        penalty = _RIDGE * torch.ones(x.shape[1], dtype=torch.float64)
        penalty[-1] = 0
        beta = torch.zeros_like(penalty)
        for _ in range(_STEPS):
            chance = torch.sigmoid(x @ beta)
            gradient = x.T @ (chance - target) + penalty * beta
            curvature = (x * (chance * (1 - chance))[:, None]).T @ x + torch.diag(penalty)
            step = torch.linalg.solve(curvature, gradient)
            beta = beta - step
            if float(step.abs().max()) < 1e-9:
                break
        for name, value in (("coefficients", beta), ("shift", shift), ("scale", scale)):
            getattr(self, name).copy_(value)
        return True


def features_of(plan: ProcessPlan, fields: Mapping[str, Tensor], objects: Tensor) -> Tensor:
    """Return what the confidence depends on, (B, 5).

    Args:
        plan: The process.
        fields: Its decisions.
        objects: Number of real objects, (B,).
    """
    particles = [particle.field for particle in plan.particles]
    joint = _logit(fields[f"{plan.prefix}probability"])
    single = torch.stack([_logit(fields[f"{name}/probability"]) for name in particles]).amin(0)
    found = [fields[f"{n}/detection"] for n in particles if f"{n}/detection" in fields]
    if found:
        logits = torch.stack([_logit(each) for each in found])
        detected = [logits.sum(0), logits.amin(0)]
    else:
        detected = [torch.zeros_like(joint)] * 2
    number = torch.log(objects.to(joint.dtype) + 1)
    return torch.stack([joint, single, *detected, number], 1)


def right_events(
    plan: ProcessPlan, fields: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Tell which events are right, and which have a reconstructable particle at all, (B,) bool."""
    truth = [targets[particle.tensor] for particle in plan.particles]
    there = torch.stack([(each >= 0).all(1) for each in truth], 1)
    count = len(plan.particles)
    hits = torch.zeros(len(there), count, count)
    for orbit in plan.orbits:
        for own in orbit:
            for true in orbit:
                predicted, group = fields[plan.particles[own].field], plan.particles[true].group
                same = _same(predicted, truth[true], group.elements)
                hits[:, own, true] = (same & there[:, true]).float()
    order = best_permutation(-hits, plan)
    found = hits.gather(2, order[:, :, None])[..., 0]
    return found.sum(1).round() == there.sum(1), there.any(1)


def _same(predicted: Tensor, truth: Tensor, elements: Sequence[Sequence[int]]) -> Tensor:
    same = torch.zeros(len(truth), dtype=torch.bool)
    for element in elements:
        same = same | (predicted[:, list(element)] == truth).all(1)
    return same


def _logit(probability: Tensor) -> Tensor:
    inside = probability.float().clamp(_LOWEST, 1 - _LOWEST)
    return torch.log(inside) - torch.log1p(-inside)
