"""The reader ``pythia``: collisions that are generated while they are read."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from hepset.batch import EventBatch, make_ids
from hepset.errors import ConfigurationError, did_you_mean
from hepset.schema.event import EventInfo
from hepset_pythia.arrays import BoolArray
from hepset_pythia.contents import (
    assignment_targets,
    input_globals,
    input_streams,
    number_targets,
    truth_extras,
)
from hepset_pythia.describe import check_event, describe_process
from hepset_pythia.detector import Detector, Reconstructed, reconstruct
from hepset_pythia.generate import BLOCK_SIZE, estimate_cross_section, generate_block, versions
from hepset_pythia.generated import GeneratedConfig, GeneratedReader
from hepset_pythia.processes import (
    BEAM_ENERGY,
    TOP_MASS,
    Process,
    ProcessOptions,
    make_process,
)
from hepset_pythia.truth import find_truth


class PythiaConfig(GeneratedConfig):
    """Options of the reader ``pythia``."""

    process: str
    """What to generate: ttbar-allhadronic, ttbar-semileptonic, ttbar-dileptonic, qcd,
    zprime-ttbar, wjets, zjets, hh4b, or custom (with `settings`)."""
    beam_energy: float = Field(default=BEAM_ENERGY, gt=10.0)
    """Centre-of-mass energy of the proton-proton collisions in GeV."""
    top_mass: float = Field(default=TOP_MASS, gt=0.0)
    """Top-quark mass in GeV."""
    resonance_mass: float | None = Field(default=None, gt=0.0)
    """Mass in GeV of the Z' (default 1000) or of the X in X → HH (default 500)."""
    include_tau: bool = False
    """Whether the charged leptons of W and Z decays include the τ beside e and μ."""
    pt_hat_min: float | None = Field(default=None, ge=0.0)
    """Smallest transverse momentum in GeV of the hard 2 → 2 process; null = 100 for qcd, 20 for
    wjets and zjets, none elsewhere."""
    detector: Detector = Detector()
    """Smearing, acceptance and tag efficiencies."""
    parton_copy: Literal["first", "last"] = "first"
    """Which copy of a decay product is matched: as it is born, or after its radiation."""
    min_jets: NonNegativeInt = 0
    """Keep events with at least so many jets."""
    leading_jet_pt_min: float = Field(default=0.0, ge=0.0)
    """Keep events whose leading jet has more than this pT in GeV."""
    min_leptons: NonNegativeInt = 0
    """Keep events with at least so many leptons (e, μ)."""
    labels: dict[str, int | str] = Field(default_factory=dict)
    """Classification target → class of these events, by name or number; ``signal`` defaults to 1
    for tt̄, Z' and HH, 0 elsewhere. Targets not named are missing (−1)."""
    topology: str = ""
    """Name of this process in the event description where that names processes; the unnamed one
    and the name in `process` always count as this one."""

    @model_validator(mode="after")
    def _known_process(self) -> PythiaConfig:
        self.make_process()
        return self

    def make_process(self) -> Process:
        """Return the process with these options applied."""
        options = ProcessOptions(
            beam_energy=self.beam_energy,
            top_mass=self.top_mass,
            resonance_mass=self.resonance_mass,
            include_tau=self.include_tau,
            pt_hat_min=self.pt_hat_min,
            settings=self.settings,
        )
        return make_process(self.process, options)


