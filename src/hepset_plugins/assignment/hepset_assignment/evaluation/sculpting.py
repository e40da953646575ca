"""What an assignment makes of events without the particles: does it build a mass peak?

An assignment that was trained on masses may choose, in a background, the objects whose mass
happens to be right, and a background that had no structure gets a peak where the signal has one.
Two numbers say how much: the share of background candidates in the window around the signal's
mass, and the largest distance (Kolmogorov's) of their cumulative mass distribution from that of
objects drawn at random, which know nothing of masses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.events.split import hash_rows
from hepset.interfaces.head import Evaluation, Metric
from hepset.uncertainty import ONE_SIGMA, Estimate, distance, efficiency, weighted_quantile
from hepset_assignment.evaluation.masses import Masses, Observable, observables, truth_of
from hepset_assignment.evaluation.quality import Judged
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = [
    "Background",
    "Sculpted",
    "backgrounds",
    "random_assignment",
    "sculpted_masses",
    "sculpting_metrics",
]

Array = NDArray[Any]

DRAWS: Final = 20
"""Random assignments per event."""
FEWEST: Final = 20
"""Background events below which nothing is said."""
NOISE: Final = "one random assignment per event"


@dataclass(frozen=True)
class Background:
    """Events without the particles of a process.

    Attributes:
        name: The process or the sample.
        rows: The events, (E,).
    """

    name: str
    rows: Array


@dataclass(frozen=True)
class Sculpted:
    """Masses of one observable in a background.

    Attributes:
        observable: Which mass.
        unit: Its unit.
        window: Central 68 % of the mass of the true objects in the signal.
        rows: Events of the background, (E,).
        chosen: Masses of the assignment, (E, candidate); NaN where there is none.
        random: Of random assignments, (E, draw × candidate).
        weight: Physical weights (E,), None where all are one.
    """

    observable: Observable
    unit: str
    window: tuple[float, float]
    rows: Array
    chosen: Array
    random: Array
    weight: Array | None


def backgrounds(plan: ProcessPlan, topology: Topology, evaluation: Evaluation) -> list[Background]:
    """Return the events without the particles of a process.

    Where the event has several processes: those of other processes, unless these have particles
    of the same kind. Else the samples in which no event has a true particle.
    """
    found: list[Background] = []
    process = evaluation.targets.get("process")
    if len(topology.processes) > 1:
        kinds = {particle.kind for particle in plan.particles}
        for other in topology.processes:
            if process is None or kinds & {particle.kind for particle in other.particles}:
                continue
            rows = np.flatnonzero(np.asarray(process) == other.number)
            found.append(Background(other.name, rows))
    elif evaluation.sample is not None:
        some = np.zeros(len(evaluation), bool)
        for particle in plan.particles:
            some |= (np.asarray(evaluation.targets[particle.tensor]) >= 0).any(axis=1)
        for number, name in enumerate(evaluation.sample_names):
            rows = np.flatnonzero(evaluation.sample == number)
            if not some[rows].any():
                found.append(Background(name, rows))
    return [background for background in found if len(background.rows) >= FEWEST]


def random_assignment(
    plan: ProcessPlan, topology: Topology, evaluation: Evaluation, rows: Array, seed: int = 0
) -> dict[str, Array]:
    """Draw objects for every product: real, of its stream, none twice.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: The events.
        rows: Those to draw for, (E,).
        seed: Seed of the draws.

    Returns:
        Field → indices (E, product), as predictions are; −1 in particles that lack an object.
    """
    objects = _object_keys(topology, evaluation, rows)
    masks = [np.asarray(evaluation.inputs[f"{s}.mask"])[rows] for s in topology.streams]
    starts = np.cumsum([0, *(mask.shape[1] for mask in masks)])
    offsets = dict(zip(topology.streams, starts, strict=False))
    real = np.concatenate(masks, axis=1)
    common = real.copy()
    free = [real.copy() if topology.shared else common for _ in plan.particles]
    each = np.arange(len(rows))
    drawn = [np.full((len(rows), len(particle.streams)), -1) for particle in plan.particles]
    places = [
        (number, product, stream)
        for number, particle in enumerate(plan.particles)
        for product, stream in enumerate(particle.streams)
    ]
    # Products of any stream come last, so that they leave the others what these need.
    for number, product, stream in sorted(places, key=lambda place: place[2] is None):
        allowed, first = free[number].copy(), 0
        if stream is not None:
            first = offsets[stream]
            size = evaluation.inputs[f"{stream}.mask"].shape[1]
            allowed[:, :first] = False
            allowed[:, first + size :] = False
        dice = hash_rows(_mixed_seed(seed, number, product), [objects.ravel()]).reshape(
            objects.shape
        )
        # The smallest number is left to what is not allowed.
        place = np.where(allowed, dice | np.uint64(1), np.uint64(0)).argmax(axis=1)
        there = allowed[each, place]
        drawn[number][:, product] = np.where(there, place - first, -1)
        free[number][each[there], place[there]] = False
    found: dict[str, Array] = {}
    for particle, index in zip(plan.particles, drawn, strict=True):
        complete = (index >= 0).all(axis=1, keepdims=True)
        found[particle.field] = np.where(complete, index, -1)
    return found


def _object_keys(topology: Topology, evaluation: Evaluation, rows: Array) -> Array:
    """Return a number for every object that the features of its event decide, (E, position).

    So what is drawn for an event depends neither on its place nor on the other events.
    """
    keys = []
    for stream in topology.streams:
        values = np.ascontiguousarray(evaluation.inputs[stream][rows], np.float32)
        bits = values.reshape(-1, values.shape[-1]).view(np.int32)
        hashed = hash_rows(0, list(bits.T)).view(np.int64)
        real = np.asarray(evaluation.inputs[f"{stream}.mask"])[rows]
        keys.append(np.where(real, hashed.reshape(real.shape), 0))
    found = np.concatenate(keys, axis=1)
    whole = np.broadcast_to(found.sum(axis=1, keepdims=True), found.shape)
    mixed = hash_rows(0, [found.ravel(), whole.ravel()]).view(np.int64)
    return mixed.reshape(found.shape)


def _mixed_seed(*numbers: int) -> int:
    """Mix small numbers into one seed."""
    return int(hash_rows(0, [np.array([number]) for number in numbers])[0]) >> 1


def sculpted_masses(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    background: Background,
    indices: Mapping[str, Array] | None = None,
) -> Iterator[Sculpted]:
    """Yield the masses of pairs and particles in a background.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: The events.
        judged: The process's own events, for the window.
        background: The events to look at.
        indices: Field → objects (event, product), of all events; the head's where None.
    """
    masses = Masses(topology, evaluation)
    given = evaluation.predictions if indices is None else indices
    rows = background.rows
    draws = [
        _placed(random_assignment(plan, topology, evaluation, rows, seed), rows, len(evaluation))
        for seed in range(DRAWS)
    ]
    weight = np.asarray(evaluation.weight, np.float64)[rows] if evaluation.weighted else None
    for observable in observables(plan, topology):
        if observable.kind == "system" or not masses.has(plan, observable):
            continue
        true = truth_of(plan, observable, masses, judged).mass
        known = np.isfinite(true)
        if known.sum() < FEWEST:
            continue
        base = None
        if judged.weight is not None:
            base = np.broadcast_to(judged.weight[:, None], true.shape)[known]
        low, high = weighted_quantile(true[known], ONE_SIGMA, base)
        yield Sculpted(
            observable,
            masses.unit(plan, observable),
            (float(low), float(high)),
            rows,
            masses.of(plan, observable, given, rows),
            np.concatenate([masses.of(plan, observable, each, rows) for each in draws], axis=1),
            weight,
        )


def sculpting_metrics(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    indices: Mapping[str, Array] | None = None,
    of: str = "",
    *,
    noise: bool = False,
) -> list[Metric]:
    """Return, for every background, the share in the signal's window and the distance to random.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: The events.
        judged: The process's own events.
        indices: Field → objects; the head's where None.
        of: Who reached it.
        noise: Whether to evaluate one random assignment per event instead: what statistics alone
            gives.
    """
    found: list[Metric] = []
    for background in backgrounds(plan, topology, evaluation):
        for part in sculpted_masses(plan, topology, evaluation, judged, background, indices):
            if part.observable.kind != "particle":
                continue
            chosen, random = part.chosen, part.random
            if noise:
                size = chosen.shape[1]
                chosen, random = random[:, :size], random[:, size:]
            name = f"{background.name}: m({part.observable.label})"
            share = _in_window(chosen, part)
            found.append(Metric(f"{name} in the signal's window", *share, "", "lower", of, noise))
            apart = distance(chosen, random, part.weight)
            found.append(Metric(f"{name}, distance to random", *apart, "", "lower", of, noise))
    return found


def _in_window(chosen: Array, part: Sculpted) -> Estimate:
    known = np.isfinite(chosen)
    low, high = part.window
    inside = (chosen >= low) & (chosen <= high)
    groups = np.broadcast_to(part.rows[:, None], chosen.shape)[known]
    weight = None
    if part.weight is not None:
        weight = np.broadcast_to(part.weight[:, None], chosen.shape)[known]
    return efficiency(inside[known], weight, groups if chosen.shape[1] > 1 else None)


def _placed(indices: Mapping[str, Array], rows: Array, size: int) -> dict[str, Array]:
    """Give indices of some events a row for every event."""
    found = {}
    for field, index in indices.items():
        full = np.full((size, index.shape[1]), -1)
        full[rows] = index
        found[field] = full
    return found
