"""Open Delphes files: as jets in the columns of JetClass-II, and as events."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from hepset.arrays import Ragged, offsets_of
from hepset.errors import ReadError, did_you_mean
from hepset.readers.assembly import Data
from hepset.readers.columnar import ColumnarFile
from hepset.readers.root import RootFile
from hepset_jetclass.delphes.jets import (
    Links,
    Objects,
    constituent_columns,
    find,
    generator_jet_columns,
    generator_particle_columns,
    jet_columns,
    match,
)
from hepset_jetclass.delphes.labels import LEAVES, jet_labels
from hepset_jetclass.truth import Computed, computed_columns

Array = NDArray[Any]

_JET: Final = ("PT", "Eta", "Phi", "Mass")
_CANDIDATE: Final = ("fUniqueID", "PT", "Eta", "Phi", "Mass", "PID", "Charge")
_TRACK: Final = ("D0", "DZ", "ErrorD0", "ErrorDZ")
_PARTICLE: Final = (*("fUniqueID", "PT", "Eta", "Phi", "PID", "Px", "Py", "Pz", "E"), *"XYZT")
_LEPTON: Final = {"pt": "PT", "eta": "Eta", "phi": "Phi", "charge": "Charge"}
_LEPTONS: Final = ("Electron", "Muon")
_RADIUS: Final = re.compile(r"AK(\d+)$")
_KNOWN: Final = {
    "jet": ("jet_pt", "jet_eta", "jet_phi", "jet_energy"),
    "part": (
        *("part_px", "part_py", "part_pz", "part_energy", "part_deta", "part_dphi"),
        *("part_d0val", "part_d0err", "part_dzval", "part_dzerr", "part_charge"),
        *("part_isElectron", "part_isMuon", "part_isPhoton"),
        *("part_isChargedHadron", "part_isNeutralHadron", "jet_nparticles"),
    ),
    "genjet": ("genjet_pt", "genjet_eta", "genjet_phi", "genjet_energy"),
    "genpart": (
        *("genpart_px", "genpart_py", "genpart_pz", "genpart_energy", "genpart_jet_deta"),
        *("genpart_jet_dphi", "genpart_x", "genpart_y", "genpart_z", "genpart_t"),
        *("genpart_pid", "genjet_nparticles"),
    ),
}


class DelphesJets(ColumnarFile):
    """The jets of one branch of a Delphes file, a row per jet, in the columns of JetClass-II.

    Args:
        path: The file.
        tree: Path of its tree.
        branch: Branch of the jets.
        constituents: Branches in which what the jets refer to is looked for.
        unresolved: Whether a constituent that is in none of them is an ``error`` or left out
            (``drop``) and counted in `dropped`.
        generated: Branch of the generator jets; None without.
        radius: Largest ΔR of a jet and its generator jet, or the products of its decay; None =
            what the branch's name says.
        labels: Whether jets have a ``jet_label`` by the generator's particles.
    """

    def __init__(
        self,
        path: str,
        tree: str,
        branch: str,
        *,
        constituents: Sequence[str],
        unresolved: str,
        generated: str | None,
        radius: float | None,
        labels: bool = False,
    ) -> None:
        self.path = path
        self._labels = labels
        self.branch = branch
        self.dropped = 0
        self._constituents = constituents
        self._unresolved = unresolved
        self._file = RootFile(path, tree)
        self._leaves = set(self._file.names())
        self._require(branch, (*_JET, "Constituents"))
        for source in constituents:
            self._require(source, _CANDIDATE)
        if labels:
            self._require("Particle", LEAVES)
        self._generated = generated if generated in self._branches() else None
        self._radius = _radius(branch) if radius is None else radius
        self._own = self._available()
        self._computed = computed_columns(self._own)
        self._range: tuple[int, int] | None = None
        self._jets: Objects | None = None
        self._vertex_z: Array = np.zeros(0)
        self._made: dict[str, Data] = {}

    @property
    def entries(self) -> int:
        """Number of events."""
        return self._file.entries

    def names(self) -> list[str]:
        """Names of the columns that can be had, as in JetClass-II, and of computed ones."""
        return [*self._own, *self._computed]

    def _available(self) -> list[str]:
        found = [*_KNOWN["jet"], *_KNOWN["part"]]
        found += ["jet_sdmass"] if self._has(self.branch, "SoftDroppedP4[5]") else []
        found += [f"jet_tau{k}" for k in (1, 2, 3, 4)] if self._has(self.branch, "Tau[5]") else []
        found += ["jet_flavor"] if self._has(self.branch, "Flavor") else []
        found += ["jet_label"] if self._labels else []
        found += ["event_number"] if self._has("Event", "Number") else []
        found += ["event_weight"] if self._has("Event", "Weight") else []
        if self._generated is not None:
            found += _KNOWN["genjet"]
            found += ["genjet_sdmass"] if self._has(self._generated, "SoftDroppedP4[5]") else []
            if all(self._has("Particle", leaf) for leaf in _PARTICLE):
                found += _KNOWN["genpart"]
        return found

    def require_jets(self, branch: str) -> None:
        """Refuse a file without some branch of jets.

        Raises:
            ReadError: If the branch or a leaf of it is not there.
        """
        self._require(branch, (*_JET, "Constituents"))

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Event of every jet, and its number in the event.

        Raises:
            ReadError: If the file is damaged.
        """
        jets = self._load(start, stop)
        event = jets.event
        return start + event, np.arange(len(jets)) - jets.offsets[event]

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read columns of the jets of some events.

        Raises:
            ReadError: If the file is damaged, or constituents cannot be found.
        """
        self._load(start, stop)
        computed = self._computed
        for name in _needs(names, computed):
            if name not in self._made:
                self._make(name, start, stop)
        return {
            name: computed[name].compute(self._made) if name in computed else self._made[name]
            for name in names
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _load(self, start: int, stop: int) -> Objects:
        """Read the jets of some events."""
        if self._jets is None or self._range != (start, stop):
            self._jets = self._objects(self.branch, self._jet_leaves(self.branch), start, stop)
            self._vertex_z = np.zeros(stop - start)
            if self._has("Vertex", "Z"):
                vertices = self._objects("Vertex", ["Z"], start, stop)
                there = np.diff(vertices.offsets) > 0
                self._vertex_z[there] = vertices["Z"][vertices.offsets[:-1][there]]
            self._range = start, stop
            self._made = dict(jet_columns(self._jets))
        return self._jets

    def _make(self, name: str, start: int, stop: int) -> None:
        """Make a column, and those that are made with it."""
        jets = self._load(start, stop)
        if name.startswith("event_"):
            leaf = {"event_number": "Number", "event_weight": "Weight"}[name]
            event = self._objects("Event", [leaf], start, stop)
            self._made[name] = event[leaf][event.offsets[:-1][jets.event]]
        elif name == "jet_label":
            particles = self._objects("Particle", LEAVES, start, stop)
            self._made[name] = jet_labels(jets, particles, self._radius)
        elif name in _KNOWN["part"]:
            jet, candidates = self._resolved(jets, start, stop)
            self._made |= constituent_columns(jets, jet, candidates, self._vertex_z)
        else:
            assert self._generated is not None
            generated = self._objects(
                self._generated, self._jet_leaves(self._generated), start, stop
            )
            matched = match(jets, generated, self._radius)
            self._made |= generator_jet_columns(matched, generated)
            if name in _KNOWN["genpart"]:
                particles = self._objects("Particle", _PARTICLE, start, stop)
                links = self._links(self._generated, len(generated), start, stop)
                of, found = find(generated, links, particles)
                owner = np.full(len(generated), -1)
                owner[matched[matched >= 0]] = np.flatnonzero(matched >= 0)
                kept = (owner[of] >= 0) & (found >= 0)
                chosen = {leaf: particles[leaf][found[kept]] for leaf in _PARTICLE}
                self._made |= generator_particle_columns(
                    jets, owner[of[kept]], chosen, self._vertex_z
                )

    def _resolved(self, jets: Objects, start: int, stop: int) -> tuple[Array, dict[str, Array]]:
        """Find the constituents in the branches that may hold them."""
        links = self._links(self.branch, len(jets), start, stop)
        leaves = (*_CANDIDATE, *_TRACK)
        owners: list[Array] = []
        values: dict[str, list[Array]] = {leaf: [] for leaf in leaves}
        left: Array | None = None
        owner: Array = np.zeros(0, np.int64)
        for branch in self._constituents:
            has = [leaf for leaf in leaves if self._has(branch, leaf)]
            objects = self._objects(branch, has, start, stop)
            owner, found = find(jets, links, objects)
            left = np.ones(len(found), bool) if left is None else left
            hits = left & (found >= 0)
            owners.append(owner[hits])
            for leaf in leaves:
                there = objects[leaf][found[hits]] if leaf in has else np.zeros(int(hits.sum()))
                values[leaf].append(there)
            left &= found < 0
        lost = np.zeros(0, bool) if left is None else left
        if lost.any():
            self._lost(jets, owner[lost], len(lost), start)
        return np.concatenate(owners), {leaf: np.concatenate(v) for leaf, v in values.items()}

    def _lost(self, jets: Objects, owner: Array, total: int, start: int) -> None:
        if self._unresolved == "drop":
            self.dropped += len(owner)
            return
        sources = ", ".join(self._constituents)
        raise ReadError(
            f"{self.path}: {self.branch}: {len(owner)} of {total} constituents are not in "
            f"{sources} (first: entry {start + int(jets.event[owner[0]])}); name the branches that "
            "hold them with constituents: […], take jets whose constituents the file has (the "
            "PUPPI ones), or leave them out with unresolved: drop"
        )

    def _jet_leaves(self, branch: str) -> list[str]:
        wanted = (*_JET, "Tau[5]", "SoftDroppedP4[5]", "Flavor")
        return [leaf for leaf in wanted if self._has(branch, leaf)]

    def _objects(self, branch: str, leaves: Sequence[str], start: int, stop: int) -> Objects:
        """Read leaves of a branch; the soft-drop momentum becomes its mass."""
        plain = [leaf for leaf in leaves if leaf != "SoftDroppedP4[5]"]
        data = self._file.read([f"{branch}.{leaf}" for leaf in plain], start, stop)
        offsets: Array = np.zeros(stop - start + 1, np.int64)
        values: dict[str, Array] = {}
        for leaf in plain:
            column = data[f"{branch}.{leaf}"]
            if not isinstance(column, Ragged):
                raise ReadError(f"{self.path}: {branch}.{leaf} does not hold lists")
            offsets = column.offsets
            values[leaf.removesuffix("[5]")] = column.values
        if "SoftDroppedP4[5]" in leaves:
            groomed = self._array(f"{branch}.SoftDroppedP4[5]", start, stop)
            values["SoftDropped"] = _mass(groomed, int(offsets[-1]))
        return Objects(offsets, values)

    def _links(self, branch: str, jets: int, start: int, stop: int) -> Links:
        if not jets:
            return Links(np.zeros(1, np.int64), np.zeros(0, np.int64))
        references = ak.flatten(self._array(f"{branch}.Constituents", start, stop).refs)
        counts = ak.to_numpy(ak.num(references))
        offsets = offsets_of(counts)
        return Links(offsets, ak.to_numpy(ak.flatten(references)).view(np.uint32))

    def _array(self, name: str, start: int, stop: int) -> Any:  # noqa: ANN401  an awkward array
        branch = name.partition(".")[0]
        try:
            return self._file.tree[f"{branch}/{name}"].array(entry_start=start, entry_stop=stop)
        except Exception as problem:  # damaged bytes fail in any way
            raise self._unreadable(problem) from problem

    def _has(self, branch: str, leaf: str) -> bool:
        return f"{branch}.{leaf}" in self._leaves

    def _branches(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self._leaves if "." in name})

    def _require(self, branch: str, leaves: Sequence[str]) -> None:
        lacking = [leaf for leaf in leaves if not self._has(branch, leaf)]
        if not lacking:
            return
        if len(lacking) == len(leaves):
            known = self._branches()
            found = f"it has {', '.join(known)}" if known else "Delphes wrote none of it"
            hint = did_you_mean(branch, known) or f"; {found}"
            raise ReadError(f"{self.path}: no branch {branch!r}{hint}")
        raise ReadError(f"{self.path}: {branch} lacks {', '.join(lacking)}")

    def _unreadable(self, problem: Exception) -> ReadError:
        reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
        return ReadError(f"{self.path}: cannot be read as Delphes' ROOT: {reason}")


class DelphesEvents(ColumnarFile):
    """A Delphes file, a row per event, with electrons and muons together as leptons too.

    Args:
        path: The file.
        tree: Path of its tree.
    """

    def __init__(self, path: str, tree: str) -> None:
        self.path = path
        self._file = RootFile(path, tree)
        own = set(self._file.names())
        self._computed = (
            [f"lepton_{name}" for name in (*_LEPTON, "is_muon")]
            if {f"{kind}.{leaf}" for kind in _LEPTONS for leaf in _LEPTON.values()} <= own
            else []
        )

    @property
    def entries(self) -> int:
        """Number of events."""
        return self._file.entries

    def names(self) -> list[str]:
        """Names of the leaves, ``Jet.PT``, and ``lepton_pt``, ``lepton_is_muon`` and so on."""
        return [*self._file.names(), *self._computed]

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read columns of a range of events.

        Raises:
            ReadError: If a leaf is damaged or is not made of numbers.
        """
        plain = [name for name in names if name not in self._computed]
        found = self._file.read(plain, start, stop) if plain else {}
        if len(plain) < len(names):
            found = {**found, **self._leptons(start, stop)}
        return {name: found[name] for name in names}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _leptons(self, start: int, stop: int) -> dict[str, Data]:
        """Put electrons and muons together, sorted by pT."""
        leaves = [f"{kind}.{leaf}" for kind in _LEPTONS for leaf in _LEPTON.values()]
        data = self._file.read(leaves, start, stop)
        lists: dict[str, list[Ragged]] = {name: [] for name in _LEPTON}
        for name, leaf in _LEPTON.items():
            for kind in _LEPTONS:
                column = data[f"{kind}.{leaf}"]
                assert isinstance(column, Ragged)
                lists[name].append(column)
        counts = [np.diff(column.offsets) for column in lists["pt"]]
        event = np.concatenate([np.repeat(np.arange(stop - start), n) for n in counts])
        values = {name: np.concatenate([c.values for c in both]) for name, both in lists.items()}
        values["is_muon"] = np.repeat([False, True], [int(n.sum()) for n in counts])
        order = np.lexsort((-values["pt"], event))
        offsets = offsets_of(np.sum(counts, axis=0))
        return {f"lepton_{name}": Ragged.of(offsets, v[order]) for name, v in values.items()}


