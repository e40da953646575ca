"""Make as many jets as are wanted of the public hundred, each turned and scaled on its own.

Turning in φ and scaling all momenta leaves the physics alone and keeps the numbers of a jet from
being those of its copies, which would compress far better than real files do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hepset.readers.assembly import Data, Jagged, part
from hepset_jetclass.root_tree import VectorTree

Array = NDArray[Any]

_CLUSTER = 10_000
_LABELS = 188
_SCALED = ("part_px", "part_py", "part_pz", "part_energy", "jet_pt", "jet_energy", "jet_sdmass")
_JITTERED = ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")


def make_table(source: Path, jets: int, seed: int = 1) -> pa.Table:
    """Return jets in the columns and types of the public file.

    The public hundred have no jet of some groups of labels, which no reweighting could draw; each
    jet made of them gets one of all labels at random.
    """
    public = pq.read_table(source).replace_schema_metadata(None)
    rng = np.random.default_rng(seed)
    table = public.take(pa.array(rng.integers(0, len(public), jets))).combine_chunks()
    offsets = table["part_px"].chunk(0).offsets.to_numpy()
    counts = np.diff(offsets)
    turn = rng.uniform(-np.pi, np.pi, jets).astype(np.float32)
    scale = rng.uniform(0.95, 1.05, jets).astype(np.float32)

    def content(name: str) -> Array:
        column = table[name].chunk(0)
        values = column.flatten() if pa.types.is_list(column.type) else column
        found: Array = values.to_numpy(zero_copy_only=False)
        return found

    def of_objects(values: Array, name: str) -> Array:
        return np.repeat(values, counts) if name.startswith("part_") else values

    changed = {name: content(name) * of_objects(scale, name) for name in _SCALED}
    cos, sin = (np.repeat(f(turn), counts) for f in (np.cos, np.sin))
    px, py = changed["part_px"], changed["part_py"]
    changed["part_px"], changed["part_py"] = px * cos - py * sin, px * sin + py * cos
    for name in _JITTERED:
        changed[name] = content(name) * rng.uniform(0.9, 1.1, len(px)).astype(np.float32)
    changed["jet_label"] = rng.integers(0, _LABELS, jets)
    columns = []
    for name in table.column_names:
        column = table[name].chunk(0)
        if name in changed:
            values = pa.array(changed[name].astype(np.int32 if name == "jet_label" else np.float32))
            lists = name.startswith("part_")
            column = (
                pa.ListArray.from_arrays(pa.array(offsets), values, type=column.type)
                if lists
                else values
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=table.schema)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write one row group with ZSTD and without dictionaries, as the published files have it."""
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=len(table))


def write_root(table: pa.Table, path: Path) -> None:
    """Write a TTree of vectors in clusters, with ROOT's usual compression, as a macro does."""
    columns = {name: _column(table[name].combine_chunks()) for name in table.column_names}
    kinds = {}
    for name, column in columns.items():
        lists = isinstance(column, Jagged)
        kinds[name] = ((column.content if isinstance(column, Jagged) else column).dtype.kind, lists)
    with path.open("wb") as file:
        tree = VectorTree(file, kinds)
        for start in range(0, len(table), _CLUSTER):
            stop = min(start + _CLUSTER, len(table))
            tree.extend({name: part(column, start, stop) for name, column in columns.items()})
        tree.close()


def _column(column: pa.Array) -> Data:
    if not pa.types.is_list(column.type):
        values: Array = column.to_numpy(zero_copy_only=False)
        return values
    offsets = column.offsets.to_numpy().astype(np.int64)
    return Jagged(offsets - offsets[0], column.flatten().to_numpy(zero_copy_only=False))
