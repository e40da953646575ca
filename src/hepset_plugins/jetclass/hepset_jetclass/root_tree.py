"""Write a ROOT file with one TTree of numbers and ``std::vector``s, the layout of JetClass-II.

uproot writes lists with counters only; files that a ROOT macro made hold vectors, each entry of
which begins with ten bytes of its own. What is written here is the classes TFile 6.24, TTree 20,
TBranch 13, TBranchElement 10 and TBasket 3 of ROOT's documented format, big-endian throughout.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.arrays import Ragged
from hepset.errors import HepsetError
from hepset.readers.assembly import Data

Array = NDArray[Any]

LARGEST: Final = 2_000_000_000
"""Bytes that a file may have; ROOT needs other records for larger ones."""

_BEGIN: Final = 100
_BYTES: Final = 0x4000_0000
_NEW_CLASS: Final = b"\xff\xff\xff\xff"
_ON_HEAP: Final = 0x0300_0000
_UUID: Final = b"\x00\x01" + bytes(16)
_DIRECTORY: Final = 60
"""Bytes of the record of the top directory, space for large files included."""
_IO_FEATURES: Final = struct.pack(">IHIB", _BYTES | 7, 0, 0x1AA1_2F10, 0)
_VECTOR_VERSION: Final = 10
_VECTOR_HEADER: Final = 10
_BASKET_SIZE: Final = 32_000
_BLOCK: Final = 0xFF_FFFF
"""Largest piece that is compressed at once."""


@dataclass(frozen=True)
class Kind:
    """How values of a branch are stored.

    Attributes:
        dtype: In the file.
        letter: ROOT's letter for a number of this kind.
        name: Its C++ name, inside ``vector<…>``.
        checksum: Of the vector's class, as ROOT computes it.
    """

    dtype: np.dtype[Any]
    letter: str
    name: str
    checksum: int


KINDS: Final = {
    "f": Kind(np.dtype(">f4"), "F", "float", 89_790_107),
    "i": Kind(np.dtype(">i4"), "I", "int", 9_976_712),
    "b": Kind(np.dtype("?"), "O", "bool", 29_929_751),
}


@dataclass
class _Branch:
    name: str
    kind: Kind
    is_vector: bool
    entries: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    raw: int = 0
    stored: int = 0


class VectorTree:
    """A TTree that is written basket by basket; `close` completes the file.

    Args:
        file: An empty file, open for writing and seeking.
        columns: Column → (letter of `KINDS`, whether it holds lists).
        name: Name of the tree.
        compression: Level of zlib, 0 for none.
    """

    def __init__(
        self,
        file: IO[bytes],
        columns: Mapping[str, tuple[str, bool]],
        *,
        name: str = "tree",
        compression: int = 1,
    ) -> None:
        self._file = file
        self._name = name
        self._level = compression
        self._when = _datime(datetime.now(UTC))
        self._entries = 0
        self._branches = [_Branch(n, KINDS[k], lists) for n, (k, lists) in columns.items()]
        self._file.write(bytes(_BEGIN))
        # Written again when all places are known; its size does not change.
        self._file.write(self._directory(0, 0))

    def extend(self, columns: Mapping[str, Data]) -> None:
        """Add entries as one basket per branch.

        Raises:
            HepsetError: If the file becomes larger than ROOT's short records allow.
        """
        entries = len(next(iter(columns.values())))
        for branch in self._branches:
            values = columns[branch.name]
            if isinstance(values, Ragged):
                content, starts = _vectors(values, branch.kind)
            else:
                content, starts = values.astype(branch.kind.dtype).tobytes(), None
            self._basket(branch, content, starts, entries)
        self._entries += entries

    def close(self) -> None:
        """Write the tree and the directory."""
        place = self._file.tell()
        title = self._name
        head = len(_key_head("TTree", self._name, title))
        tree = self._tree(head)
        key = self._key("TTree", self._name, title, len(tree), len(tree), place, cycle=1)
        self._file.write(key + tree)
        keys = self._file.tell()
        listed = struct.pack(">i", 1) + key
        self._file.write(
            self._key("TFile", "", "", len(listed), len(listed), keys, cycle=1) + listed
        )
        info = self._file.tell()
        # An empty list of class descriptions: ROOT knows these classes, and warns without a list.
        nothing = _sized(5, struct.pack(">HII", 1, 0, _ON_HEAP) + _text("") + struct.pack(">i", 0))
        record = self._key(
            *("TList", "StreamerInfo", "", len(nothing), len(nothing), info), cycle=1
        )
        self._file.write(record + nothing)
        free = self._file.tell()
        size = len(_key_head("TFile", "", "")) + 10
        end = free + size
        gap = struct.pack(">hii", 1, end, 2_000_000_000)
        self._file.write(self._key("TFile", "", "", 10, 10, free, cycle=1) + gap)
        _require_short(end)
        self._file.seek(_BEGIN)
        self._file.write(self._directory(keys, info - keys))
        self._file.seek(0)
        named = len(_key_head("TFile", "", "")) + 2
        header = (62400, _BEGIN, end, free, size, 1, named, 4, 100 + self._level)
        places = (info, len(record) + len(nothing))
        self._file.write(b"root" + struct.pack(">7iB3i", *header, *places) + _UUID)

    def _directory(self, keys: int, size: int) -> bytes:
        """Return the record of the top directory, which says where the list of keys is."""
        named = len(_key_head("TFile", "", "")) + 2
        numbers = (5, self._when, self._when, size, named, _BEGIN, 0, keys)
        content = bytes(2) + struct.pack(">hIIiiiii", *numbers) + _UUID
        content = content.ljust(_DIRECTORY, b"\0")
        return self._key("TFile", "", "", len(content), len(content), _BEGIN, cycle=1) + content

    def _basket(self, branch: _Branch, content: bytes, starts: Array | None, entries: int) -> None:
        place = self._file.tell()
        _require_short(place + len(content))
        head = len(_key_head("TBasket", branch.name, self._name)) + 19
        last = head + len(content)
        capacity = branch.kind.dtype.itemsize
        if starts is not None:
            offsets = np.append(starts + head, 0).astype(">i4")
            content += struct.pack(">i", len(offsets)) + offsets.tobytes()
            capacity = len(offsets) + 1
        stored = _compress(content, self._level)
        key = self._key(
            *("TBasket", branch.name, self._name, len(content), len(stored), place), extra=19
        )
        own = struct.pack(">HiiiiB", 3, _BASKET_SIZE, capacity, entries, last, 0)
        self._file.write(key + own + stored)
        branch.entries.append(self._entries)
        branch.sizes.append(head + len(stored))
        branch.places.append(place)
        branch.raw += head + len(content)
        branch.stored += head + len(stored)

    def _key(
        self,
        kind: str,
        name: str,
        title: str,
        raw: int,
        stored: int,
        place: int,
        *,
        cycle: int = 0,
        extra: int = 0,
    ) -> bytes:
        names = _text(kind) + _text(name) + _text(title)
        size = 26 + len(names) + extra
        parent = 0 if place == _BEGIN else _BEGIN
        return (
            struct.pack(
                ">ihiIhhii", *(size + stored, 4, raw, self._when, size, cycle, place, parent)
            )
            + names
        )

    def _tree(self, head: int) -> bytes:
        """Return the tree; `head` bytes of its key come before it where ROOT counts from."""
        raw = sum(branch.raw for branch in self._branches)
        stored = sum(branch.stored for branch in self._branches)
        begin = (
            _named(self._name, self._name, 0)
            + _sized(2, struct.pack(">hhh", 602, 1, 1))
            + _sized(2, struct.pack(">hh", 0, 1001))
            + _sized(2, struct.pack(">hhf", 1, 1, 1.0))
            + struct.pack(
                ">5qd5i6q",
                *(self._entries, raw, stored, 0, stored, 1.0, 0, 25, 0, 1000, 0),
                *(10**12, 10**12, 0, -300_000_000, -30_000_000, 1_000_000),
            )
            + b"\0\0"
            + _IO_FEATURES
        )
        # The version of TTree takes 6 bytes, the header of the list of branches 6 + 10 + 1 + 8.
        place = head + 6 + len(begin) + 25
        branches, leaves = [], []
        for branch in self._branches:
            record, leaf = self._branch(branch)
            branches.append(record)
            # ROOT refers to an object by the place of its size, and 2.
            leaves.append(struct.pack(">I", place + leaf + 2))
            place += len(record)
        return _sized(20, begin + _objects(branches) + _objects(leaves) + bytes(28))

    def _branch(self, branch: _Branch) -> tuple[bytes, int]:
        """Return the record of a branch and where its leaf begins in it."""
        kind = branch.kind
        baskets = len(branch.places)
        last = [*branch.entries, self._entries]
        title = branch.name if branch.is_vector else f"{branch.name}/{kind.letter}"
        head = (
            _named(branch.name, title, 0x0050_0000 if branch.is_vector else 0x0040_0000)
            + _sized(2, struct.pack(">hh", 0, 1001))
            + struct.pack(
                ">iiiiq",
                *(100 + self._level, _BASKET_SIZE, 1000 if branch.is_vector else 0),
                *(baskets, self._entries),
            )
            + _IO_FEATURES
            + struct.pack(
                ">iiiqqqq",
                *(0, baskets + 1, 99 if branch.is_vector else 0),
                *(self._entries, 0, branch.raw, branch.stored),
            )
            + _objects([])
        )
        tail = _objects([]) + b"".join(
            b"\x01" + np.array(values, kind_).tobytes()
            for values, kind_ in (
                ([*branch.sizes, 0], ">i4"),
                (last, ">i8"),
                ([*branch.places, 0], ">i8"),
            )
        )
        inner = _sized(13, head + _objects([_leaf(branch)]) + tail + b"\0")
        name = "TBranch"
        # The version of TBranch takes 6 bytes, the header of the list of leaves 6 + 10 + 1 + 8.
        leaf = 6 + len(head) + 25
        if branch.is_vector:
            name = "TBranchElement"
            inner = _sized(
                10,
                inner
                + _text(f"vector<{kind.name}>")
                + b"\0\0"
                + struct.pack(">Ihiiii", kind.checksum, 6, -1, 0, -1, 0)
                + bytes(8),
            )
            leaf += 6
        return _object(name, inner), 8 + len(name) + 1 + leaf


def _require_short(end: int) -> None:
    """Refuse a file that grows beyond what ROOT's short records can say."""
    if end > LARGEST:
        raise HepsetError(
            f"a ROOT file of {end / 1e9:.3g} GB would need records for large files; write several "
            "smaller ones"
        )


