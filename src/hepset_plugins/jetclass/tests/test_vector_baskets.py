"""Vectors as a ROOT macro writes them, taken out of the baskets without uproot's arrays."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.arrays import Ragged, offsets_of
from hepset.errors import ReadError
from hepset.readers.assembly import Data, part
from hepset.readers.root import RootFile
from hepset_jetclass.root_tree import VectorTree

KINDS = {"x": ("f", True), "n": ("i", True), "yes": ("b", True), "pt": ("f", False)}


def jets(entries: int, seed: int) -> dict[str, Data]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, entries)
    offsets = offsets_of(counts)
    total = int(offsets[-1])
    return {
        "x": Ragged.of(offsets, rng.normal(size=total).astype(np.float32)),
        "n": Ragged.of(offsets, rng.integers(-9, 9, total).astype(np.int32)),
        "yes": Ragged.of(offsets, rng.random(total) < 0.5),
        "pt": rng.random(entries).astype(np.float32),
    }


def write(path: Path, columns: dict[str, Data], edges: list[int], compression: int) -> None:
    with path.open("wb") as file:
        tree = VectorTree(file, KINDS, compression=compression)
        for start, stop in itertools.pairwise(edges):
            tree.extend({name: part(data, start, stop) for name, data in columns.items()})
        tree.close()


def same(found: Data, expected: Data) -> None:
    if isinstance(expected, Ragged):
        assert isinstance(found, Ragged)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        found, expected = found.values, expected.values
    assert not isinstance(found, Ragged)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    compression=st.integers(0, 1),
    data=st.data(),
)
def test_any_range_of_any_baskets(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    seed: int,
    compression: int,
    data: st.DataObject,
) -> None:
    entries = sum(sizes)
    columns = jets(entries, seed)
    path = tmp_path_factory.mktemp("baskets") / "jets.root"
    write(path, columns, [0, *np.cumsum(sizes).tolist()], compression)
    start = data.draw(st.integers(0, entries))
    stop = data.draw(st.integers(start, entries))
    file = RootFile(str(path), None)
    try:
        for limits in ((start, stop), (0, entries)):
            found = file.read(list(KINDS), *limits)
            for name, column in columns.items():
                same(found[name], part(column, *limits))
            baskets = file._baskets
            assert baskets is not None
            assert None not in baskets._forms.values()
        block = file.block_start(entries - 1)
        assert block == entries - sizes[-1]
    finally:
        file.close()


@pytest.mark.parametrize("where", [0.3, 0.7])
def test_damaged_baskets_name_the_file(tmp_path: Path, where: float) -> None:
    path = tmp_path / "jets.root"
    write(path, jets(2000, 1), [0, 2000], 1)
    raw = bytearray(path.read_bytes())
    place = int(where * len(raw))
    raw[place : place + 200] = bytes(200)
    path.write_bytes(bytes(raw))
    broken: list[Any] = []
    for name in KINDS:
        file = RootFile(str(path), None)
        try:
            file.read([name], 0, 2000)
        except ReadError as problem:
            broken.append(str(problem))
        finally:
            file.close()
    assert broken
    assert all("jets.root: cannot be read as ROOT in entries 0 to 1999" in m for m in broken)
