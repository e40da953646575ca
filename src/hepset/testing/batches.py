"""Random events for any description or contract, which obey every one of its rules.

Nothing in them is physics: they hold whatever the rules allow, the awkward cases first (events
without objects, absent globals, missing targets, gaps in no particular place).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hepset.arrays import Array, Ragged, offsets_of
from hepset.batch import EventBatch, make_ids
from hepset.dataset.statistics import StatisticsCollector
from hepset.kinematics import p4_from_pt_eta_phi_mass
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature, Role, guess_role
from hepset.schema.statistics import (
    Statistics,
)
from hepset.schema.tensors import Domain, Index, Labels, NonNegative, OneHot, TensorSpec

__all__ = ["make_batch", "make_event_info", "make_statistics"]


_DEFAULT_SLOTS = (7, 4, 5, 3)
"""Slots of streams whose number is not resolved, in turn: different, so that axes are not mixed."""
_DEFAULT_CLASSES = 2
_MISSING = 3
"""Row whose targets are always missing, unless none may be."""


def make_event_info(
    *, topology: bool = True, targets: bool = True, processes: int = 1
) -> EventInfo:
    """Return an event description that has one of everything.

    Two streams (one with a four-momentum), two globals, a topology with symmetries, and per-event
    and per-object targets of both kinds, angles and logarithms among them.

    Args:
        topology: Whether particles decay to objects, for heads that assign.
        targets: Whether there is anything else to learn.
        processes: Number of topologies; one is unnamed.
    """
    tops = {
        "particles": {
            "t1": {"b": "jets", "q1": "jets", "q2": "jets"},
            "t2": {"b": "jets", "l": "leptons"},
        },
        "symmetries": {"t1": [["q1", "q2"]]},
    }
    pair = {
        "particles": {"h1": {"a": "jets", "b": "jets"}, "h2": {"a": "jets", "b": "jets"}},
        "symmetries": {"event": [["h1", "h2"]], "h1": [["a", "b"]], "h2": [["a", "b"]]},
    }
    named = {f"process{n}": (tops, pair)[n % 2] for n in range(processes)}
    return EventInfo.model_validate(
        {
            "streams": {
                "jets": {
                    "features": {
                        "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                        "eta": {"transform": "standardise"},
                        "phi": {"unit": "rad"},
                        "mass": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                        "btag": {},
                    },
                },
                "leptons": {"features": {"pt": {"transform": "log"}, "charge": {}}},
            },
            "globals": {
                "met": {"features": {"pt": {"unit": "GeV", "transform": "log1p"}, "phi": {}}},
                "shape": {"features": {"sphericity": {"transform": "standardise"}}},
            },
            "processes": {} if not topology else {"": tops} if processes == 1 else named,
            "targets": {
                "signal": {"kind": "classification", "classes": ["background", "signal"]},
                "flavour": {"kind": "classification", "classes": ["light", "c", "b"]},
                "m_ttbar": {
                    "kind": "regression",
                    "unit": "GeV",
                    "transform": ["log1p", "standardise"],
                },
                "neutrino_eta": {"kind": "regression"},
                "neutrino_phi": {"kind": "regression", "unit": "rad", "transform": "circular"},
                "jet_origin": {
                    "kind": "classification",
                    "classes": ["light", "b"],
                    "stream": "jets",
                },
                "jet_energy": {"kind": "regression", "unit": "GeV", "stream": "jets"},
            }
            if targets
            else {},
        }
    )


def make_batch(
    described: EventInfo | Contract,
    events: int = 24,
    seed: int = 1,
    *,
    slots: Mapping[str, int] | None = None,
    missing: float = 0.15,
    empty: Iterable[int] = (1,),
) -> EventBatch:
    """Make random events that obey a contract.

    Numbers of objects lie between 1 and the slots; the first event fills them all.

    Args:
        described: What an event is, or the contract (with what heads ask for).
        events: Number of events.
        seed: Of the random numbers.
        slots: Slots by stream where the contract leaves them open.
        missing: Probability that a target is missing (-1 or NaN), and that a global is absent.
        empty: Rows of events without any object or global, where there are so many.

    Returns:
        Streams are flat, with the contract's slots.
    """
    contract = described if isinstance(described, Contract) else compile_contract(described)
    contract = resolved(contract, slots)
    return _Maker(contract, events, seed, missing, [row for row in empty if row < events]).make()


def resolved(contract: Contract, slots: Mapping[str, int] | None = None) -> Contract:
    """Return the contract with slots and classes filled in where they are open."""
    open_slots = [name for name, size in contract.slots.items() if size is None]
    chosen = {
        name: _DEFAULT_SLOTS[index % len(_DEFAULT_SLOTS)] for index, name in enumerate(open_slots)
    }
    classes = {
        name: _DEFAULT_CLASSES
        for name, spec in contract.tensors.items()
        if any(isinstance(rule, Labels) and rule.classes is None for rule in spec.rules)
    }
    return contract.resolve(slots={**chosen, **(slots or {})}, classes=classes)


def make_statistics(contract: Contract, batch: EventBatch) -> Statistics:
    """Compute the statistics that prepare would store for a split of just these events."""
    given = {name: batch.get(name) for name in contract.tensors}
    # The collector takes what it is given to pieces.
    columns = {name: np.array(array) for name, array in given.items() if array is not None}
    collector = StatisticsCollector(contract, columns)
    collector.add(columns, len(batch))
    return collector.result()


class _Maker:
    """Makes the tensors of one batch."""

    def __init__(
        self, contract: Contract, events: int, seed: int, missing: float, empty: list[int]
    ) -> None:
        self.contract = contract
        self.events = events
        self.rng = np.random.default_rng(seed)
        self.missing = missing
        self.empty = empty
        self.slots = {name: int(size or 1) for name, size in contract.slots.items()}
        self.counts: dict[str, Array] = {}

    def make(self) -> EventBatch:
        streams = {spec.name: self._stream(spec) for spec in self.contract.of_kind("stream")}
        arrays: dict[str, Array] = {}
        for spec in self.contract.of_kind("global"):
            present = self.rng.random(self.events) >= self.missing
            present[self.empty] = False
            values = self._columns(spec.features, self._above(spec), (self.events,))
            arrays[spec.name] = np.stack(list(values.values()), -1).astype(np.float32)
            arrays[spec.name][~present] = 0
            if f"{spec.name}.mask" in self.contract:
                arrays[f"{spec.name}.mask"] = present
        for spec in self.contract.of_kind("pairs"):
            count = self.slots[spec.dims[1]]
            shape = (self.events, count, count)
            values = self._columns(spec.features, self._above(spec), shape)
            arrays[spec.name] = np.stack(list(values.values()), -1).astype(np.float32)
        processes = self.contract.of_kind("process")
        for spec in processes:
            count = next(r.classes for r in spec.rules if isinstance(r, Labels)) or 1
            arrays[spec.name] = self.rng.integers(0, count, self.events).astype(spec.dtype)
        for spec in self.contract.of_kind("weight"):
            if spec.name == "weight":
                arrays[spec.name] = self.rng.exponential(1.0, self.events) + 0.1
            else:
                arrays[spec.name] = np.ones(self.events, spec.dtype)
        for spec in self.contract.of_kind("target"):
            if len(spec.dims) > 1 and spec.dims[1] in streams and not spec.is_table:
                stream = streams[spec.dims[1]]
                stream.attached[spec.name] = self._target(
                    spec, (int(stream.offsets[-1]), *self._rest(spec, 2))
                )
            else:
                arrays[spec.name] = self._target(spec, (self.events, *self._rest(spec, 1)))
        arrays |= self._indices(arrays.get("process"))
        return EventBatch(
            ids=make_ids(0, range(self.events)),
            streams=dict(streams),
            arrays=arrays,
            slots=dict(self.slots),
            sources=("random events",),
        )

    def _stream(self, spec: TensorSpec) -> Ragged:
        slots = self.slots[spec.name]
        counts = self.rng.integers(1, slots, self.events, endpoint=True)
        counts[:1] = slots
        counts[self.empty] = 0
        self.counts[spec.name] = counts
        offsets = offsets_of(counts)
        columns = self._columns(spec.features, self._above(spec), (int(offsets[-1]),))
        return Ragged(offsets, {n: v.astype(np.float32) for n, v in columns.items()})

    def _columns(
        self, features: Mapping[str, Feature], above: Mapping[str, float], shape: tuple[int, ...]
    ) -> dict[str, Array]:
        """Random values of features; all kinematic ones belong to one four-momentum per stem."""
        momenta: dict[str, dict[Role, Array]] = {}
        found: dict[str, Array] = {}
        for name, feature in features.items():
            guessed = guess_role(name)
            stem = guessed[0] if guessed else ""
            role = feature.role or (guessed[1] if guessed else None)
            if role in {None, "none", "x", "y", "z"}:
                values = self.rng.standard_normal(shape)
            else:
                momentum = momenta.setdefault(stem, {})
                if not momentum:
                    momentum |= self._momentum(shape)
                values = momentum[role]
            bound = above.get(name)
            if bound is not None:
                values = bound + np.maximum(np.abs(values), 0.01)
            found[name] = values
        return found

    def _momentum(self, shape: tuple[int, ...]) -> dict[Role, Array]:
        pt = 20 + self.rng.exponential(40, shape)
        eta = self.rng.uniform(-2.5, 2.5, shape)
        phi = self.rng.uniform(-np.pi, np.pi, shape)
        mass = self.rng.uniform(1, 15, shape)
        px, py, pz, energy = np.moveaxis(p4_from_pt_eta_phi_mass(pt, eta, phi, mass), -1, 0)
        return {
            "pt": pt,
            "eta": eta,
            "phi": phi,
            "mass": mass,
            "px": px,
            "py": py,
            "pz": pz,
            "energy": energy,
            "sin_phi": np.sin(phi),
            "cos_phi": np.cos(phi),
            "rapidity": np.arctanh(pz / energy),
        }

    def _above(self, spec: TensorSpec) -> dict[str, float]:
        bounds = {rule.feature: rule.above for rule in spec.rules if isinstance(rule, Domain)}
        if any(isinstance(rule, NonNegative) for rule in spec.rules):
            bounds = {name: max(bounds.get(name, 0.0), 0.0) for name in spec.features or ("",)}
        return bounds

    def _rest(self, spec: TensorSpec, first: int) -> tuple[int, ...]:
        return tuple(
            self.slots.get(dim, 2) if size is None else size
            for dim, size in zip(spec.dims[first:], spec.shape[first:], strict=True)
        )

    def _target(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        classes = [rule.classes for rule in spec.rules if isinstance(rule, Labels)]
        absent = self.rng.random(shape[:1]) < self.missing
        absent[_MISSING : _MISSING + 1] = self.missing > 0  # one at least
        if spec.dtype == "bool":
            return self.rng.random(shape) < 0.5
        if any(isinstance(rule, OneHot) for rule in spec.rules):
            chosen = self.rng.integers(0, shape[-1], shape[:-1])
            return np.eye(shape[-1])[chosen].astype(spec.dtype)
        if classes or spec.dtype.startswith("int"):
            size = (classes[0] if classes else None) or _DEFAULT_CLASSES
            labels = np.arange(np.prod(shape, dtype=int)) % size
            values: Array = self.rng.permutation(labels).reshape(shape).astype(spec.dtype)
            values[absent] = -1
            return values
        features = spec.features or {"": Feature()}
        above = self._above(spec)
        named = {name or spec.name: feature for name, feature in features.items()}
        bounds = {name or spec.name: bound for name, bound in above.items()}
        lead = shape[:-1] if spec.columns else shape
        columns = list(self._columns(named, bounds, lead).values())
        values = (np.stack(columns, -1) if spec.columns else columns[0]).astype(spec.dtype)
        values[absent] = np.nan
        return values

    def _indices(self, process: Array | None) -> dict[str, Array]:
        """Assignments to real objects, no object twice; some particles are missing."""
        names: dict[str, int] = {}
        specs = self.contract.of_kind("index")
        arrays = {s.name: np.full((self.events, int(s.shape[1] or 1)), -1, np.int64) for s in specs}
        for spec in specs:
            parts = spec.name.split("/")
            names.setdefault(parts[2] if len(parts) > 3 else "", len(names))
        for row in range(self.events):
            used: set[tuple[str, int]] = set()
            for spec in specs:
                parts = spec.name.split("/")
                number = names[parts[2] if len(parts) > 3 else ""]
                if process is not None and process[row] != number:
                    continue
                rule = next((r for r in spec.rules if isinstance(r, Index)), None)
                if rule is None or self.rng.random() < self.missing:
                    continue
                for column, stream in enumerate(rule.streams):
                    start, places = 0, []
                    for name in rule.order:
                        if stream in {None, name}:
                            at = start if stream is None else 0
                            places += [
                                (name, slot, at + slot) for slot in range(self.counts[name][row])
                            ]
                        start += self.slots[name]
                    free = [place for place in places if place[:2] not in used]
                    if free:
                        chosen = free[int(self.rng.integers(len(free)))]
                        used.add(chosen[:2])
                        arrays[spec.name][row, column] = chosen[2]
        return arrays
