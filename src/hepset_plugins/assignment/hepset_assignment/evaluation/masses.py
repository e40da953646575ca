"""Masses of what was assigned: pairs, particles, and all particles of an event together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation, Metric
from hepset.kinematics import mass_of
from hepset.uncertainty import Estimate, bootstrap, half_width, median, weighted_quantile
from hepset_assignment.evaluation.baseline import momenta, momentum_unit
from hepset_assignment.evaluation.quality import Judged, cluster_names
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["Masses", "Observable", "Truth", "mass_metrics", "observables", "truth_of"]

Array = NDArray[Any]

_PAIR = 2
_FEWEST = 10
"""Events below which a mass has no width."""


@dataclass(frozen=True)
class Observable:
    """A mass, with one or several candidates per event.

    Attributes:
        label: What it is the mass of: ``t``, ``t (q1 q2)``, ``t1 + t2``.
        candidates: Per candidate, the particles that enter (by position) with their products.
        kind: A pair of a particle's products, a particle, or all particles of the event.
    """

    label: str
    candidates: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    kind: str

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the particles of each candidate."""
        return tuple(tuple(place for place, _ in candidate) for candidate in self.candidates)


@dataclass(frozen=True)
class Truth:
    """What is known of the candidates of an observable; all of shape (E, candidate).

    Attributes:
        known: Whether every particle in it has a true partner with all products.
        right: Whether every particle in it is one.
        mass: Mass of the true partners; NaN where not known.
        target: Mass that the files state for them; NaN where they do not.
    """

    known: Array
    right: Array
    mass: Array
    target: Array


class Masses:
    """Masses of assigned objects.

    Args:
        topology: All that is assigned.
        evaluation: The events.
    """

    def __init__(self, topology: Topology, evaluation: Evaluation) -> None:
        self.topology = topology
        self.evaluation = evaluation
        self._p4 = momenta(evaluation)
        self._all: Array | None = None

    def has(self, plan: ProcessPlan, observable: Observable) -> bool:
        """Whether everything in an observable has a four-momentum."""
        return all(
            stream in self._p4
            for candidate in observable.candidates
            for place, products in candidate
            for stream in self._streams(plan, place, products)
        )

    def unit(self, plan: ProcessPlan, observable: Observable) -> str:
        """Return the unit of the masses; empty where the files state none."""
        place, products = observable.candidates[0][0]
        return momentum_unit(self.evaluation, self._streams(plan, place, products)[0]) or ""

    def of(
        self,
        plan: ProcessPlan,
        observable: Observable,
        indices: Mapping[str, Array],
        rows: Array,
    ) -> Array:
        """Return the masses of an observable, (E, candidate); NaN where an object is missing.

        Args:
            plan: The process.
            observable: What to compute.
            indices: Field → objects (event, product) of each particle.
            rows: The events, (E,).
        """
        found = np.full((len(rows), len(observable.candidates)), np.nan)
        for number, candidate in enumerate(observable.candidates):
            total = np.zeros((len(rows), 4))
            complete = np.ones(len(rows), bool)
            for place, products in candidate:
                particle = plan.particles[place]
                chosen = np.asarray(indices[particle.field])[rows]
                for product in products:
                    objects = self._objects(particle.streams[product])
                    slot = np.maximum(chosen[:, product], 0)
                    total += objects[rows, slot]
                    complete &= chosen[:, product] >= 0
            found[complete, number] = mass_of(total[complete])
        return found

    def _objects(self, stream: str | None) -> Array:
        if stream is not None:
            return self._p4[stream]
        if self._all is None:
            self._all = np.concatenate([self._p4[s] for s in self.topology.streams], axis=1)
        return self._all

    def _streams(self, plan: ProcessPlan, place: int, products: tuple[int, ...]) -> list[str]:
        found: list[str] = []
        for product in products:
            stream = plan.particles[place].streams[product]
            found += self.topology.streams if stream is None else [stream]
        return found


def observables(plan: ProcessPlan, topology: Topology) -> list[Observable]:
    """Return the masses worth seeing.

    Per set of interchangeable particles: pairs of interchangeable products, where there are other
    products (the W of a top quark); the particle. Then all particles of the event together.
    """
    found: list[Observable] = []
    labels = cluster_names(plan)
    everything = {
        place: tuple(range(len(particle.streams))) for place, particle in enumerate(plan.particles)
    }
    for orbit, label in zip(plan.orbits, labels, strict=True):
        particle = plan.particles[orbit[0]]
        names = topology.kinds[particle.kind].products
        size = len(particle.streams)
        for pair in particle.group.orbits:
            if len(pair) == _PAIR < size:
                inside = " ".join(names[product] for product in pair)
                found.append(
                    Observable(
                        f"{label} ({inside})",
                        tuple(((place, tuple(pair)),) for place in orbit),
                        "pair",
                    )
                )
        if size > 1:
            each = tuple(((place, everything[place]),) for place in orbit)
            found.append(Observable(label, each, "particle"))
    if len(plan.particles) > 1:
        names = tuple(particle.field.rpartition("/")[2] for particle in plan.particles)
        found.append(Observable(" + ".join(names), (tuple(everything.items()),), "system"))
    return found


