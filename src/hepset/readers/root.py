"""Reader ``root``: TTree or RNTuple with vectors, counters, fixed-size arrays or plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import awkward as ak
import numpy as np
import uproot
from awkward.contents import (
    Content,
    IndexedArray,
    ListArray,
    ListOffsetArray,
    NumpyArray,
    RegularArray,
    UnmaskedArray,
)

from hepset.batch import Array
from hepset.errors import ReadError, did_you_mean
from hepset.readers.assembly import Data, Jagged, part
from hepset.readers.columnar import ColumnarConfig, ColumnarFile, ColumnarReader

_READ_AHEAD = 4096
"""Entries below which a read costs mostly its overhead (measured: 500 cost twice as much)."""
_TREES = ("TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple", "TNtuple", "TNtupleD", "TChain")


class RootConfig(ColumnarConfig):
    """Options of the reader ``root``."""

    tree: str | None = None
    """Path of the TTree or RNTuple in the file; null = the only one there is."""


class RootReader(ColumnarReader):
    """Reads ROOT files through uproot, see `ColumnarReader`."""

    Config: ClassVar[type[RootConfig]] = RootConfig

    def open(self, path: str) -> ColumnarFile:
        """Open one file and find its tree.

        Raises:
            ReadError: If the file is no ROOT file, is damaged, or has not exactly one tree.
        """
        config: RootConfig = self.config  # type: ignore[assignment]
        return RootFile(path, config.tree)


def branch_names(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Name branches of split objects: ``Jet/Jet.PT`` is ``Jet.PT``, unless two have that name."""
    return [
        name if names.count(name) == 1 else path for path, name in zip(paths, names, strict=True)
    ]


@dataclass(frozen=True)
class _Ahead:
    """Entries that were read along with those that were asked for."""

    names: tuple[str, ...]
    start: int
    stop: int
    data: dict[str, Data]

    def holds(self, names: tuple[str, ...], start: int, stop: int) -> bool:
        return names == self.names and self.start <= start and stop <= self.stop


class RootFile(ColumnarFile):
    """One TTree or RNTuple of an open ROOT file."""

    def __init__(self, path: str, tree: str | None) -> None:
        """Open the file; `tree` may be None where there is only one."""
        self.path = path
        self._ahead: _Ahead | None = None
        try:
            self._directory: Any = uproot.open(path)
            classes = self._directory.classnames(recursive=True, cycle=False)
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(path, problem) from problem
        trees = [name for name, kind in classes.items() if kind in _TREES]
        if tree is None:
            if len(trees) != 1:
                self._directory.close()
                listed = f"has several trees: {', '.join(trees)}" if trees else "has no tree"
                raise ReadError(f"{path}: the file {listed}; say which with tree: <name>")
            tree = trees[0]
        elif tree not in trees:
            self._directory.close()
            hint = did_you_mean(tree, trees) or f"; it has {', '.join(trees) or 'none'}"
            raise ReadError(f"{path}: no TTree or RNTuple {tree!r}{hint}")
        try:
            self._tree: Any = self._directory[tree]
            self._entries = int(self._tree.num_entries)
            self._is_ttree = hasattr(self._tree, "branches")
            self._names: list[str] = self._tree.keys()
            if self._is_ttree:
                self._names = branch_names(self._names, self._tree.keys(full_paths=False))
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(path, problem) from problem

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self._entries

    def names(self) -> list[str]:
        """Names of all branches or fields."""
        return self._names

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read branches of a range of entries, all in one go.

        The cost of a read is per branch, so a short range is read with those after it.

        Raises:
            ReadError: If a branch is damaged or has a form that is not supported.
        """
        if stop - start >= _READ_AHEAD:
            return self._read(tuple(names), start, stop)
        ahead = self._ahead
        if ahead is None or not ahead.holds(tuple(names), start, stop):
            end = min(start + _READ_AHEAD, self._entries)
            ahead = _Ahead(tuple(names), start, end, self._read(tuple(names), start, end))
            self._ahead = ahead
        return {
            name: part(data, start - ahead.start, stop - ahead.start)
            for name, data in ahead.data.items()
        }

    def _read(self, names: tuple[str, ...], start: int, stop: int) -> dict[str, Data]:
        limits = {"entry_start": start, "entry_stop": stop}
        found: dict[str, Data] = {}
        try:
            if self._is_ttree:
                arrays = self._tree.arrays(list(names), library="ak", how=dict, **limits)
            else:
                arrays = {name: self._tree[name].array(**limits) for name in names}
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(self.path, problem, f" in entries {start} to {stop - 1}") from problem
        for name in names:
            data = _data(arrays[name].layout)
            if data is None:
                raise ReadError(
                    f"{self.path}: column {name!r} has the type {arrays[name].type.content}; "
                    "numbers, arrays of numbers and lists of numbers can be read"
                )
            if len(data) != stop - start:
                raise ReadError(
                    f"{self.path}: column {name!r} has {len(data)} of the entries {start} to "
                    f"{stop - 1}: the file is damaged or incomplete"
                )
            found[name] = data
        return found

    def close(self) -> None:
        """Close the file."""
        self._ahead = None
        self._directory.close()


def _unreadable(path: str, problem: Exception, where: str = "") -> ReadError:
    reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
    return ReadError(
        f"{path}: cannot be read as ROOT{where}, it may be damaged or incomplete: {reason}"
    )


def _data(layout: Content) -> Data | None:
    """Return an awkward layout as numpy arrays without copying; None where it is too nested."""
    layout = _plain(layout)
    if layout.parameter("__array__") == "string":
        text: Array = ak.to_numpy(ak.Array(layout))
        return text
    if isinstance(layout, NumpyArray):
        values: Array = np.asarray(layout.data)
        return values
    if isinstance(layout, RegularArray):
        inner = _data(layout.content)
        if inner is None or isinstance(inner, Jagged):
            return None
        size = int(layout.size)
        return inner[: len(layout) * size].reshape(len(layout), size, *inner.shape[1:])
    if isinstance(layout, ListArray | ListOffsetArray):
        lists = layout.to_ListOffsetArray64(True)
        offsets: Array = np.asarray(lists.offsets.data)
        content = _data(lists.content[: int(offsets[-1])])
        if content is None or isinstance(content, Jagged):
            return None
        return Jagged(offsets, content)
    return None


def _plain(layout: Content) -> Content:
    """Look through wrappers that change no value."""
    while isinstance(layout, IndexedArray | UnmaskedArray):
        layout = layout.project() if isinstance(layout, IndexedArray) else layout.content
    return layout
