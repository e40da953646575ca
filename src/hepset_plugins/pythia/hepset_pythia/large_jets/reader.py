"""The reader ``pythia-jets``: large-R jets of one class, generated while they are read."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hepset.batch import EventBatch, FlatStream, StreamData, make_ids
from hepset.errors import ConfigurationError, did_you_mean
from hepset.kinematics import eta_of, phi_of, pt_of
from hepset.schema.event import EventInfo
from hepset_pythia.arrays import FloatArray, IntArray
from hepset_pythia.generate import BLOCK_SIZE, GeneratedBlock, generate_block, versions
from hepset_pythia.generated import GeneratedConfig, GeneratedReader
from hepset_pythia.large_jets.classes import CLASSES, Y_MASS, make_jet_process
from hepset_pythia.large_jets.cluster import LargeJets, cluster_large_jets, substructure
from hepset_pythia.large_jets.constituents import constituent_columns
from hepset_pythia.large_jets.labels import QCD_LABELS, holds_decay, qcd_flavours

Array = NDArray[Any]

PARTICLES: Final = {
    **dict.fromkeys(("px", "py", "pz", "energy"), "GeV"),
    "deta": None,
    "dphi": "rad",
    **dict.fromkeys(("d0", "d0_error", "dz", "dz_error"), "mm"),
    "charge": None,
    **dict.fromkeys(("is_electron", "is_muon", "is_photon"), None),
    **dict.fromkeys(("is_charged_hadron", "is_neutral_hadron"), None),
}
"""Features of the constituents with their units, as JetClass-II has them."""
JET: Final = {
    "pt": "GeV",
    "eta": None,
    "phi": "rad",
    "energy": "GeV",
    "sdmass": "GeV",
    **dict.fromkeys(("tau1", "tau2", "tau3", "tau4"), None),
}
"""Features of the jet with their units."""
LABELS: Final = (*(name for name in CLASSES if name != "QCD"), *QCD_LABELS)
"""Classes of the target ``label``."""

_MOST_PER_EVENT: Final = 2
"""QCD jets that are taken of an event: the leading ones."""


class PythiaJetsConfig(GeneratedConfig):
    """Options of the reader ``pythia-jets``."""

    jets: str
    """Class of the jets: X_bb, X_cc, X_qq, X_gg, X_YY_qqqq, X_YY_bbbb, or QCD of all flavours."""
    jet_pt_min: float = Field(default=200.0, ge=50.0)
    """Smallest jet pT in GeV."""
    jet_eta_max: float = Field(default=2.5, gt=0.0)
    """Largest jet |eta|."""
    pt_hat_min: float = Field(default=230.0, ge=0.0)
    """Smallest transverse momentum in GeV of the hard process."""
    mass_range: tuple[float, float] = (50.0, 250.0)
    """Smallest and largest mass of X in GeV; it is spread nearly evenly between them."""

    @model_validator(mode="after")
    def _consistent(self) -> PythiaJetsConfig:
        if self.jets not in CLASSES:
            hint = did_you_mean(self.jets, CLASSES)
            raise ValueError(f"jets: no class {self.jets!r}{hint}; there are {', '.join(CLASSES)}")
        low, high = self.mass_range
        if not 10.0 <= low < high:
            raise ValueError(f"mass_range: {low:g} to {high:g} GeV; expected 10 <= low < high")
        if CLASSES[self.jets].prongs == 4 and not high > 2 * Y_MASS:
            raise ValueError(
                f"mass_range: {low:g} to {high:g} GeV; X decays to two Y of {Y_MASS:g} GeV only "
                f"above {2 * Y_MASS:g} GeV"
            )
        return self


class PythiaJetsReader(GeneratedReader):
    """Generates collisions with Pythia 8 and gives their anti-kT jets with R = 0.8, one by one.

    An entry is a collision; its jets are the samples of that entry, so that they stay in one
    split. Jets of X hold all partons of its decay; of QCD the two leading ones are taken. The
    columns are those of the reader ``jetclass``: constituents as the stream ``particles``, the
    jet as the global ``jet``, the class as the target ``label``. Particle level: no pile-up and no
    detector, but a resolution of impact parameters.
    """

    Config = PythiaJetsConfig
    config: PythiaJetsConfig

    def __init__(self, config: PythiaJetsConfig, event: EventInfo | None = None) -> None:
        """Check the event description; nothing is generated yet.

        Raises:
            ConfigurationError: If the description asks for what these jets do not have.
        """
        super().__init__(config, event)
        self.process = make_jet_process(
            config.jets,
            pt_hat_min=config.pt_hat_min,
            mass_range=config.mass_range,
            settings=config.settings,
        )
        if event is not None:
            _check_event(event)
        classes = self.event_info().targets.get("label")
        self._classes = (classes.classes or ()) if classes is not None else ()

    def event_info(self) -> EventInfo:
        """Return the given description, or the complete one."""
        return self.event if self.event is not None else describe_jets()

    @property
    def generated(self) -> str:
        """The class of the jets."""
        return f"{self.config.jets}-jets"

    def provenance(self) -> dict[str, object]:
        """Return versions, settings and the model of the detector."""
        return {
            "jets": self.config.jets,
            "seed": self.config.seed,
            "events_generated": self.config.events,
            "settings": list(self.process.settings),
            "model": "leading order plus shower, no pile-up, no detector but impact parameters",
            **versions(),
        }

    def read_block(self, number: int, start: int, stop: int) -> EventBatch:
        """Generate a block and take the jets of the class."""
        first = number * BLOCK_SIZE
        block = generate_block(
            self.process,
            seed=self.config.seed,
            block=number,
            n_events=max(1, min(BLOCK_SIZE, stop - first)),
            vertices=True,
        )
        jets, labels = self._jets(block)
        entry = (first + block.entry)[jets.event]
        chosen = np.flatnonzero((entry >= start) & (entry < stop))
        jets, labels, entry = jets.take(chosen), labels[chosen], entry[chosen]
        return self._batch(block, jets, labels, entry)

    def _jets(self, block: GeneratedBlock) -> tuple[LargeJets, Array]:
        """Return the jets of the class, and the name of each one's label."""
        jets = cluster_large_jets(block.record, self.config.jet_pt_min)
        jets = jets.take(np.flatnonzero(np.abs(eta_of(jets.p4)) < self.config.jet_eta_max))
        wanted = CLASSES[self.config.jets]
        if wanted.prongs:
            jets = jets.take(np.flatnonzero(holds_decay(block.record, jets, wanted)))
            return jets, np.full(len(jets), wanted.name)
        jets = jets.take(np.flatnonzero(_place(jets.event) < _MOST_PER_EVENT))
        return jets, np.array(QCD_LABELS)[qcd_flavours(block.record, jets)]

    def _batch(
        self, block: GeneratedBlock, jets: LargeJets, labels: Array, entry: IntArray
    ) -> EventBatch:
        event = self.event_info()
        columns = constituent_columns(block, jets)
        streams: dict[str, StreamData] = {
            name: FlatStream(
                jets.offsets.astype(np.int64),
                {name: columns[name].astype(np.float32) for name in stream.features},
            )
            for name, stream in event.streams.items()
        }
        arrays: dict[str, Array] = {"weight": block.weight[jets.event]}
        if "jet" in event.globals:
            values = self._jet_columns(block, jets)
            wanted = event.globals["jet"].features
            arrays["jet"] = np.stack([values[name] for name in wanted], -1).astype(np.float32)
        if "label" in event.targets:
            places = {name: place for place, name in enumerate(self._classes)}
            whole = places.get("QCD", -1)
            arrays["target/label"] = np.array(
                [places.get(n, whole if n.startswith("QCD") else -1) for n in labels], np.int64
            )
        return EventBatch(
            ids=make_ids(0, entry, _place(entry)),
            streams=streams,
            arrays=arrays,
            sources=[source.key for source in self.sources()],
        )

    def _jet_columns(self, block: GeneratedBlock, jets: LargeJets) -> dict[str, FloatArray]:
        return {
            "pt": pt_of(jets.p4),
            "eta": eta_of(jets.p4),
            "phi": phi_of(jets.p4),
            "energy": jets.p4[:, 3],
            **substructure(block.record.p4[jets.rows], jets.offsets),
        }


