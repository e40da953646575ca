"""``cache: mmap``: the tensors of a split as uncompressed files that are mapped into memory.

Made once, on first use, in ``.cache/`` of the data set's directory, one ``.npy`` per tensor in the
stored element type, and found again by the digest of the data set. Rows can then be read in any
order. Deleting the folder is always safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import ID_DTYPE
from hepset.dataset.columns import Column, empty_column
from hepset.errors import DatasetError
from hepset.files import temporary_path

if TYPE_CHECKING:
    from hepset.dataset.dataset import Split

CACHE: Final = ".cache"
IDS: Final = "ids"


def expand(split: Split, names: Sequence[str]) -> tuple[Array, dict[str, Column]]:
    """Map the tensors of a split into memory, writing what is not there yet.

    Processes that start at the same time may each write; every file appears complete or not at
    all, with the same bytes.

    Args:
        split: The split.
        names: Names of tensors.

    Returns:
        The ids and the tensors as they are stored, all rows in the order of the files.

    Raises:
        DatasetError: If the files cannot be written.
    """
    folder = split.dataset.path / CACHE / split.dataset.manifest.plan[:32] / split.name
    stored = [name for name in names if split.layouts[name].layout != "empty"]
    missing = [name for name in (IDS, *stored) if not _is_complete(folder, split, name)]
    if missing:
        _write(folder, split, missing)
    found: dict[str, Column] = {}
    for name in names:
        layout = split.layouts[name]
        if layout.layout == "empty":
            found[name] = np.zeros((len(split), *layout.shape), layout.stored)
        elif layout.layout == "jagged":
            found[name] = Ragged.of(_map(folder, f"{name} offsets"), _map(folder, name))
        else:
            found[name] = _map(folder, name)
    return _map(folder, IDS), found


def _path(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='')}.npy"


def _is_complete(folder: Path, split: Split, name: str) -> bool:
    jagged = name != IDS and split.layouts[name].layout == "jagged"
    names = (name, f"{name} offsets") if jagged else (name,)
    return all(_path(folder, part).is_file() for part in names)


def _map(folder: Path, name: str) -> Array:
    # Copy on write: torch wants writable memory, and the file stays as it is.
    found: Array = np.load(_path(folder, name), mmap_mode="c")
    return found


def _write(folder: Path, split: Split, names: Sequence[str]) -> None:
    tensors = [name for name in names if name != IDS]
    files: dict[str, _ArrayFile] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name == IDS:
                files[name] = _ArrayFile(_path(folder, name), np.zeros(0, ID_DTYPE))
                continue
            empty = empty_column(split.layouts[name])
            if isinstance(empty, Ragged):
                files[name] = _ArrayFile(_path(folder, name), empty.values)
                offsets = f"{name} offsets"
                files[offsets] = _ArrayFile(_path(folder, offsets), empty.offsets)
                files[offsets].append(np.zeros(1, np.int64))
            else:
                files[name] = _ArrayFile(_path(folder, name), empty)
        for ids, columns in split.groups(tensors):
            if IDS in files:
                files[IDS].append(ids)
            for name, column in columns.items():
                if isinstance(column, Ragged):
                    before = files[name].rows
                    files[name].append(column.values)
                    files[f"{name} offsets"].append(column.offsets[1:] + before)
                else:
                    files[name].append(column)
        for file in files.values():
            file.finish()
    except OSError as problem:
        raise DatasetError(
            f"{folder}: the shards cannot be expanded there: {problem}; copy the data set to a "
            "local disk with room, or set train.cache: none"
        ) from problem
    finally:
        for file in files.values():
            file.discard()


class _ArrayFile:
    """An ``.npy`` file that grows by rows and appears under its name when it is finished."""

    _HEADER = 128

    def __init__(self, path: Path, empty: Array) -> None:
        self.path = path
        self.rows = 0
        self._empty = empty
        self._temporary = temporary_path(path)
        self._file: IO[bytes] = self._temporary.open("wb")
        self._file.write(b" " * self._HEADER)

    def append(self, rows: Array) -> None:
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def finish(self) -> None:
        """Write the header, now that the number of rows is known, and show the file."""
        shape = (self.rows, *self._empty.shape[1:])
        dtype = np.lib.format.dtype_to_descr(self._empty.dtype)
        text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode("latin1")
        lead = np.lib.format.magic(1, 0)
        length = self._HEADER - len(lead) - 2
        header = lead + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"
        if len(header) != self._HEADER:
            raise DatasetError(f"{self.path.name}: dtype {dtype} has too long a description")
        self._file.seek(0)
        self._file.write(header)
        self._file.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Close and remove what was not finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
