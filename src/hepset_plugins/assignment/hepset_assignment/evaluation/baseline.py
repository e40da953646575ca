"""What assignments are worth that need no training: a mass χ², or the leading objects."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation
from hepset.kinematics import mass_of, pt_of
from hepset.model.input_transform import four_momentum, momentum_columns
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["Simple", "momenta", "momentum_unit", "simple_assignment"]

Array = NDArray[Any]

W_MASS: Final = 81.3
"""Mean dijet mass of W decays (GeV), as in the χ² that SPANet is compared with."""
W_WIDTH: Final = 12.3
"""Their width (GeV)."""
TOP_WIDTH: Final = 26.3
"""Width of the difference of the two top masses (GeV)."""
TAG_PENALTY: Final = 4.0
"""Added per untagged b and per tagged light jet."""
MOST_JETS: Final = 10
"""Leading jets that the χ² tries: 12 600 pairs of tops."""
_CHUNK: Final = 4_000_000
_UNITS: Final = {"GeV": 1.0, "MeV": 1e-3, "TeV": 1e3}
_TAGS: Final = ("btag", "b_tag", "is_b_tagged", "btagged")


class Simple(NamedTuple):
    """An assignment without training.

    Attributes:
        of: What it is.
        predictions: Field → indices (event, product).
    """

    of: str
    predictions: dict[str, Array]


def simple_assignment(plan: ProcessPlan, topology: Topology, evaluation: Evaluation) -> Simple:
    """Assign by the mass χ² where two tops of three jets are looked for, else leading objects."""
    chi2 = _chi_square(plan, evaluation)
    return _leading(plan, topology, evaluation) if chi2 is None else chi2


def momenta(evaluation: Evaluation) -> dict[str, Array]:
    """Return the four-momenta (event, object, 4) of every stream that has them, float64."""
    columns = momentum_columns(evaluation.event, evaluation.contract)
    return {
        stream: four_momentum(
            np.asarray(evaluation.inputs[stream], np.float64),
            roles,
            np.asarray(evaluation.inputs[f"{stream}.mask"]),
        )
        for stream, roles in columns.items()
    }


def momentum_unit(evaluation: Evaluation, stream: str) -> str | None:
    """Return the declared unit of a stream's four-momentum."""
    momentum = evaluation.event.streams[stream].momentum or {}
    features = evaluation.event.streams[stream].features
    return next((features[momentum[r]].unit for r in ("pt", "px") if r in momentum), None)