def describe_jets() -> EventInfo:
    """Return the complete description of these jets."""
    skewed = {"energy": "log1p", "px": "asinh", "py": "asinh", "pz": "asinh"}
    skewed |= {"d0": "asinh", "dz": "asinh", "d0_error": "log1p", "dz_error": "log1p"}
    particles = {
        name: {
            "unit": unit,
            "transform": [skewed[name], "standardise"] if name in skewed else None,
        }
        for name, unit in PARTICLES.items()
    }
    return EventInfo.model_validate(
        {
            "streams": {
                "particles": {
                    "features": particles,
                    "p4": {name: name for name in ("px", "py", "pz", "energy")},
                }
            },
            "globals": {
                "jet": {"features": {n: {"unit": u, "input": False} for n, u in JET.items()}}
            },
            "targets": {"label": {"kind": "classification", "classes": list(LABELS)}},
        }
    )


def _check_event(event: EventInfo) -> None:
    """Refuse a description of what these jets do not have."""
    for kind, blocks, known in (
        ("streams", event.streams, {"particles": PARTICLES}),
        ("globals", event.globals, {"jet": JET}),
    ):
        for name, block in blocks.items():
            if name not in known:
                raise ConfigurationError(
                    f"{kind}.{name}: the reader pythia-jets has {kind} {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )
            for feature in block.features:
                if feature not in known[name]:
                    raise ConfigurationError(
                        f"{kind}.{name}.{feature}: the reader pythia-jets has "
                        f"{', '.join(known[name])}{did_you_mean(feature, known[name])}"
                    )
    for name, target in event.targets.items():
        if name != "label" or target.kind != "classification":
            raise ConfigurationError(
                f"targets.{name}: the reader pythia-jets has the classification target label only"
            )
        known_labels = [*LABELS, "QCD"]
        for label in target.classes or ():
            if label not in known_labels:
                raise ConfigurationError(
                    f"targets.label.classes: no class {label!r}{did_you_mean(label, known_labels)}"
                )


def _place(numbers: IntArray) -> IntArray:
    """Return how many equal numbers stand before each one; equal ones stand together."""
    first = np.searchsorted(numbers, numbers, side="left")
    return np.arange(len(numbers)) - first