def _leaf(branch: _Branch) -> bytes:
    size = 0 if branch.is_vector else branch.kind.dtype.itemsize
    inner = _sized(
        2, _named(branch.name, branch.name, 0) + struct.pack(">iii??I", 1, size, 0, False, False, 0)
    )
    if branch.is_vector:
        return _object("TLeafElement", _sized(1, inner + struct.pack(">ii", -1, -1)))
    limits = {"F": ">ff", "I": ">ii", "O": ">??"}[branch.kind.letter]
    return _object(f"TLeaf{branch.kind.letter}", _sized(1, inner + struct.pack(limits, 0, 0)))


def _vectors(lists: Ragged, kind: Kind) -> tuple[bytes, Array]:
    """Return lists as ROOT streams vectors, and where each of them begins."""
    counts = np.diff(lists.offsets)
    size = kind.dtype.itemsize
    starts = lists.offsets[:-1] * size + _VECTOR_HEADER * np.arange(len(counts))
    header = np.zeros(len(counts), [("bytes", ">u4"), ("version", ">u2"), ("size", ">u4")])
    header["bytes"] = _BYTES | (6 + counts * size).astype(np.uint32)
    header["version"], header["size"] = _VECTOR_VERSION, counts
    out = np.empty(_VECTOR_HEADER * len(counts) + size * int(lists.offsets[-1]), np.uint8)
    is_header = np.zeros(len(out), bool)
    for byte in range(_VECTOR_HEADER):
        is_header[starts + byte] = True
    out[is_header] = header.view(np.uint8)
    out[~is_header] = np.ascontiguousarray(lists.values.astype(kind.dtype)).view(np.uint8)
    return out.tobytes(), starts


