"""Numbers and classes of particles and of products, learnt from the objects that make them.

``t1/mass`` belongs to a particle and ``t1/q1/pt`` to a product. Both are predicted from a tuple of
objects: in training from the true one, in a decision from the chosen one. So a target follows its
objects whatever particle or product of the same kind they are given to: no order of interchangeable
particles, or of interchangeable products, is ever learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.head import LossTerm
from hepset.nn.losses import cross_entropy, huber
from hepset.nn.mlp import MLP
from hepset.nn.transforms import TargetTransform
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics, TensorStatistics
from hepset.schema.tensors import Labels
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["Placed", "Quantities", "Quantity", "QuantityKind", "Seen", "quantities_of"]

QuantityKind = Literal["regression", "classification"]


@dataclass(frozen=True)
class Quantity:
    """One target of one particle or product.

    Attributes:
        target: Its name, ``t1/q1/pt``.
        process: Number of the process.
        particle: Position of the particle in it.
        product: Position of the product; None = of the particle.
        kind: Whether it is a number or a class.
        learner: Which network learns it; interchangeable ones share it.
    """

    target: str
    process: int
    particle: int
    product: int | None
    kind: QuantityKind
    learner: str


class Seen(NamedTuple):
    """What a batch offers to learn quantities from.

    Attributes:
        event: Embedding (B, D).
        objects: Embeddings of all objects (B, T, D).
        tuples: Kind of particle, positions (B, k) among all objects, query (B,) → what the tuple
            is, (B, hidden).
    """

    event: Tensor
    objects: Tensor
    tuples: Callable[[int, Tensor, Tensor], Tensor]


class Placed(NamedTuple):
    """Objects of one particle in every event.

    Attributes:
        objects: Positions (B, k) of the tuple among all objects.
        members: Positions (B, k) of the products; −1 = unknown.
        there: (B,), whether the particle counts at all.
        query: (B,), which output of its kind is used.
    """

    objects: Tensor
    members: Tensor
    there: Tensor
    query: Tensor


def quantities_of(
    event: EventInfo,
    topology: Topology,
    named: Mapping[QuantityKind, Sequence[str]],
    where: str,
) -> list[Quantity]:
    """Find the particle or product that every target belongs to.

    Args:
        event: What an event is.
        topology: What is assigned.
        named: Names of the targets by kind.
        where: Name of the head's configuration, for messages.

    Raises:
        ConfigurationError: If a target is not declared, is of the other kind, or belongs to no
            particle or product.
    """
    found = []
    for kind, names in named.items():
        option = f"{where}.{kind}s"
        known = [n for n, t in event.targets.items() if t.kind == kind]
        for name in names:
            target = event.targets.get(name)
            if target is None or target.kind != kind:
                raise ConfigurationError(
                    f"{option}: the event declares no {kind} target {name!r}"
                    f"{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
                )
            place = None
            if target.stream is None:
                place = _place(event, topology, name, kind, option)
            if place is None:
                raise ConfigurationError(
                    f"{option}: {name!r} belongs to no particle and to no product: such targets "
                    f"are called <particle>/<name> or <particle>/<product>/<name>; use the head "
                    f"{kind!r} for targets of the event"
                )
            found.append(place)
    return found


def _place(
    event: EventInfo, topology: Topology, name: str, kind: QuantityKind, option: str
) -> Quantity | None:
    processes = list(event.processes.values())
    for plan, process in zip(topology.processes, processes, strict=True):
        for number, particle in enumerate(plan.particles):
            if not name.startswith(f"{particle.field}/"):
                continue
            rest = name.removeprefix(f"{particle.field}/").split("/")
            products = list(process.particles[particle.field.removeprefix(plan.prefix)])
            if len(rest) == 1:
                learner = f"{particle.kind}//{rest[0]}"
                return Quantity(name, plan.number, number, None, kind, f"{kind}/{learner}")
            if len(rest) == 2 and rest[0] in products:
                product = products.index(rest[0])
                if not topology.kinds[particle.kind].free_orbits:
                    raise ConfigurationError(
                        f"{option}: {name!r}: the products of {particle.field} may be interchanged "
                        "in some orders only; then targets of products cannot follow them, only "
                        "those of the particle"
                    )
                orbit = topology.kinds[particle.kind].orbit_of[product]
                learner = f"{particle.kind}/{orbit}/{rest[1]}"
                return Quantity(name, plan.number, number, product, kind, f"{kind}/{learner}")
    return None


class Quantities(nn.Module):
    """One small network per quantity of a kind of particle, or of a set of like products.

    Args:
        quantities: The targets.
        contract: Resolved contract.
        statistics: Of the training split; like targets are scaled alike.
        width: Width D of the embeddings.
        hidden: Width of what a tuple is.
        where: Name of the head's configuration, for messages.

    Raises:
        ConfigurationError: If like targets differ, or a number of classes is unknown.
    """

    def __init__(
        self,
        quantities: Sequence[Quantity],
        contract: Contract,
        statistics: Statistics,
        *,
        width: int,
        hidden: int,
        where: str,
    ) -> None:
        super().__init__()
        self.quantities = list(quantities)
        self.networks = nn.ModuleDict()
        self.transforms = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        groups: dict[str, list[Quantity]] = {}
        for each in quantities:
            groups.setdefault(each.learner, []).append(each)
        for learner, members in groups.items():
            key = self._keys[learner] = f"q{len(self._keys)}"
            specs = [contract[f"target/{each.target}"] for each in members]
            first = members[0]
            if first.kind == "regression":
                features = {str(spec.features[""].transform) for spec in specs}
                if len(features) > 1:
                    names = ", ".join(each.target for each in members)
                    raise ConfigurationError(
                        f"{where}.regressions: {names} are learnt alike, but have different "
                        "transforms; give them one"
                    )
                merged = _merged(statistics, [spec.name for spec in specs])
                transform = TargetTransform(contract, [first.target], merged)
                self.transforms[key] = transform
                size = transform.width_out
            else:
                classes = {
                    rule.classes for s in specs for rule in s.rules if isinstance(rule, Labels)
                }
                known = [count for count in classes if count is not None]
                if not known:
                    raise ConfigurationError(
                        f"{where}.classifications: the number of classes of {first.target} is "
                        "unknown; name them in the event file or prepare the dataset"
                    )
                size = max(known)
            inputs = width + hidden + (0 if first.product is None else width)
            self.networks[key] = MLP(inputs, [hidden], size)

    def loss(
        self,
        seen: Seen,
        placed: Mapping[tuple[int, int], Placed],
        plans: Sequence[ProcessPlan],
        targets: Mapping[str, Tensor],
    ) -> dict[str, LossTerm]:
        """Compare what the true tuples say with the targets.

        Args:
            seen: The batch.
            placed: (Process, true particle) → its true objects.
            plans: The processes.
            targets: Tensors by contract name.

        Returns:
            Name of the first of like targets → mean over those that an event has.
        """
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        names: dict[str, str] = {}
        zero = torch.zeros_like(seen.event[:, 0], dtype=torch.float32)
        for each in self.quantities:
            name = names.setdefault(each.learner, each.target)
            total, count = sums.setdefault(name, (zero, zero))
            where = placed.get((each.process, each.particle))
            target = targets.get(f"target/{each.target}")
            if where is None or target is None:
                continue
            known = where.there
            if each.product is not None:
                known = known & (where.members[:, each.product] >= 0)
            raw = self._raw(each, seen, where, plans).float()
            if each.kind == "regression":
                truth = torch.where(known, target.float(), torch.nan)
                error = huber(raw, self._transform(each)(truth[:, None]))
                value, valid = error.value.mean(-1), error.valid.all(-1)
            else:
                labels = torch.where(known, target.long(), -1)
                value, valid = cross_entropy(raw, labels)
            sums[name] = (total + torch.where(valid, value, 0.0), count + valid)
        return {
            name: LossTerm(total / count.clamp(min=1), count > 0)
            for name, (total, count) in sums.items()
        }

    def decode(
        self, seen: Seen, placed: Mapping[tuple[int, int], Placed], plans: Sequence[ProcessPlan]
    ) -> dict[str, Tensor]:
        """Say what the chosen tuples are.

        Returns:
            ``<target>`` (B,), in its unit, or ``<target>/probabilities`` (B, class); 0 where the
            particle has no objects.
        """
        found = {}
        for each in self.quantities:
            where = placed[each.process, each.particle]
            raw = self._raw(each, seen, where, plans).float()
            if each.kind == "regression":
                value = self._transform(each).inverse(raw)[:, 0]
                found[each.target] = torch.where(where.there, value, 0.0)
            else:
                chance = torch.softmax(raw, -1)
                found[f"{each.target}/probabilities"] = torch.where(
                    where.there[:, None], chance, 0.0
                )
        return found

    def _raw(
        self, each: Quantity, seen: Seen, where: Placed, plans: Sequence[ProcessPlan]
    ) -> Tensor:
        plan = next(plan for plan in plans if plan.number == each.process)
        kind = plan.particles[each.particle].kind
        parts = [seen.event, seen.tuples(kind, where.objects, where.query).to(seen.event.dtype)]
        if each.product is not None:
            place = where.members[:, each.product, None, None].clamp(min=0)
            width = seen.objects.shape[-1]
            parts.append(seen.objects.gather(1, place.expand(-1, 1, width))[:, 0])
        found: Tensor = self.networks[self._keys[each.learner]](torch.cat(parts, -1))
        return found

    def _transform(self, each: Quantity) -> TargetTransform:
        transform = self.transforms[self._keys[each.learner]]
        assert isinstance(transform, TargetTransform)
        return transform


def _merged(statistics: Statistics, names: Sequence[str]) -> Statistics:
    """Statistics in which the first of like targets has the values of all."""
    parts = [statistics.tensors[name] for name in names if name in statistics.tensors]
    if not parts:
        return statistics
    together = reduce(TensorStatistics.merge, parts)
    return statistics.model_copy(update={"tensors": {**statistics.tensors, names[0]: together}})
