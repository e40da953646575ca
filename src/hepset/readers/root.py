"""Reader ``root``: TTree or RNTuple with vectors, counters, fixed-size arrays or plain numbers."""

from __future__ import annotations

from collections import OrderedDict
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

from hepset.arrays import Array, Ragged
from hepset.errors import ReadError, did_you_mean
from hepset.interfaces.remote import file_system, is_address
from hepset.readers.assembly import Data, joined, part
from hepset.readers.baskets import Baskets
from hepset.readers.columnar import ColumnarConfig, ColumnarFile, ColumnarReader

_READ_AHEAD = 4096
"""Entries below which a read costs mostly its overhead (measured: 500 cost twice as much)."""
_HELD_BYTES = 256 << 20
"""Compressed size up to which a cluster is decompressed once and held for the chunks in it."""
_HELD = 2
"""Sets of columns for which a cluster is held: those that decide, and those of chosen events."""
_TREES = ("TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple", "TNtuple", "TNtupleD", "TChain")


class RootConfig(ColumnarConfig):
    """Options of the reader ``root``."""

    tree: str | None = None
    """Path of the TTree or RNTuple in the file; null = the only one there is."""


class RootReader(ColumnarReader):
    """Reads ROOT files through uproot, see `ColumnarReader`."""

    Config: ClassVar[type[RootConfig]] = RootConfig

    @classmethod
    def guess(cls, path: str) -> float:
        """Take files by their name, ``.root``."""
        return 0.5 if path.lower().endswith(".root") else 0.0

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

    start: int
    stop: int
    data: dict[str, Data]

    def part(self, start: int, stop: int) -> dict[str, Data]:
        """Return a range of the entries, without copying."""
        if (start, stop) == (self.start, self.stop):
            return self.data
        return {
            n: part(data, start - self.start, stop - self.start) for n, data in self.data.items()
        }


class RootFile(ColumnarFile):
    """One TTree or RNTuple of an open ROOT file."""

    def __init__(self, path: str, tree: str | None) -> None:
        """Open the file; `tree` may be None where there is only one."""
        self.path = path
        self._ahead: OrderedDict[tuple[str, ...], _Ahead] = OrderedDict()
        self._edges: dict[tuple[str, ...], Array] = {}
        if is_address(path):
            file_system(path)  # names the package that is missing
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
            self._entry_bytes = self._directory.file.source.num_bytes / max(self._entries, 1)
            self._is_ttree = hasattr(self._tree, "branches")
            self._names: list[str] = self._tree.keys()
            if self._is_ttree:
                self._names = branch_names(self._names, self._tree.keys(full_paths=False))
            local = self._is_ttree and not is_address(path)
            self._baskets = Baskets(path, self._tree) if local else None
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(path, problem) from problem

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self._entries

    @property
    def tree(self) -> Any:  # noqa: ANN401  uproot publishes no types
        """The TTree or RNTuple itself, for readers of what is no list of numbers."""
        return self._tree

    def names(self) -> list[str]:
        """Names of all branches or fields."""
        return self._names

    def holds_lists(self, name: str) -> bool:
        """Whether a branch has a list per entry, as far as its type tells."""
        kind: str = self._tree[name].typename
        return "vector<" in kind or kind.endswith("[]")

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read branches of a range of entries, all in one go.

        Compressed data come in clusters of entries: a cluster that is begun is read to its end, and
        what is left of it kept for the next range.

        Raises:
            ReadError: If a branch is damaged or has a form that is not supported.
        """
        wanted = tuple(names)
        found: list[dict[str, Data]] = []
        at = start
        ahead = self._ahead.get(wanted)
        if ahead is not None and ahead.start <= start < ahead.stop:
            at = min(stop, ahead.stop)
            found.append(ahead.part(start, at))
        if at < stop or not found:
            end = self._end(wanted, at, stop)
            read = _Ahead(at, end, self._read(wanted, at, end))
            found.append(read.part(at, stop))
            self._ahead.pop(wanted, None)
            if end > stop:
                self._ahead[wanted] = read
            while len(self._ahead) > _HELD:
                self._ahead.popitem(last=False)
        if len(found) == 1:
            return found[0]
        return {name: joined([part[name] for part in found]) for name in names}

    def _end(self, names: tuple[str, ...], start: int, stop: int) -> int:
        """Where to end a read of `start` to `stop`: at the end of a cluster if that is near."""
        if start == stop:
            return stop
        if names not in self._edges:
            self._edges[names] = self._cluster_edges(names)
        edges = self._edges[names]
        end = int(edges[np.searchsorted(edges, stop)])
        if (end - stop) * self._entry_bytes > _HELD_BYTES:
            end = stop
        return min(max(end, start + _READ_AHEAD), self._entries)

    def block_start(self, entry: int) -> int:
        """First entry of the cluster that holds an entry."""
        if () not in self._edges:
            self._edges[()] = self._cluster_edges(tuple(self._names))
        edges = self._edges[()]
        return int(edges[np.searchsorted(edges, entry, side="right") - 1])

    def _cluster_edges(self, names: tuple[str, ...]) -> Array:
        """Entries at which compressed blocks of all columns end, the last entry included."""
        try:
            if self._is_ttree:
                chosen = set(names)
                found = self._tree.common_entry_offsets(
                    filter_branch=lambda branch: (
                        branch.name in chosen or branch.object_path.rpartition(":")[2] in chosen
                    )
                )
            else:
                found = [cluster.num_first_entry for cluster in self._tree.cluster_summaries]
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(self.path, problem) from problem
        return np.unique([*found, self._entries])

    def _read(self, names: tuple[str, ...], start: int, stop: int) -> dict[str, Data]:
        limits = {"entry_start": start, "entry_stop": stop}
        found: dict[str, Data] = {}
        try:
            if self._baskets is not None:
                whole = ((name, self._baskets.read(name, start, stop)) for name in names)
                found = {name: data for name, data in whole if data is not None}
            others = [name for name in names if name not in found]
            if self._is_ttree and others:
                arrays = self._tree.arrays(others, library="ak", how=dict, **limits)
            else:
                arrays = {name: self._tree[name].array(**limits) for name in others}
        except Exception as problem:  # damaged bytes fail in any way
            raise _unreadable(self.path, problem, f" in entries {start} to {stop - 1}") from problem
        for name in names:
            data = found[name] if name in found else _data(arrays[name].layout)
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
        self._ahead.clear()
        if self._baskets is not None:
            self._baskets.close()
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
        if inner is None or isinstance(inner, Ragged):
            return None
        size = int(layout.size)
        return inner[: len(layout) * size].reshape(len(layout), size, *inner.shape[1:])
    if isinstance(layout, ListArray | ListOffsetArray):
        lists = layout.to_ListOffsetArray64(True)
        offsets: Array = np.asarray(lists.offsets.data)
        content = _data(lists.content[: int(offsets[-1])])
        if content is None or isinstance(content, Ragged):
            return None
        return Ragged.of(offsets, content)
    return None


def _plain(layout: Content) -> Content:
    """Look through wrappers that change no value."""
    while isinstance(layout, IndexedArray | UnmaskedArray):
        layout = layout.project() if isinstance(layout, IndexedArray) else layout.content
    return layout