def truth_of(plan: ProcessPlan, observable: Observable, masses: Masses, judged: Judged) -> Truth:
    """Return what is known of the candidates, paired with the truth as `judged` pairs them."""
    targets = masses.evaluation.targets
    by_field = {particle.field: targets[particle.tensor] for particle in plan.particles}
    own = masses.of(plan, observable, by_field, judged.rows)
    stated = _stated(plan, observable, masses.evaluation, judged.rows)
    if observable.kind == "system":
        known = np.asarray(judged.present.all(axis=1))[:, None]
        right = np.asarray(judged.matched.all(axis=1))[:, None]
        return Truth(known, right, np.where(known, own, np.nan), stated)
    places = [place for (place,) in observable.places]
    partner = judged.of[:, places]
    column = np.full(len(plan.particles), 0)
    column[places] = np.arange(len(places))
    known = np.take_along_axis(judged.present, partner, axis=1)
    mass = np.take_along_axis(own, column[partner], axis=1)
    target = np.take_along_axis(stated, column[partner], axis=1)
    return Truth(known, judged.matched[:, places], np.where(known, mass, np.nan), target)


def mass_metrics(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    indices: Mapping[str, Array] | None = None,
    of: str = "",
    *,
    limit: bool = False,
) -> list[Metric]:
    """Return bias and width of the reconstructed masses of particles and of the event.

    Of candidates whose particles are reconstructable. Where the files state the mass (a regression
    target ``<particle>/mass``, or ``m_ttbar`` for t1 + t2), bias and width are those of the
    difference; else the width is that of the reconstructed mass, and its bias the distance of
    its median from that of the true objects. NaN for fewer than ten events.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: The events.
        judged: The assignment compared with the truth.
        indices: Field → objects; those of the truth where None.
        of: Who reached it.
        limit: Whether nobody can do better.
    """
    masses = Masses(topology, evaluation)
    title = f"{plan.name}: " if plan.name else ""
    found: list[Metric] = []
    for observable in observables(plan, topology):
        if observable.kind == "pair" or not masses.has(plan, observable):
            continue
        truth = truth_of(plan, observable, masses, judged)
        mass = truth.mass
        if indices is not None:
            mass = masses.of(plan, observable, indices, judged.rows)
        chosen = truth.known & np.isfinite(mass)
        stated = bool(np.isfinite(truth.target[chosen]).all()) and bool(chosen.any())
        groups = np.broadcast_to(judged.rows[:, None], mass.shape)[chosen]
        weight = None
        if judged.weight is not None:
            weight = np.broadcast_to(judged.weight[:, None], mass.shape)[chosen]
        unit = masses.unit(plan, observable)
        name = f"{title}m({observable.label})"
        values = mass[chosen]
        bias = width = Estimate(math.nan, math.nan)
        if len(np.unique(groups)) >= _FEWEST:
            values = values - truth.target[chosen] if stated else values
            width = half_width(values, weight, groups)
            if stated:
                bias = median(values, weight, groups)
            else:
                bias = _distance(values, truth.mass[chosen], weight, groups)
        found.append(Metric(f"{name}: half 68 % width", *width, unit, "lower", of, limit))
        # True objects have none against themselves.
        if stated or indices is not None:
            found.append(Metric(f"{name}: bias", *bias, unit, "lower", of, limit))
    return found


def _distance(values: Array, others: Array, weight: Array | None, groups: Array) -> Estimate:
    """Difference of two medians of the same candidates."""

    def statistic(weights: Array) -> float:
        first, second = (weighted_quantile(x, [0.5], weights)[0] for x in (values, others))
        return float(first - second)

    base = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
    error = bootstrap(statistic, len(values), weight=base, groups=groups)
    return Estimate(statistic(base), float(error))


def _stated(
    plan: ProcessPlan, observable: Observable, evaluation: Evaluation, rows: Array
) -> Array:
    """Masses of the true particles that the files state, (E, candidate); NaN where they do not."""
    found = np.full((len(rows), len(observable.candidates)), np.nan)
    if observable.kind == "system":
        name = _system_target(plan, evaluation)
        if name is not None:
            found[:, 0] = np.asarray(evaluation.targets[name], np.float64)[rows]
        return found
    if observable.kind == "particle":
        for number, (place,) in enumerate(observable.places):
            tensor = f"target/{plan.particles[place].field}/mass"
            if tensor in evaluation.targets:
                found[:, number] = np.asarray(evaluation.targets[tensor], np.float64)[rows]
    return found


def _system_target(plan: ProcessPlan, evaluation: Evaluation) -> str | None:
    """The regression target that is the mass of all particles: ``m_ttbar`` for t1 and t2."""
    letters = "".join(
        label * len(orbit) for orbit, label in zip(plan.orbits, cluster_names(plan), strict=True)
    )
    for name, target in evaluation.event.targets.items():
        tail = name.removeprefix("m_")
        if (
            target.kind != "regression"
            or tail == name
            or f"target/{name}" not in evaluation.targets
        ):
            continue
        if tail == plan.name or tail.replace("bar", "").casefold() == letters.casefold():
            return f"target/{name}"
    return None
