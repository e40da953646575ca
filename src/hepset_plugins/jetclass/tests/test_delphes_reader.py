from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

import hepset
from hepset.batch import EventBatch, concatenate
from hepset.errors import ConfigurationError, ReadError
from hepset.testing import check_reader

from .conftest import make_jets, write_parquet


def open_events(path: Path, event: Any = None, **options: Any) -> Any:
    return hepset.open_reader("delphes", files=str(path), event=event, **options)


def whole(reader: Any) -> EventBatch:
    return concatenate(reader)


@pytest.mark.slow
def test_jets_conform(delphes_file: Path) -> None:
    reader = open_events(delphes_file, truth=["gen_jet", "gen_particles"], chunk_size=4)
    check_reader(reader, every_entry=False, entries=2, sizes=(1,))


@pytest.mark.slow
def test_events_conform(delphes_file: Path) -> None:
    check_reader(open_events(delphes_file, unit="event", chunk_size=4), entries=2, sizes=(1,))


def test_all_constituents_of_puppi_jets_are_found(delphes_file: Path) -> None:
    batch = whole(open_events(delphes_file))
    assert len(batch) == 22
    particles = batch.flat("particles")
    begin = particles.offsets[:-1]
    px, py = (np.add.reduceat(particles.columns[n], begin, dtype=float) for n in ("px", "py"))
    assert np.abs(np.hypot(px, py) / batch["jet"][:, 0] - 1).max() < 1e-6
    # 909 are referred to, of which 137 have a PUPPI weight of 0.
    assert len(particles.columns["px"]) == 909 - 137
    kinds = ("electron", "muon", "photon", "charged_hadron", "neutral_hadron")
    flags = [particles.columns[f"is_{kind}"] for kind in kinds]
    assert (np.sum(flags, axis=0) == 1).all()
    pt = np.hypot(particles.columns["px"], particles.columns["py"])
    inside = np.ones(len(pt), bool)
    inside[begin] = False
    assert (np.diff(pt, prepend=0)[inside] <= 1e-3).all()
    sample = [tuple(row) for row in batch.ids[["entry", "sample"]][:4].tolist()]
    assert sample == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_jets_are_described_as_those_of_jetclass(delphes_file: Path, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "jets.parquet", make_jets(5, 1))
    event = hepset.open_reader("jetclass", files=path).event_info()
    mine = open_events(delphes_file).event_info()
    assert mine.streams == event.streams
    assert mine.globals == event.globals
    batch = whole(open_events(delphes_file, event))
    assert "target/label" not in batch
    assert batch["jet"].shape == (22, 9)


@pytest.mark.parametrize("branch", ["JetPUPPI", "JetPUPPIAK15", "GenJetAK8", "GenJet"])
def test_any_jets_are_read(branch: str, delphes_file: Path) -> None:
    batch = whole(open_events(delphes_file, jets=branch))
    counts = uproot.open(delphes_file)["Delphes"][f"{branch}_size"].array()
    assert len(batch) == sum(counts)
    assert (batch.flat("particles").counts > 0).mean() > 0.9


def test_lost_constituents_are_refused_or_counted(
    delphes_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    message = r"JetAK8: 1102 of 1118 constituents are not in ParticleFlowCandidate \(first: entry 0"
    with pytest.raises(ReadError, match=message):
        whole(open_events(delphes_file, jets="JetAK8"))
    with caplog.at_level(logging.WARNING):
        batch = whole(open_events(delphes_file, jets="JetAK8", unresolved="drop"))
    assert "1102 constituents of the events from 0 on are in no branch" in caplog.text
    assert len(batch) == 22
    with pytest.raises(ReadError, match=r"no branch 'JetPUPPIAK9'; did you mean"):
        whole(open_events(delphes_file, jets="JetPUPPIAK9"))


def test_events_have_jets_leptons_and_missing_momentum(delphes_file: Path) -> None:
    reader = open_events(delphes_file, unit="event", jets="JetAK8")
    batch = whole(reader)
    tree = uproot.open(delphes_file)["Delphes"]
    pt = tree["JetAK8/JetAK8.PT"].array()
    assert list(batch.flat("jets").counts) == [len(event) for event in pt]
    assert np.array_equal(batch["met"][:, 0], np.ravel(tree["MissingET/MissingET.MET"].array()))
    numbers = sum(
        np.array([len(e) for e in tree[f"{kind}/{kind}.PT"].array()])
        for kind in ("Electron", "Muon")
    )
    assert np.array_equal(batch.flat("leptons").counts, numbers)
    event = {"streams": {"truth": {"features": ["pt", "pid"]}}}
    columns = {"streams.truth.pt": "Particle.PT", "streams.truth.pid": "Particle.PID"}
    mapped = whole(open_events(delphes_file, event, unit="event", columns=columns))
    assert mapped.flat("truth").counts[0] == len(tree["Particle/Particle.PT"].array()[0])


def test_options_of_jets_do_not_fit_events(delphes_file: Path) -> None:
    for options in ({"truth": ["gen_jet"]}, {"radius": 0.3}, {"unresolved": "drop"}):
        with pytest.raises(ConfigurationError, match=f"'{next(iter(options))}': belongs to unit"):
            open_events(delphes_file, unit="event", **options)


def test_branches_that_are_not_there_are_named(delphes_file: Path) -> None:
    with pytest.raises(ReadError, match=r"no branch 'GenJetAK88'; did you mean 'GenJetAK8'"):
        whole(open_events(delphes_file, gen_jets="GenJetAK88"))
    with pytest.raises(ReadError, match=r"example.root: no jets 'JetPUPI'; did you mean 'JetPUPPI"):
        whole(open_events(delphes_file, unit="event", jets="JetPUPI"))


def test_other_root_files_are_refused(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "other.root") as file:
        file.mktree("Delphes", {"pt": "float32"})
        file["Delphes"].extend({"pt": np.ones(2, np.float32)})
    with pytest.raises(ReadError, match=r"other.root: no branch 'JetPUPPIAK8'"):
        open_events(tmp_path / "other.root").event_info()
    with pytest.raises(ReadError, match=r"other.root: no jets 'JetPUPPI' or 'Jet'"):
        open_events(tmp_path / "other.root", unit="event").event_info()