def _needs(names: Sequence[str], computed: Mapping[str, Computed]) -> list[str]:
    """Return the columns of which some are made, each once."""
    needed = [need for name in names for need in _needed(name, computed)]
    return list(dict.fromkeys(needed))


def _needed(name: str, computed: Mapping[str, Computed]) -> tuple[str, ...]:
    return computed[name].needs if name in computed else (name,)


def _radius(branch: str) -> float:
    """Distance parameter by the name of a branch: 0.8 for AK8; 0.4 where it does not say."""
    found = _RADIUS.search(branch)
    return float(found[1]) / 10 if found else 0.4


def generator_branch(branch: str) -> str:
    """Name the generator jets of the same size: ``JetPUPPIAK8`` → ``GenJetAK8``."""
    return re.sub(r"^(?:Gen)?(?:Fat)?Jet(?:PUPPI|CHS)?", "GenJet", branch)


def _mass(groomed: Any, jets: int) -> Array:  # noqa: ANN401  an awkward array
    """Mass of the first of five Lorentz vectors per jet in GeV; negative as ROOT's are."""
    if not jets:
        return np.zeros(0)
    first = ak.flatten(groomed)[:, 0]
    px, py, pz = (ak.to_numpy(first.fP[name]) for name in ("fX", "fY", "fZ"))
    squared = ak.to_numpy(first.fE) ** 2 - px**2 - py**2 - pz**2
    mass: Array = np.copysign(np.sqrt(np.abs(squared)), squared)
    return mass
