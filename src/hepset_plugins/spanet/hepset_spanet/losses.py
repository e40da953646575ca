"""SPANet's losses: assignment and detection under the symmetries of the event, and the rest.

Terms per event come out of `pair_terms`, `permutation_terms` and `combine`. What SPANet makes of
them, with its scaling, is `spanet_loss`: it divides the detection by the number of events in
which the particle *is* there, takes the plain mean over all terms however many there are, and
keeps ``log_gaussian`` errors in raw units. Formulas: Fenton et al., arXiv:2106.03898, and
Shmakov et al., arXiv:2309.01886.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset_spanet.network.network import SpanetNetwork, SpanetOutputs
from hepset_spanet.network.topology import RegressionKind
from hepset_spanet.options import folded

__all__ = [
    "AssignmentTarget",
    "Balance",
    "Combined",
    "LossTargets",
    "combine",
    "pair_terms",
    "permutation_terms",
    "regression_loss",
    "spanet_loss",
    "symmetry_breaking",
]

_SYMMETRIC = "loss/symmetric_loss"


class AssignmentTarget(NamedTuple):
    """Where the products of one particle are.

    Attributes:
        indices: Positions among the assignable ones, negative = missing, ``(B, product)`` int64.
        mask: Whether the particle is there with all its products, ``(B,)`` bool.
        weight: Weight of its terms, ``(B,)``.
    """

    indices: Tensor
    mask: Tensor
    weight: Tensor


class Combined(NamedTuple):
    """The terms of an event, with the symmetry taken care of.

    Attributes:
        terms: Assignment and detection by particle, ``(N, 2, B)``.
        best: Number of the permutation with the smallest sum, ``(B,)``; the first of equals.
    """

    terms: Tensor
    best: Tensor


@dataclass(frozen=True)
class Balance:
    """Weights against rare classes of events; None = all equal.

    Attributes:
        particles: By the set of particles that are there, as the sum of ``2**i`` over particle i.
        vectors: By the number of real objects, present globals included.
        classes: SPANet's key → weight of each class.
    """

    particles: Tensor | None = None
    vectors: Tensor | None = None
    classes: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, network: SpanetNetwork) -> Balance:
        """Return the weights that a checkpoint holds."""
        weights = getattr(network, "classification_weights", {})
        return cls(
            getattr(network, "particle_weights_tensor", None),
            getattr(network, "jet_weights_tensor", None),
            dict(weights.items()),
        )


@dataclass(frozen=True)
class LossTargets:
    """Everything that a batch can be learnt from.

    Attributes:
        assignments: Particle → its target.
        vectors: Number of real objects of each event, present globals included, ``(B,)`` int64.
        regressions: SPANet's key → value, NaN = none, ``(B,)``.
        classifications: SPANet's key → label, negative = none, ``(B,)`` int64.
    """

    assignments: Mapping[str, AssignmentTarget]
    vectors: Tensor | None = None
    regressions: Mapping[str, Tensor] = field(default_factory=dict)
    classifications: Mapping[str, Tensor] = field(default_factory=dict)


def pair_terms(
    log_probabilities: Sequence[Tensor],
    detections: Sequence[Tensor],
    targets: Sequence[AssignmentTarget],
    group_orders: Sequence[int],
    permutations: Sequence[Sequence[int]],
    *,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Compare every particle's prediction with every target that a permutation gives it.

    With ``l = log P[target] + log |G|``, the log-probability of the unordered assignment, the
    assignment term is ``-l (1 - e^l)^gamma``; the detection term is the binary cross-entropy of
    the logit with "is there". Each is multiplied by the target's weight, and the assignment is 0
    where the particle is not there.

    Args:
        log_probabilities: By particle, of ordered tuples, ``(B, T, ..., T)``.
        detections: By particle, logits, ``(B,)``.
        targets: By particle.
        group_orders: By particle, number of permutations |G| of its products that change nothing.
        permutations: Array forms of the event's group: particle i may be target ``s[i]``.
        focal_gamma: Exponent γ; 0 is the plain log-likelihood.

    Returns:
        Term by prediction, target and kind (assignment, detection), ``(N, N, 2, B)``; zero where
        no permutation asks for the pair.
    """
    count = len(targets)
    wanted = {(i, s[i]) for s in permutations for i in range(count)}
    rows = []
    for i in range(count):
        order = math.log(group_orders[i])
        row = []
        for j, target in enumerate(targets):
            if (i, j) not in wanted:
                row.append(torch.zeros_like(_both(detections[i], detections[i], target.weight)))
                continue
            found = _gather(log_probabilities[i], target.indices) + order
            found = torch.where(target.mask, found, 0.0)
            assignment = -found
            if focal_gamma:
                # Rounding can lift a certain assignment above one.
                missing = (1 - torch.exp(found)).clamp(min=0.0)
                assignment = assignment * missing**focal_gamma
            detection = functional.binary_cross_entropy_with_logits(
                detections[i], target.mask.to(detections[i].dtype), reduction="none"
            )
            row.append(_both(assignment, detection, target.weight))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def permutation_terms(pairs: Tensor, permutations: Sequence[Sequence[int]]) -> Tensor:
    """Arrange the terms of pairs by permutation.

    Args:
        pairs: ``(N, N, 2, B)`` of `pair_terms`.
        permutations: Array forms of the event's group.

    Returns:
        ``(P, N, 2, B)``.
    """
    chosen = torch.as_tensor(permutations, dtype=torch.int64, device=pairs.device)
    return pairs[torch.arange(chosen.shape[1], device=pairs.device), chosen]


