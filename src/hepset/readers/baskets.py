"""`Baskets`: numbers and lists of numbers of a local TTree, straight from its baskets.

uproot finds the tree, its branches and what they hold. The baskets, which are most of the work, are
decompressed into one block, and the values taken out of it in one go, without the headers that a
``std::vector`` has in front of each entry. Branches of one length share the places of their values.

What has another form is left to uproot: other types, lists without the place of each entry in the
basket, baskets inside the tree, other compressions. A basket is ROOT's ``TBasket``: a key, then
compressed blocks with headers of nine bytes; uncompressed, the values and, for lists, the place of
each entry.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cramjam
import numpy as np
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from hepset.arrays import Array, Ragged, offsets_of
from hepset.readers.assembly import Data, joined, part

_KEY: Final = struct.Struct(">ihiIh")
_BASKET: Final = struct.Struct(">hiiii")
_BLOCK_HEADER: Final = 9
"""Bytes in front of a compressed block: algorithm, method, compressed and uncompressed size."""
_DECOMPRESS: Final[dict[bytes, Callable[[Any, Any], int]]] = {
    b"ZL": cramjam.zlib.decompress_into,
    b"ZS": cramjam.zstd.decompress_into,
}


class _OtherForm(Exception):
    """A basket is of a form that is left to uproot."""


@dataclass(frozen=True)
class _Form:
    """What the values of a branch are.

    Attributes:
        stored: Type in the file.
        header: Bytes before the values of each entry; None where an entry is one number.
    """

    stored: np.dtype[Any]
    header: int | None


@dataclass(frozen=True)
class _Places:
    """Where the values of the lists in a basket stand.

    Attributes:
        ends: Byte at which each entry begins, and the last one ends.
        offsets: Number of values before each entry.
        shift: By how many bytes the values of some entries miss whole places; 0 = of none.
        index: Value → its place; with a shift, places of the second copy follow those of the first.
    """

    ends: Array
    offsets: Array
    shift: int
    index: Array


def _read_at(file: int, size: int, place: int) -> bytes:
    """Read from a place, if possible without a position that threads or processes share."""
    if hasattr(os, "pread"):
        return os.pread(file, size, place)
    os.lseek(file, place, os.SEEK_SET)
    return os.read(file, size)


class Baskets:
    """The branches of one TTree of a local file.

    Args:
        path: Path of the file.
        tree: The tree, as uproot has it.
    """

    def __init__(self, path: str, tree: Any) -> None:  # noqa: ANN401  uproot publishes no types
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._closer = weakref.finalize(self, os.close, self._file)
        self._tree = tree
        self._forms: dict[str, _Form | None] = {}
        self._places: dict[tuple[int, int], _Places] = {}

    def close(self) -> None:
        """Close the file."""
        self._closer()
        self._file = -1
        self._places.clear()

    def read(self, name: str, start: int, stop: int) -> Data | None:
        """Read a range of entries of a branch; None where that is left to uproot.

        Raises:
            ValueError: If a basket is damaged.
            OSError: If the file cannot be read.
        """
        branch = self._tree[name]
        if name not in self._forms:
            self._forms[name] = _form(branch)
        form = self._forms[name]
        if form is None or start == stop:
            return None
        edges = np.asarray(branch.entry_offsets)
        first = int(np.searchsorted(edges, start, side="right")) - 1
        last = int(np.searchsorted(edges, stop, side="left"))
        if not 0 <= first < last < len(edges):
            return None
        seeks, sizes = branch.member("fBasketSeek"), branch.member("fBasketBytes")
        found: list[Data] = []
        try:
            for number in range(first, last):
                begin, end = int(edges[number]), int(edges[number + 1])
                raw = _read_at(self._file, int(sizes[number]), int(seeks[number]))
                whole = self._values(raw, form, end - begin)
                found.append(part(whole, max(start - begin, 0), min(stop, end) - begin))
        except _OtherForm:
            self._forms[name] = None
            return None
        return found[0] if len(found) == 1 else joined(found)

    def _values(self, raw: bytes, form: _Form, entries: int) -> Data:
        """Decode all entries of a basket."""
        if len(raw) < _KEY.size:
            raise ValueError("the file ends before a basket")
        size, _, length, _, key = _KEY.unpack_from(raw)
        if size != len(raw) or not _KEY.size + _BASKET.size < key <= size:
            raise ValueError(f"a basket of {len(raw)} bytes says that it has {size}")
        counted, last = _BASKET.unpack_from(raw, key - _BASKET.size - 1)[3:]
        border = last - key
        if counted != entries or not 0 <= border <= length:
            raise ValueError(f"a basket of {entries} entries says that it has {counted}")
        stored, width = form.stored, form.stored.itemsize
        native = stored.newbyteorder("=")
        if form.header is None:
            block = _decompressed(raw, key, length, length)
            if not border == length == entries * width:
                raise _OtherForm
            return block.view(stored).astype(native)
        room = -(-length // width) * width
        block = _decompressed(
            raw, key, length, room if form.header == 0 or width == 1 else 2 * room
        )
        if length - border != 4 * (entries + 2):
            raise _OtherForm
        ends = block[border:length].copy().view(">i4")[1:].astype(np.int64) - key
        ends[-1] = border
        places = self._places_of(ends, form.header, width, room)
        if places.shift:
            block[room : room + border - places.shift] = block[places.shift : border]
        values = block[: len(block) // width * width].view(native)
        if form.header == 0:
            content = values[: border // width].copy()
        else:
            content = np.take(values, places.index, mode="clip")
        if not stored.isnative:
            content.byteswap(inplace=True)
        return Ragged.of(places.offsets, content)

    def _places_of(self, ends: Array, header: int, width: int, room: int) -> _Places:
        """Find the values of a basket, or take what the last branch of this kind had."""
        known = self._places.get((header, width))
        if known is not None and np.array_equal(known.ends, ends):
            return known
        counts, rest = np.divmod(np.diff(ends) - header, width)
        if rest.any() or (counts < 0).any() or ends[0] != 0:
            raise ValueError("the entries of a basket hold no whole values")
        offsets = offsets_of(counts)
        begin = ends[:-1] + header
        misses = begin % width
        shift = int(misses.max(initial=0))
        if ((misses != 0) & (misses != shift)).any():
            raise _OtherForm
        index = np.zeros(0, np.int64)
        if header:
            places = np.where(misses != 0, begin - shift + room, begin) // width
            index = np.repeat(places - offsets[:-1], counts)
            index += np.arange(offsets[-1])
        found = _Places(ends, offsets, shift, index)
        self._places[header, width] = found
        return found


def _form(branch: Any) -> _Form | None:  # noqa: ANN401
    """What the values of a branch are; None where they are left to uproot."""
    kind = branch.interpretation
    header = None
    if type(kind) is AsJagged:
        header, kind = kind.header_bytes, kind.content
    if type(kind) is not AsDtype or branch.embedded_baskets:
        return None
    stored = np.dtype(kind.from_dtype)
    plain = stored.subdtype is None and stored.kind in "biuf"
    if not plain or np.dtype(kind.to_dtype) != stored.newbyteorder("="):
        return None
    return _Form(stored, header)


def _decompressed(raw: bytes, key: int, length: int, room: int) -> Array:
    """Return what a basket holds, at the beginning of a block of `room` bytes."""
    block = np.empty(max(room, length), np.uint8)
    stored = memoryview(raw)[key:]
    if len(stored) == length:
        block[:length] = np.frombuffer(stored, np.uint8)
        return block
    at, filled = 0, 0
    while at < len(stored):
        header = bytes(stored[at : at + _BLOCK_HEADER])
        decompress = _DECOMPRESS.get(header[:2])
        if decompress is None:
            raise _OtherForm
        packed = int.from_bytes(header[3:6], "little")
        plain = int.from_bytes(header[6:9], "little")
        at += _BLOCK_HEADER
        if filled + plain > length:
            raise ValueError(f"a basket holds more than the {length} bytes that it says")
        made = decompress(stored[at : at + packed], block[filled : filled + plain])
        if made != plain:
            raise ValueError(f"a compressed block gives {made} bytes, expected {plain}")
        at, filled = at + packed, filled + plain
    if filled != length:
        raise ValueError(f"a basket holds {filled} of the {length} bytes that it says")
    return block
