from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from hepset.arrays import Ragged
from hepset.batch import make_ids
from hepset.dataset import Dataset, Manifest, open_dataset
from hepset.dataset.columns import Column, extra_layout, tensor_layout
from hepset.dataset.manifest import SampleRecord, SourceRecord, SplitRecord, SplitRule
from hepset.dataset.shards import write_shard
from hepset.schema.config import SplitConfig
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, Statistics, TensorStatistics


class WriteDataset(Protocol):
    def __call__(
        self,
        event: EventInfo,
        splits: Mapping[str, Mapping[str, Any]],
        *,
        shards: int = 2,
        group: int = 100,
        jagged: frozenset[str] = frozenset(),
    ) -> Dataset: ...


def _column_statistics(values: np.ndarray) -> ColumnStatistics:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return ColumnStatistics(non_finite=values.size)
    return ColumnStatistics(
        count=finite.size,
        mean=finite.mean(),
        m2=((finite - finite.mean()) ** 2).sum(),
        minimum=finite.min(),
        maximum=finite.max(),
        non_finite=values.size - finite.size,
    )


def _steps(values: np.ndarray, steps: tuple[str, ...]) -> np.ndarray:
    for step in steps:
        if step in {"log1p", "log"}:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = getattr(np, step)(values.astype(np.float64))
        elif step == "asinh":
            values = np.arcsinh(values.astype(np.float64) / 2)
    return values


def _statistics(contract: Contract, tensors: Mapping[str, Any]) -> Statistics:
    found = {}
    for spec in contract.of_kind("stream", "global", "target"):
        values = tensors.get(spec.name)
        if values is None or not spec.features:
            continue
        mask = tensors.get(f"{spec.name}.mask", np.ones(values.shape[: values.ndim - 1], bool))
        columns = {
            name: values[..., i][mask] if name else values for i, name in enumerate(spec.features)
        }
        found[spec.name] = TensorStatistics(
            columns={name: _column_statistics(part) for name, part in columns.items()},
            transformed={
                name: _column_statistics(_steps(part, spec.features[name].transform))
                for name, part in columns.items()
            },
        )
    return Statistics(events=len(next(iter(tensors.values()))), tensors=found)


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write a data set from whole tensors, row i of a split having the id (0, i, 0)."""

    def write(
        event: EventInfo,
        splits: Mapping[str, Mapping[str, Any]],
        *,
        shards: int = 2,
        group: int = 100,
        jagged: frozenset[str] = frozenset(),
    ) -> Dataset:
        directory = tmp_path / "dataset"
        directory.mkdir()
        train = splits["train"]
        slots = {
            name: train[name].shape[1] for name in event.streams if not isinstance(train[name], int)
        }
        contract = compile_contract(event).resolve(slots=slots)
        layouts = {}
        for name, values in train.items():
            if name in contract:
                layouts[name] = tensor_layout(contract, contract[name], jagged=jagged)
            else:
                layouts[name] = extra_layout(name, values.dtype, values.shape[1:])
        records = {}
        for split, tensors in splits.items():
            total = len(next(iter(tensors.values())))
            edges = np.linspace(0, total, shards + 1).astype(int)
            files = []
            for number, (low, high) in enumerate(pairwise(edges)):
                blocks = []
                for start in range(low, high, group):
                    stop = min(start + group, high)
                    rows: dict[str, Column] = {}
                    for name, layout in layouts.items():
                        values = tensors[name][start:stop]
                        if layout.layout == "jagged":
                            mask = tensors[layout.mask][start:stop]
                            offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
                            rows[name] = Ragged.of(offsets.astype(np.int64), values[mask])
                        elif layout.layout == "counts":
                            rows[name] = values.sum(1)
                        else:
                            rows[name] = values
                    blocks.append((make_ids(0, range(start, stop)), rows))
                path = directory / f"{split}-{number:05d}.parquet"
                files.append(write_shard(path, layouts, blocks))
            records[split] = SplitRecord(rows=total, shards=tuple(files))
        manifest = Manifest(
            plan="0123456789abcdef" * 2,
            seed=0,
            contract=contract,
            event=event,
            columns=tuple(layouts.values()),
            splits=records,
            split_rule=SplitRule(config=SplitConfig(), seed=0, hashed=("entry",)),
            sources=(SourceRecord(key="made.h5", entries=10**6, sample=0),),
            samples=(SampleRecord(label="made", reader="none"),),
            statistics=_statistics(contract, train),
        )
        manifest.write(directory)
        return open_dataset(directory)

    return write