def combine(terms: Tensor, mode: str = "min") -> Combined:
    """Bring the terms of all permutations together.

    Args:
        terms: ``(P, N, 2, B)``, with their scales.
        mode: ``min`` takes those of the best permutation, ``softmin`` weights all by the softmax
            of minus their sum, ``mean`` averages them. Any other word means ``min``, as in SPANet.
    """
    total = terms.sum((1, 2))
    best = total.argmin(0)
    match folded(mode):
        case "softmin":
            weights = torch.softmax(-total, 0)
            return Combined((weights[:, None, None] * terms).sum(0), best)
        case "mean":
            return Combined(terms.mean(0), best)
    index = best.expand(1, *terms.shape[1:3], -1)
    return Combined(terms.gather(0, index)[0], best)


def symmetry_breaking(
    log_probabilities: Sequence[Tensor], masks: Tensor, pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Penalise that interchangeable particles look at the same objects.

    For a pair of particles that both are there: ``exp(-J²)`` with the Jensen-Shannon divergence J
    of their distributions, in natural units. The distributions themselves are constants here: the
    gradient flows through their mixture only.

    Args:
        log_probabilities: By particle, ``(B, T, ..., T)``.
        masks: Whether each particle is there, ``(N, B)``.
        pairs: Pairs of particles, `PermutationGroup.transpositions`.

    Returns:
        Mean over pairs, ``(B,)``.
    """
    penalties = []
    for i, j in pairs:
        first, second = log_probabilities[i].flatten(1), log_probabilities[j].flatten(1)
        mixture = torch.logaddexp(first, second) - math.log(2)
        divergence = (_divergence(first, mixture) + _divergence(second, mixture)) / 2
        both = masks[i] & masks[j]
        penalties.append(torch.where(both, torch.exp(-(divergence**2)), 0.0))
    return torch.stack(penalties).mean(0)


def regression_loss(
    prediction: Tensor, target: Tensor, kind: RegressionKind, std: Tensor
) -> Tensor:
    """Return SPANet's loss of one regression, over events that have the target.

    ``gaussian``: mean of ``((p - y) / std)²``; ``laplacian``: mean of ``|p - y| / std``;
    ``log_gaussian``: mean of ``(p - y)²`` in raw units, as SPANet has it. 0 without any target.
    """
    valid = ~torch.isnan(target)
    difference = torch.where(valid, prediction - torch.where(valid, target, 0.0), 0.0)
    match kind:
        case "laplacian":
            error = difference.abs() / std
        case "gaussian":
            error = (difference / std) ** 2
        case "log_gaussian":
            error = difference**2
    return error.sum() / valid.sum().clamp(min=1)


def spanet_loss(
    outputs: SpanetOutputs,
    targets: LossTargets,
    network: SpanetNetwork,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    balance: Balance | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what SPANet minimises for a batch.

    Args:
        outputs: What the network gives.
        targets: What it should give.
        network: The network; its options name the scales and the way to combine.
        pairs: Interchangeable pairs of particles for the divergence
            (`PermutationGroup.transpositions`).
        balance: Weights against rare classes; those of the checkpoint where None.

    Returns:
        The mean of all terms, and the terms under the names that SPANet logs: those of assignment
        and detection with their scales, the others without.

    Raises:
        ConfigurationError: If all scales are 0, so that there is nothing to learn.
    """
    options, topology = network.options, network.topology
    balance = Balance.of(network) if balance is None else balance
    logged: dict[str, Tensor] = {}
    if topology.particles:
        logged |= _assignment_losses(outputs, targets, network, pairs, balance)
    total = [
        value * options.kl_loss_scale if key == _SYMMETRIC else value
        for key, value in logged.items()
    ]
    if options.regression_loss_scale > 0:
        for key, kind in topology.regressions.items():
            std = network.regression_decoder.std(key)
            loss = regression_loss(outputs.regressions[key], targets.regressions[key], kind, std)
            logged[f"loss/regression/{key}"] = loss
            total.append(options.regression_loss_scale * loss)
    if options.classification_loss_scale > 0:
        for key in topology.classifications:
            labels = targets.classifications[key]
            weight = balance.classes.get(key)
            logits = outputs.classifications[key]
            summed = functional.cross_entropy(
                logits, labels.clamp(min=-1), ignore_index=-1, weight=weight, reduction="sum"
            )
            share = (labels >= 0).to(logits.dtype)
            if weight is not None:
                share = share * weight.index_select(0, labels.clamp(min=0))
            worth = share.sum()
            # 0 where no event has a label.
            loss = summed / torch.where(worth > 0, worth, 1.0)
            logged[f"loss/classification/{key}"] = loss
            total.append(options.classification_loss_scale * loss)
    if not total:
        raise ConfigurationError("all loss scales are 0: nothing to learn")
    return torch.stack([value.double() for value in total]).mean(), logged


def _assignment_losses(
    outputs: SpanetOutputs,
    targets: LossTargets,
    network: SpanetNetwork,
    pairs: Sequence[tuple[int, int]],
    balance: Balance,
) -> dict[str, Tensor]:
    options, topology = network.options, network.topology
    names = [particle.name for particle in topology.particles]
    distributions = [outputs.log_probabilities[name] for name in names]
    wanted = [targets.assignments[name] for name in names]
    terms = pair_terms(
        distributions,
        [outputs.detections[name] for name in names],
        wanted,
        [len(particle.group) for particle in topology.particles],
        topology.permutations,
        focal_gamma=options.focal_gamma,
    )
    scales = terms.new_tensor([options.assignment_loss_scale, options.detection_loss_scale])
    scaled = permutation_terms(terms * scales[:, None], topology.permutations)
    combined = combine(scaled, options.combine_pair_loss)
    order = network.event_permutation_tensor[combined.best].T
    masks = torch.stack([target.mask for target in wanted]).gather(0, order)
    weights = _event_weights(masks, targets.vectors, balance, combined.terms)
    present = masks.sum(1).clamp(min=1)
    reduced = (weights * combined.terms).sum(2) / present[:, None]
    logged: dict[str, Tensor] = {}
    kinds = {"assignment": options.assignment_loss_scale, "detection": options.detection_loss_scale}
    for column, (kind, scale) in enumerate(kinds.items()):
        if scale > 0:
            for row, name in enumerate(names):
                logged[f"loss/{name}/{kind}_loss"] = reduced[row, column]
    if options.kl_loss_scale > 0 and pairs:
        penalty = symmetry_breaking(distributions, masks, pairs)
        # SPANet sums the penalty once for every particle and kind of term.
        total = 2 * len(names) * (weights * penalty).sum()
        logged[_SYMMETRIC] = total / masks.sum().clamp(min=1)
    return logged


def _event_weights(masks: Tensor, vectors: Tensor | None, balance: Balance, like: Tensor) -> Tensor:
    weights = torch.ones_like(like[0, 0])
    if balance.particles is not None:
        powers = 2 ** torch.arange(len(masks), device=masks.device)
        weights = weights * balance.particles[(masks * powers[:, None]).sum(0)]
    if balance.vectors is not None and vectors is not None:
        weights = weights * balance.vectors[vectors]
    return weights


def _both(assignment: Tensor, detection: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([assignment * weight, detection * weight])


def _gather(log_probability: Tensor, indices: Tensor) -> Tensor:
    """Log-probability of one tuple per event, ``(B,)``; missing indices are taken as 0."""
    length = log_probability.shape[1]
    flat = torch.zeros_like(indices[:, 0])
    for column in indices.clamp(min=0).unbind(1):
        flat = flat * length + column
    return log_probability.flatten(1).gather(1, flat[:, None])[:, 0]


def _divergence(log_probability: Tensor, mixture: Tensor) -> Tensor:
    constant = log_probability.detach()
    possible = torch.isfinite(constant) & torch.isfinite(mixture)
    difference = torch.where(possible, constant - mixture, 0.0)
    return (torch.exp(constant) * difference).nan_to_num(0.0).sum(1)