def _compress(data: bytes, level: int) -> bytes:
    """Compress as ROOT does, in blocks with headers of nine bytes, where that makes it smaller."""
    if not level:
        return data
    found = b""
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        packed = zlib.compress(block, level)
        sizes = len(packed).to_bytes(3, "little") + len(block).to_bytes(3, "little")
        found += b"ZL\x08" + sizes + packed
    return found if len(found) < len(data) else data


def _sized(version: int, content: bytes) -> bytes:
    return struct.pack(">IH", _BYTES | (len(content) + 2), version) + content


def _named(name: str, title: str, bits: int) -> bytes:
    return _sized(1, struct.pack(">HII", 1, 0, _ON_HEAP | bits) + _text(name) + _text(title))


def _objects(objects: Sequence[bytes]) -> bytes:
    head = struct.pack(">HII", 1, 0, _ON_HEAP) + _text("")
    return _sized(3, head + struct.pack(">ii", len(objects), 0) + b"".join(objects))


def _object(kind: str, content: bytes) -> bytes:
    inner = _NEW_CLASS + kind.encode() + b"\0" + content
    return struct.pack(">I", _BYTES | len(inner)) + inner


def _text(text: str) -> bytes:
    data = text.encode()
    return (bytes([len(data)]) if len(data) < 255 else struct.pack(">BI", 255, len(data))) + data


def _key_head(kind: str, name: str, title: str) -> bytes:
    """Something as long as the key of an object."""
    return bytes(26) + _text(kind) + _text(name) + _text(title)


def _datime(when: datetime) -> int:
    """Return a time as ROOT packs it."""
    date = (when.year - 1995) << 26 | when.month << 22 | when.day << 17
    return date | when.hour << 12 | when.minute << 6 | when.second
