from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
from numpy.typing import NDArray

from hepset.arrays import Ragged, offsets_of
from hepset.readers.assembly import Data, part
from hepset_jetclass.root_tree import VectorTree

ROOT = Path(__file__).parents[4]
SHARED = ROOT.parent / "shared"

Jets = dict[str, Any]
"""Column of JetClass-II → numpy array, or awkward array of lists."""
Write = Callable[[Path, Mapping[str, Any]], str]


@pytest.fixture(scope="session")
def jets_file() -> Path:
    """One hundred public JetClass-II jets."""
    return _public(SHARED / "data" / "jetclass2" / "JetClassII_example.parquet")


@pytest.fixture(scope="session")
def delphes_file() -> Path:
    """Ten public Delphes events."""
    return _public(SHARED / "data" / "jetclass2" / "events_delphes_example.root")


def _public(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"the public file {path.name} is not here")
    return path


def make_jets(jets: int, seed: int) -> Jets:
    """Make up jets of JetClass-II; the second has no constituent and no generator jet."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, jets)
    counts[1] = 0
    total = int(counts.sum())

    def lists(values: NDArray[Any], of: NDArray[Any] = counts) -> ak.Array:
        return ak.unflatten(values, of)

    def number(scale: float = 1.0, size: int = total) -> NDArray[np.float32]:
        return rng.normal(0, scale, size).astype(np.float32)

    px, py, pz = number(20), number(20), number(40)
    kind = rng.integers(0, 5, total)
    charged = np.isin(kind, (0, 1, 3))
    columns: Jets = {
        "part_px": lists(px),
        "part_py": lists(py),
        "part_pz": lists(pz),
        "part_energy": lists(np.sqrt(px**2 + py**2 + pz**2 + np.float32(0.02))),
        "part_deta": lists(number(0.3)),
        "part_dphi": lists(number(0.3)),
        "part_d0val": lists(np.where(charged, number(2), np.float32(0))),
        "part_d0err": lists(np.where(charged, np.abs(number(0.1)), np.float32(0))),
        "part_dzval": lists(np.where(charged, number(2), np.float32(0))),
        "part_dzerr": lists(np.where(charged, np.abs(number(0.1)), np.float32(0))),
        "part_charge": lists(np.where(charged, 1, 0).astype(np.int32)),
    }
    for index, name in enumerate(("Electron", "Muon", "Photon", "ChargedHadron", "NeutralHadron")):
        columns[f"part_is{name}"] = lists(kind == index)
    for name in ("pt", "eta", "phi", "energy", "sdmass"):
        columns[f"jet_{name}"] = np.abs(number(100, jets)) + np.float32(1)
    columns["jet_nparticles"] = counts.astype(np.int32)
    for name in ("tau1", "tau2", "tau3", "tau4"):
        columns[f"jet_{name}"] = np.abs(number(0.1, jets))
    columns["jet_label"] = rng.integers(0, 188, jets).astype(np.int32)
    generated = rng.integers(0, 6, jets)
    for name in ("px", "py", "pz", "energy", "jet_deta", "jet_dphi", "x", "y", "z", "t"):
        values = number(size=int(generated.sum()))
        columns[f"genpart_{name}"] = lists(
            np.abs(values) if name == "energy" else values, generated
        )
    columns["genpart_pid"] = lists(
        rng.choice(np.array([11, 22, 211], np.int32), int(generated.sum())), generated
    )
    matched = np.ones(jets, np.float32)
    matched[1] = 0
    for name in ("pt", "eta", "phi", "energy", "sdmass"):
        columns[f"genjet_{name}"] = (np.abs(number(100, jets)) + np.float32(1)) * matched
    columns["genjet_nparticles"] = generated.astype(np.int32)
    # X alone, X with Y1 and Y2, or a quark of QCD.
    shape = np.arange(jets) % 3
    products = np.array([1, 3, 1])[shape]
    resonances = [(True, False), (True, False, False), (False,)]
    heirs = [(False,), (False, True, True), (False,)]
    quarks = [(False,), (False, False, False), (True,)]
    resonances[0] = (True,)
    size = int(products.sum())
    for name in ("pt", "eta", "phi", "mass"):
        columns[f"aux_genpart_{name}"] = lists(np.abs(number(100, size)), products)
    columns["aux_genpart_pid"] = lists(np.full(size, 25, np.int32), products)
    for name, table in (("isResX", resonances), ("isResY", heirs), ("isQcdParton", quarks)):
        flags = np.concatenate([table[i] for i in shape])
        columns[f"aux_genpart_{name}"] = lists(flags, products)
    for name in ("isResDecayProd", "isTauDecayProd"):
        columns[f"aux_genpart_{name}"] = lists(np.zeros(size, bool), products)
    return columns


def write_parquet(path: Path, columns: Mapping[str, Any]) -> str:
    """Write columns with one row group, as the public files are."""
    table = {name: ak.to_arrow(values, extensionarray=False) for name, values in columns.items()}
    pq.write_table(_table(table), path)
    return str(path)


def write_counters(path: Path, columns: Mapping[str, Any]) -> str:
    """Write a TTree in which every list has a counter."""
    with uproot.recreate(path) as file:
        file.mktree("tree", {name: _type(values) for name, values in columns.items()})
        file["tree"].extend(dict(columns))
    return str(path)


def write_rntuple(path: Path, columns: Mapping[str, Any]) -> str:
    """Write an RNTuple."""
    with uproot.recreate(path) as file:
        file.mkrntuple("tree", ak.Array({name: ak.Array(v) for name, v in columns.items()}))
    return str(path)


def write_vectors(path: Path, columns: Mapping[str, Any]) -> str:
    """Write a TTree of vectors, as the public ROOT files are, in two clusters."""
    data: dict[str, Data] = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            data[name] = values
            continue
        offsets = offsets_of(ak.to_numpy(ak.num(values)))
        data[name] = Ragged.of(offsets, ak.to_numpy(ak.flatten(values)))
    kinds = {}
    for name, column in data.items():
        lists = isinstance(column, Ragged)
        kind = (column.values if isinstance(column, Ragged) else column).dtype.kind
        kinds[name] = (kind, lists)
    with path.open("wb") as file:
        tree = VectorTree(file, kinds)
        rows = len(next(iter(data.values())))
        for start, stop in ((0, rows // 2), (rows // 2, rows)):
            tree.extend({name: part(column, start, stop) for name, column in data.items()})
        tree.close()
    return str(path)


WRITERS: dict[str, Write] = {
    "parquet": write_parquet,
    "vectors.root": write_vectors,
    "counters.root": write_counters,
    "rntuple.root": write_rntuple,
}


def _table(columns: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    return pa.table(dict(columns))


def _type(values: Any) -> Any:
    return values.dtype if isinstance(values, np.ndarray) else values.type.content