def _chi_square(plan: ProcessPlan, evaluation: Evaluation) -> Simple | None:
    """Pairs of (b, q, q) with the W mass twice, equal top masses, and tags on the b jets.

    Σ ((m_qq − 81.3)/12.3)² + ((m_t1 − m_t2)/26.3)² + 4 per untagged b and per tagged q, GeV.
    """
    topology = _two_tops(plan)
    if topology is None:
        return None
    b, (q1, q2), stream = topology
    streams = list(evaluation.event.streams)
    only = stream if stream is not None else streams[0] if len(streams) == 1 else None
    p4 = {} if only is None else momenta(evaluation)
    if only is None or only not in p4:
        return None
    columns = evaluation.contract[only].columns
    tag = next((name for name in columns if name.casefold() in _TAGS), None)
    mask = np.asarray(evaluation.inputs[f"{only}.mask"])
    transverse: Array = pt_of(p4[only])
    unit = _unit(evaluation, only, transverse[mask])
    if unit is None:
        return None
    factor, note = unit
    tagged = np.zeros(mask.shape, bool)
    if tag is not None:
        tagged = np.asarray(evaluation.inputs[only])[..., columns.index(tag)] > 0.5
    order, counts = _leading_first(p4[only], mask)
    chosen = np.full((len(mask), 2, 3), -1)
    for number in range(6, MOST_JETS + 1):
        rows = np.flatnonzero(counts == number)
        step = max(1, _CHUNK // len(_pairs(number)[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            jets = order[part, :number]
            best = _best_pair(
                np.take_along_axis(p4[only][part] * factor, jets[..., None], axis=1),
                np.take_along_axis(tagged[part], jets, axis=1),
                use_tags=tag is not None,
            )
            chosen[part] = np.take_along_axis(jets[:, None], best.reshape(len(part), 1, 6), axis=2)[
                :, 0
            ].reshape(-1, 2, 3)
    predictions = {}
    for place, particle in enumerate(plan.particles):
        index = np.full((len(mask), 3), -1)
        index[:, b], index[:, q1], index[:, q2] = chosen[:, place].T
        predictions[particle.field] = index
    label = "mass χ² with b-tag penalty" if tag is not None else "mass χ²"
    return Simple(f"{label}{note}", predictions)


def _two_tops(plan: ProcessPlan) -> tuple[int, tuple[int, ...], str | None] | None:
    """Position of the b, those of the light quarks, and the stream; None for other topologies."""
    if len(plan.particles) != 2 or len(plan.orbits) != 1:
        return None
    streams = {stream for particle in plan.particles for stream in particle.streams}
    orbits = sorted(plan.particles[0].group.orbits, key=len)
    if [len(orbit) for orbit in orbits] != [1, 2] or len(streams) != 1:
        return None
    return orbits[0][0], orbits[1], streams.pop()


def _unit(evaluation: Evaluation, stream: str, pt: Array) -> tuple[float, str] | None:
    """Factor to GeV and what to say about it; None where the unit is unknown and not plausible."""
    unit = momentum_unit(evaluation, stream)
    if unit is not None:
        return (_UNITS[unit], "") if unit in _UNITS else None
    middle = float(np.median(pt)) if len(pt) else 50.0
    return (1.0, " (file units taken as GeV)") if 10 < middle < 500 else None


def _leading_first(p4: Array, mask: Array) -> tuple[Array, Array]:
    """Slots by falling pt, at most `MOST_JETS`, and how many of them are real."""
    pt = np.where(mask, pt_of(p4), -1.0)
    order = np.argsort(-pt, axis=1, kind="stable")[:, :MOST_JETS]
    return order, np.minimum(mask.sum(axis=1), MOST_JETS)


def _pairs(number: int) -> tuple[Array, Array]:
    """Triplets (T, 3) as (b, q, q), and the pairs (P, 2) of them without a common jet."""
    triplets = [
        (b, q1, q2)
        for q1, q2 in combinations(range(number), 2)
        for b in range(number)
        if b not in (q1, q2)
    ]
    bits = np.array([(1 << b) | (1 << q1) | (1 << q2) for b, q1, q2 in triplets])
    first, second = np.nonzero(np.triu((bits[:, None] & bits[None]) == 0))
    return np.array(triplets), np.stack([first, second], axis=1)


def _best_pair(p4: Array, tagged: Array, *, use_tags: bool) -> Array:
    """Jets (E, 2, 3) of the pair of triplets with the smallest χ²."""
    triplets, pairs = _pairs(p4.shape[1])
    light = p4[:, triplets[:, 1]] + p4[:, triplets[:, 2]]
    cost = ((mass_of(light) - W_MASS) / W_WIDTH) ** 2
    if use_tags:
        wrong = (
            ~tagged[:, triplets[:, 0]]
            + tagged[:, triplets[:, 1]].astype(int)
            + tagged[:, triplets[:, 2]]
        )
        cost = cost + TAG_PENALTY * wrong
    top = mass_of(light + p4[:, triplets[:, 0]])
    first, second = pairs.T
    total = cost[:, first] + cost[:, second]
    total += ((top[:, first] - top[:, second]) / TOP_WIDTH) ** 2
    best: Array = triplets[pairs[total.argmin(axis=1)]]
    return best


def _leading(plan: ProcessPlan, topology: Topology, evaluation: Evaluation) -> Simple:
    """Give objects to products in the order of both, without using one twice."""
    p4 = momenta(evaluation)
    orders: dict[str, Array] = {}
    offsets: dict[str, int] = {}
    total = 0
    for stream in topology.streams:
        mask = np.asarray(evaluation.inputs[f"{stream}.mask"])
        pt = pt_of(p4[stream]) if stream in p4 else np.zeros(mask.shape)
        order = np.argsort(np.where(mask, -pt, np.inf), axis=1, kind="stable")
        orders[stream] = np.where(np.take_along_axis(mask, order, axis=1), order, -1)
        offsets[stream] = total
        total += mask.shape[1]
    used = dict.fromkeys(topology.streams, 0)
    predictions: dict[str, Array] = {}
    for particle in plan.particles:
        index = np.full((len(evaluation), len(particle.streams)), -1)
        for product, declared in enumerate(particle.streams):
            source = topology.streams[0] if declared is None else declared
            if used[source] < orders[source].shape[1]:
                slot = orders[source][:, used[source]]
                shift = offsets[source] if declared is None else 0
                index[:, product] = np.where(slot >= 0, slot + shift, -1)
            used[source] += 1
        # All or nothing, as with every assignment.
        complete = np.asarray((index >= 0).all(axis=1))
        predictions[particle.field] = np.where(complete[:, None], index, -1)
    return Simple("leading objects in order", predictions)
