"""Data sets on disk: a directory of Parquet shards that explains itself."""

from __future__ import annotations

from hepset.dataset.columns import ColumnLayout
from hepset.dataset.dataset import Dataset, Split, open_dataset
from hepset.dataset.manifest import DATASET_FORMAT, Manifest
from hepset.dataset.shards import ShardFile, ShardRecord

__all__ = [
    "DATASET_FORMAT",
    "ColumnLayout",
    "Dataset",
    "Manifest",
    "ShardFile",
    "ShardRecord",
    "Split",
    "open_dataset",
]
