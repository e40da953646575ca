"""The reader ``delphes``: jets like those of JetClass-II, or whole events, from Delphes files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from hepset.batch import EventBatch
from hepset.errors import ReadError, did_you_mean
from hepset.interfaces.reader import Chunk
from hepset.readers.column_map import Column
from hepset.readers.columnar import ColumnarConfig, ColumnarFile, ColumnarReader
from hepset.schema.event import EventInfo
from hepset_jetclass.columns import STREAMS
from hepset_jetclass.delphes.files import DelphesEvents, DelphesJets, generator_branch
from hepset_jetclass.describe import describe, label_column

logger = logging.getLogger(__name__)

_JETS: Final = {
    "pt": ("PT", "GeV"),
    "eta": ("Eta", None),
    "phi": ("Phi", "rad"),
    "mass": ("Mass", "GeV"),
    "btag": ("BTag", None),
    "tau_tag": ("TauTag", None),
}
_LEPTONS: Final = {
    "pt": "GeV",
    "eta": None,
    "phi": "rad",
    "charge": None,
    "is_muon": None,
}


class DelphesConfig(ColumnarConfig):
    """Options of the reader ``delphes``."""

    unit: Literal["jet", "event"] = "jet"
    """What a row is: a jet with its constituents, as ``jetclass`` gives it, or an event."""
    jets: str | None = None
    """Branch of the jets; null = JetPUPPIAK8, for events JetPUPPI, or Jet where that is absent."""
    constituents: tuple[str, ...] = ()
    """Branches that hold what the jets refer to; empty = ParticleFlowCandidate, for generator jets
    Particle."""
    unresolved: Literal["error", "drop"] = "error"
    """Constituents that are in none of these branches: refused, or left out and counted."""
    gen_jets: str | None = None
    """Branch of the generator jets that jets are matched to; null = that of the same size."""
    radius: float | None = Field(default=None, gt=0)
    """Largest ΔR of a jet and its generator jet, or the products that give it its label; null =
    what the branch says, 0.8 for AK8."""
    truth: tuple[Literal["gen_jet", "gen_particles"], ...] = ()
    """What else to read of a jet where no event is described: the matched generator jet as targets,
    its particles as a stream that is no input."""
    labels: bool = False
    """Whether jets get a label of JetClass-II (target ``label``) by the generator's particles."""
    tree: str = "Delphes"
    """Path of the tree in the file."""

    @model_validator(mode="after")
    def _of_jets(self) -> DelphesConfig:
        of_jets = ("truth", "constituents", "gen_jets", "radius", "unresolved", "labels")
        stated = [name for name in of_jets if getattr(self, name) not in {None, (), "error", False}]
        if self.unit == "event" and stated:
            raise ValueError(
                f"{', '.join(map(repr, stated))}: belongs to unit: jet; map what events need, such "
                "as Particle.PT, with columns"
            )
        return self


