"""From the objects and the truth of a block to the named arrays of an `EventBatch`.

Inputs come from reconstructed objects alone; everything that knows the truth is a target or an
``extra/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.arrays import offsets_of
from hepset.batch import FlatStream
from hepset.kinematics import eta_of, mass_of, phi_of, pt_of
from hepset.schema.event import EventInfo
from hepset_pythia.arrays import FloatArray
from hepset_pythia.describe import SYSTEM_MASS
from hepset_pythia.detector import Objects, Reconstructed
from hepset_pythia.matching import match, merged_partons
from hepset_pythia.processes import INVISIBLE_NAMES, LEPTONIC_TOP_LEPTON, Process
from hepset_pythia.truth import Truth

Array = NDArray[Any]


def input_streams(event: EventInfo, seen: Reconstructed) -> dict[str, FlatStream]:
    """Return the declared streams, their features in the declared order."""
    objects = {"jets": seen.jets, "leptons": seen.leptons}
    extras = {"jets": "flavour", "leptons": "pdg_id"}
    streams: dict[str, FlatStream] = {}
    for name, stream in event.streams.items():
        found = objects[name]
        values = _object_features(found)
        counts = np.bincount(found.event, minlength=seen.n_events)
        label = extras[name]
        streams[name] = FlatStream(
            offsets=offsets_of(counts),
            columns={feature: values[feature].astype(np.float32) for feature in stream.features},
            attached={f"extra/{name}/{label}": found.labels[label].astype(np.int16)},
        )
    return streams


def input_globals(event: EventInfo, seen: Reconstructed) -> dict[str, Array]:
    """Return the declared globals with their masks."""
    arrays: dict[str, Array] = {}
    for name, block in event.globals.items():
        px, py = seen.met[:, 0], seen.met[:, 1]
        phi = np.arctan2(py, px)
        values = {
            "pt": np.hypot(px, py),
            "phi": np.where(phi >= np.pi, -np.pi, phi),
            "px": px,
            "py": py,
            "sin_phi": np.sin(phi),
            "cos_phi": np.cos(phi),
        }
        columns = [values[feature] for feature in block.features]
        arrays[name] = np.stack(columns, axis=-1).astype(np.float32)
        arrays[f"{name}.mask"] = np.ones(seen.n_events, dtype=np.bool_)
    return arrays


def assignment_targets(
    event: EventInfo, process: Process, label: str, seen: Reconstructed, truth: Truth
) -> dict[str, Array]:
    """Return the assignment targets, the distances of the matches and the merged flags.

    All products of a process that are found in one stream compete for its objects.
    """
    places = match_products(process, seen, truth)
    arrays: dict[str, Array] = {}
    for assignment in event.assignments():
        path = assignment.tensor.removeprefix("target/assignment/")
        shape = (seen.n_events, len(assignment.products))
        index = np.full(shape, -1, dtype=np.int64)
        distance = np.full(shape, np.nan, dtype=np.float32)
        merged = np.zeros(seen.n_events, dtype=np.bool_)
        own = process.particles.get(assignment.particle)
        if own is not None and assignment.process in {"", label, process.name}:
            keys = [f"{assignment.particle}/{product}" for product in assignment.products]
            for column, key in enumerate(keys):
                index[:, column], distance[:, column] = places[key]
            momenta = np.stack([truth.products[key] for key in keys], axis=1)
            merged = merged_partons(eta_of(momenta), phi_of(momenta))
        arrays[assignment.tensor] = index
        arrays[f"extra/match_delta_r/{path}"] = distance
        arrays[f"extra/merged/{path}"] = merged
    return arrays


def match_products(
    process: Process, seen: Reconstructed, truth: Truth
) -> dict[str, tuple[Array, FloatArray]]:
    """Match every product to the stream it is found in.

    Returns:
        ``<particle>/<product>`` -> (place in its stream or −1, distance or NaN), each of shape
        ``(event,)``.
    """
    objects = {"jets": seen.jets, "leptons": seen.leptons}
    found: dict[str, tuple[Array, FloatArray]] = {}
    for stream, candidates in objects.items():
        keys = [
            f"{particle}/{product}"
            for particle, products in process.particles.items()
            for product, where in products.items()
            if where == stream
        ]
        if not keys:
            continue
        momenta = np.stack([truth.products[key] for key in keys], axis=1)
        index, distance = match(
            eta_of(momenta), phi_of(momenta), candidates.event, candidates.eta, candidates.phi
        )
        found |= {key: (index[:, k], distance[:, k]) for k, key in enumerate(keys)}
    return found


def number_targets(
    event: EventInfo, process: Process, labels: Mapping[str, int], truth: Truth, n_events: int
) -> dict[str, Array]:
    """Return all declared classification and regression targets, missing ones as −1 or NaN."""
    made = regression_values(process, truth)
    arrays: dict[str, Array] = {}
    for name, target in event.targets.items():
        if target.kind == "classification":
            arrays[f"target/{name}"] = np.full(n_events, labels.get(name, -1), dtype=np.int64)
        else:
            values = made.get(name, np.full(n_events, np.nan))
            arrays[f"target/{name}"] = values.astype(np.float32)
    return arrays


def regression_values(process: Process, truth: Truth) -> dict[str, FloatArray]:
    """Return every regression target the process can fill, in GeV and rad, by name."""
    values: dict[str, FloatArray] = {}
    for name, p4 in {**truth.resonances, **truth.products}.items():
        values |= {f"{name}/{component}": v for component, v in _kinematics(p4).items()}
    for name, p4 in truth.invisible.items():
        values |= {f"{name}_{component}": v for component, v in _kinematics(p4).items()}
    if truth.system is not None and process.truth in SYSTEM_MASS:
        values[SYSTEM_MASS[process.truth]] = mass_of(truth.system)
    return values


def truth_extras(event: EventInfo, truth: Truth, n_events: int) -> dict[str, Array]:
    """Return truth four-momenta (px, py, pz, E) in GeV and PDG codes under ``extra/``.

    Which of them exist depends on the event description alone, so that all samples of a run have
    the same: the particles and products of its topologies, the system and the neutrinos that
    its targets name, and the sum of everything invisible. Missing ones are NaN, or PDG code 0.
    """
    momenta = {**truth.resonances, **truth.products, **truth.invisible}
    if truth.system is not None:
        momenta["system"] = truth.system
    momenta["invisible"] = truth.invisible_sum
    missing = np.full((n_events, 4), np.nan)
    no_code = np.zeros(n_events, dtype=np.int32)
    products = _product_names(event)
    arrays: dict[str, Array] = {}
    for name in (*_particle_names(event), *products, *_target_momenta(event), "invisible"):
        arrays[f"extra/truth/{name}"] = momenta.get(name, missing).astype(np.float32)
    for name in products:
        arrays[f"extra/pdg_id/{name}"] = truth.product_ids.get(name, no_code).astype(np.int32)
    return arrays


def _particle_names(event: EventInfo) -> list[str]:
    return [assignment.particle for assignment in event.assignments()]


def _product_names(event: EventInfo) -> list[str]:
    names = [
        f"{assignment.particle}/{product}"
        for assignment in event.assignments()
        for product in assignment.products
    ]
    return [*names, LEPTONIC_TOP_LEPTON] if "lt" in _particle_names(event) else names


def _target_momenta(event: EventInfo) -> list[str]:
    names = [
        name
        for name in INVISIBLE_NAMES
        if any(target.startswith(f"{name}_") for target in event.targets)
    ]
    return [*names, "system"] if set(event.targets) & set(SYSTEM_MASS.values()) else names


def _object_features(objects: Objects) -> dict[str, Array]:
    p4 = objects.p4
    values: dict[str, Array] = {
        "pt": objects.pt,
        "eta": objects.eta,
        "phi": objects.phi,
        "mass": objects.mass,
        "px": p4[:, 0],
        "py": p4[:, 1],
        "pz": p4[:, 2],
        "energy": p4[:, 3],
        "sin_phi": np.sin(objects.phi),
        "cos_phi": np.cos(objects.phi),
    }
    if "btag" in objects.labels:
        values["btag"] = objects.labels["btag"]
    if "charge" in objects.labels:
        values["charge"] = objects.labels["charge"]
        values["muon"] = np.abs(objects.labels["pdg_id"]) == 13
    return values


def _kinematics(p4: FloatArray) -> dict[str, FloatArray]:
    return {
        "pt": pt_of(p4),
        "eta": eta_of(p4),
        "phi": phi_of(p4),
        "mass": mass_of(p4),
        "px": p4[:, 0],
        "py": p4[:, 1],
        "pz": p4[:, 2],
        "energy": p4[:, 3],
    }