class PythiaReader(GeneratedReader):
    """Generates events with Pythia 8, clusters them with FastJet and smears the jets."""

    Config = PythiaConfig
    config: PythiaConfig

    def __init__(self, config: PythiaConfig, event: EventInfo | None = None) -> None:
        """Check the event description; nothing is generated yet.

        Raises:
            ConfigurationError: If the description asks for inputs or products that do not exist.
        """
        super().__init__(config, event)
        self.process = config.make_process()
        if event is not None:
            check_event(event, self.process)
        self.labels = _resolve_labels(self.event_info(), config, self.process)

    def event_info(self) -> EventInfo:
        """Return the given description, or the complete one of the process."""
        if self.event is not None:
            return self.event
        return describe_process(self.process, self.config.topology)

    @property
    def generated(self) -> str:
        """The name of the process."""
        return self.process.name

    def provenance(self) -> dict[str, object]:
        """Return versions, settings and the leading-order cross section with its error in pb.

        The cross section is estimated from hard processes alone; it is what Pythia says at
        leading order, not a normalisation.
        """
        value, error = self._cross_section
        turns = [list(turn) for turn in self.process.alternatives]
        return {
            "process": self.process.name,
            "title": self.process.title,
            "seed": self.config.seed,
            "events_generated": self.config.events,
            "settings": list(self.process.settings),
            "alternating_settings": turns,
            "includes_tau": self.config.include_tau,
            "cross_section_leading_order_pb": value,
            "cross_section_error_pb": error,
            "model": "leading order plus shower, no pile-up, one smearing model, no detector",
            **versions(),
        }

    @cached_property
    def _cross_section(self) -> tuple[float, float]:
        """The estimate in pb and its error; the samples and the data set both put it on record."""
        return estimate_cross_section(self.process, seed=self.config.seed)

    def read_block(self, number: int, start: int, stop: int) -> EventBatch:
        """Generate a block and reconstruct what the detector sees of it."""
        first = number * BLOCK_SIZE
        block = generate_block(
            self.process,
            seed=self.config.seed,
            block=number,
            n_events=max(1, min(BLOCK_SIZE, stop - first)),
        )
        event = self.event_info()
        seen = reconstruct(block, self.config.detector)
        truth = find_truth(block.record, self.process, copy=self.config.parton_copy)
        n_events = seen.n_events
        arrays = {
            **input_globals(event, seen),
            **number_targets(event, self.process, self.labels, truth, n_events),
            **assignment_targets(event, self.process, self.config.topology, seen, truth),
            **truth_extras(event, truth, n_events),
            "weight": block.weight,
        }
        if len(event.processes) > 1:
            arrays["process"] = np.full(n_events, self._process_number(event), dtype=np.int16)
        entry = first + block.entry
        batch = EventBatch(
            ids=make_ids(0, entry),
            streams=dict(input_streams(event, seen)),
            arrays=arrays,
            sources=[source.key for source in self.sources()],
        )
        return batch.take((entry >= start) & (entry < stop) & self._accepted(seen))

    def _accepted(self, seen: Reconstructed) -> BoolArray:
        jets = np.bincount(seen.jets.event, minlength=seen.n_events)
        leptons = np.bincount(seen.leptons.event, minlength=seen.n_events)
        accepted: BoolArray = (jets >= self.config.min_jets) & (leptons >= self.config.min_leptons)
        if self.config.leading_jet_pt_min > 0:
            leading = np.zeros(seen.n_events)
            np.maximum.at(leading, seen.jets.event, seen.jets.pt)
            accepted &= leading > self.config.leading_jet_pt_min
        return accepted

    def _process_number(self, event: EventInfo) -> int:
        names = event.process_names
        for name in (self.config.topology, self.process.name):
            if name in names:
                return names.index(name)
        return -1


def _resolve_labels(event: EventInfo, config: PythiaConfig, process: Process) -> dict[str, int]:
    """Turn class names into numbers.

    Raises:
        ConfigurationError: If a label names no target or no class of it.
    """
    wanted: dict[str, int | str] = dict(config.labels)
    found: dict[str, int] = {}
    known = [name for name, target in event.targets.items() if target.kind == "classification"]
    for name, value in wanted.items():
        if name not in known:
            msg = f"labels: no classification target {name!r}{did_you_mean(name, known)}"
            raise ConfigurationError(msg)
        classes = event.targets[name].classes
        if isinstance(value, str):
            if value not in (classes or ()):
                hint = did_you_mean(value, classes or ())
                msg = f"labels.{name}: no class {value!r}{hint} (classes: {classes})"
                raise ConfigurationError(msg)
            found[name] = (classes or ()).index(value)
        elif value < -1 or (classes is not None and value >= len(classes)):
            msg = f"labels.{name}: {value} is no class of {classes}; count from 0, -1 = missing"
            raise ConfigurationError(msg)
        else:
            found[name] = value
    if "signal" in known:
        found.setdefault("signal", process.signal)
    return found