class DelphesReader(ColumnarReader):
    """Reads Delphes files with uproot alone.

    With ``unit: jet`` the jets of an event are its samples, and any event description that fits
    JetClass-II fits them. Nothing is selected: that is for ``prepare.select``. With ``unit: event``
    rows are events, columns are Delphes' leaves (``Jet.PT``) and electrons and muons together.
    """

    Config: ClassVar[type[DelphesConfig]] = DelphesConfig

    def __init__(self, config: DelphesConfig, event: EventInfo | None = None) -> None:
        """Keep the options; files are opened by the methods."""
        super().__init__(config, event)
        self._described: EventInfo | None = None

    @property
    def options(self) -> DelphesConfig:
        """The options, typed."""
        config: DelphesConfig = self.config  # type: ignore[assignment]
        return config

    def open(self, path: str) -> ColumnarFile:
        """Open one file.

        Raises:
            ReadError: If it is no Delphes file, is damaged, or lacks a branch.
        """
        options = self.options
        if options.unit == "event":
            return DelphesEvents(path, options.tree)
        jets = options.jets or "JetPUPPIAK8"
        generated = jets.startswith("Gen")
        file = DelphesJets(
            path,
            options.tree,
            jets,
            constituents=options.constituents
            or ("Particle" if generated else "ParticleFlowCandidate",),
            unresolved=options.unresolved,
            generated=options.gen_jets or (None if generated else generator_branch(jets)),
            radius=options.radius,
            labels=options.labels,
        )
        if options.gen_jets is not None:
            file.require_jets(options.gen_jets)
        return file

    def event_info(self) -> EventInfo:
        """Return the given description, or that of jets or events as the first file has them.

        Raises:
            ReadError: If the first file cannot be opened.
            ConfigurationError: If it lacks the truth that is asked for.
        """
        if self.event is not None:
            return self.event
        if self._described is None:
            file = self.open(self._files()[0][0])
            try:
                self._described = (
                    describe(file.names(), self.options.truth)
                    if self.options.unit == "jet"
                    else self._describe_events(file)
                )
            finally:
                file.close()
        return self._described

    def known_columns(self, file: ColumnarFile) -> Mapping[str, Column]:
        """Where features with Delphes' meaning are.

        Raises:
            ReadError: If the file lacks the jets.
        """
        event, present = self.event_info(), set(file.names())
        found: dict[str, Any] = {}
        if self.options.unit == "jet":
            for stream, block in event.streams.items():
                table = STREAMS.get(stream, {})
                found |= {
                    f"streams.{stream}.{name}": table[name].column
                    for name in block.features
                    if name in table and table[name].column in present
                }
            found |= {"weight": "event_weight"} if "event_weight" in present else {}
        else:
            jets = self._jets_of(file)
            places = {f"streams.jets.{name}": f"{jets}.{leaf}" for name, (leaf, _) in _JETS.items()}
            places |= {f"streams.leptons.{name}": f"lepton_{name}" for name in _LEPTONS}
            found |= {place: column for place, column in places.items() if column in present}
            met = self._met_of(file)
            found |= {"globals.met.pt": {"from": f"{met}.MET", "index": 0}}
            found |= {"globals.met.phi": {"from": f"{met}.Phi", "index": 0}}
            found |= {"weight": {"from": "Event.Weight", "index": 0}}
            found = {
                place: column
                for place, column in found.items()
                if _has_place(event, place)
                and (column["from"] if isinstance(column, dict) else column) in present
            }
        columns = {place: Column.model_validate(column) for place, column in found.items()}
        return columns | label_column(event, present)

    def read(self, chunk: Chunk) -> EventBatch:
        """Read the jets of some events, or the events.

        Raises:
            ReadError: If a column is not there, or constituents cannot be found.
        """
        file, _ = self._file(chunk.source)
        before = file.dropped if isinstance(file, DelphesJets) else 0
        batch = super().read(chunk)
        if isinstance(file, DelphesJets) and file.dropped > before:
            logger.warning(
                "%s: %d constituents of the events from %d on are in no branch and left out",
                *(file.path, file.dropped - before, chunk.start),
            )
        return batch

    def _describe_events(self, file: ColumnarFile) -> EventInfo:
        present = set(file.names())
        jets = self._jets_of(file)
        streams: dict[str, Any] = {
            "jets": {
                "features": {
                    name: _feature(name, unit)
                    for name, (leaf, unit) in _JETS.items()
                    if f"{jets}.{leaf}" in present
                }
            }
        }
        if "lepton_pt" in present:
            streams["leptons"] = {
                "features": {name: _feature(name, unit) for name, unit in _LEPTONS.items()}
            }
        has_met = f"{self._met_of(file)}.MET" in present
        met = {"met": {"features": {"pt": _feature("pt", "GeV"), "phi": {"unit": "rad"}}}}
        document = {"streams": streams, "globals": met if has_met else {}}
        return EventInfo.model_validate(document)

    def _jets_of(self, file: ColumnarFile) -> str:
        names = set(file.names())
        wanted = (self.options.jets,) if self.options.jets else ("JetPUPPI", "Jet")
        for branch in wanted:
            if f"{branch}.PT" in names:
                return branch
        assert isinstance(file, DelphesEvents)
        known = sorted(name.removesuffix(".PT") for name in names if name.endswith(".PT"))
        raise ReadError(
            f"{file.path}: no jets {' or '.join(map(repr, wanted))}{did_you_mean(wanted[0], known)}"
        )

    def _met_of(self, file: ColumnarFile) -> str:
        puppi = self._jets_of(file).startswith("JetPUPPI")
        there = "PuppiMissingET.MET" in set(file.names())
        return "PuppiMissingET" if puppi and there else "MissingET"


def _feature(name: str, unit: str | None) -> dict[str, Any]:
    """Describe a feature: momenta by their logarithm."""
    steps = ["log1p", "standardise"] if name == "pt" else ["asinh", "standardise"]
    return {"unit": unit, **({"transform": steps} if unit == "GeV" else {})}


def _has_place(event: EventInfo, place: str) -> bool:
    """Whether an event has what a key of the column map names."""
    section, _, rest = place.partition(".")
    if not rest:
        return True
    owner, _, feature = rest.partition(".")
    block = event.streams.get(owner) if section == "streams" else event.globals.get(owner)
    return block is not None and feature in block.features
