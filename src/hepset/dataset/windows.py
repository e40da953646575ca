"""What the threads of a loader do: decode row groups into windows, gather batches from windows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from hepset.arrays import Array, Ragged, join, padding_value
from hepset.dataset.batch_buffers import Buffer
from hepset.dataset.columns import Column, lengths_of, part, take
from hepset.dataset.order import Piece, Stretch
from hepset.dataset.shards import ShardFile
from hepset.dataset.tensors import ID_FIELDS, Batch
from hepset.errors import DatasetError, HepsetError

if TYPE_CHECKING:
    from hepset.dataset.loader import Loader


class Window:
    """Decoded rows of some row groups, in stored element types."""

    def __init__(
        self,
        ids: Array,
        fixed: dict[str, Array],
        order: Array | None,
        lengths: dict[str, Array],
        similar: Callable[[Array], Array] | None = None,
    ) -> None:
        """Take memory for the rows.

        Args:
            ids: Their ids.
            fixed: Their tensors, those that are not jagged.
            order: Which row is at which position; None where in order.
            lengths: Stream → slots up to the last real one, of each row; empty if nobody asks.
            similar: Gives the order from the lengths of all rows, once they are decoded.
        """
        self.ids = ids
        self.fixed = fixed
        self.lengths = lengths
        self._order = order
        self._similar = similar
        self.jagged: dict[str, list[Ragged | None]] = {}
        self.decoding: list[Future[None]] = []
        self._lock = threading.Lock()

    def rows(self, stretch: Stretch) -> Array | slice:
        """Which rows stand at some positions."""
        with self._lock:
            if self._similar is not None:
                self._order = self._similar(np.sum(list(self.lengths.values()), axis=0))
                self._similar = None
        if self._order is None:
            return slice(stretch.start, stretch.stop)
        return self._order[stretch.start : stretch.stop]

    def jagged_column(self, name: str) -> Ragged:
        """A jagged tensor of the whole window."""
        with self._lock:
            whole = join([piece for piece in self.jagged[name] if piece is not None])
            self.jagged[name] = [whole]
            return whole


class Gatherer:
    """What the threads do: decode row groups into windows, gather batches from windows."""

    def __init__(self, loader: Loader) -> None:
        self.split = loader.split
        self.layouts = loader.layouts
        self.ids = loader.ids
        self.trim = loader.trim
        self._local = threading.local()
        self._opened: list[ShardFile] = []

    def close(self) -> None:
        """Close the files; no thread may be at work any more."""
        for shard in self._opened:
            shard.close()
        self._opened.clear()

    def decode(self, window: Window, index: int, piece: Piece, offset: int) -> None:
        """Decode a row group into its place in a window."""
        try:
            shard = self._shard(piece.shard)
            ids, columns = shard.read_group(piece.group, list(self.layouts))
            place = slice(offset, offset + len(piece))
            window.ids[place] = _of_piece(ids, piece)
            for name, column in columns.items():
                rows = _of_piece(column, piece)
                if isinstance(rows, Ragged):
                    window.jagged[name][index] = rows
                else:
                    window.fixed[name][place] = rows
            for stream, lengths in window.lengths.items():
                mask = f"{stream}.mask"
                lengths[place] = lengths_of(self.layouts[mask], window.fixed[mask][place])
        except HepsetError:
            raise
        except Exception as problem:
            raise DatasetError(
                f"{self.split.paths[piece.shard]}: row group {piece.group} cannot be read: "
                f"{type(problem).__name__}: {problem}; run dataset.verify()"
            ) from problem

    def gather(self, windows: Sequence[tuple[Window, Stretch]], buffer: Buffer | None) -> Batch:
        """Put the rows of a batch together, in a buffer or in fresh memory."""
        for window, _ in windows:
            for future in window.decoding:
                future.result()
        chosen = [(window, window.rows(stretch)) for window, stretch in windows]
        widths: dict[str, int] = {}
        for stream in chosen[0][0].lengths if self.trim else ():
            most = max(int(window.lengths[stream][rows].max(initial=1)) for window, rows in chosen)
            widths[stream] = most
        if buffer is None:
            buffer = Buffer(self.layouts, ids=self.ids, pinned=False)
        buffer.fit(sum(len(stretch) for _, stretch in windows), widths)
        place = 0
        for (window, stretch), (_, rows) in zip(windows, chosen, strict=True):
            span = slice(place, place + len(stretch))
            self._copy(window, rows, buffer, span)
            place = span.stop
        for name, stage in buffer.stage.items():
            np.copyto(buffer.arrays[name], stage, casting="unsafe")
        return dict(buffer.tensors)

    def _copy(self, window: Window, rows: Array | slice, buffer: Buffer, span: slice) -> None:
        for name, layout in self.layouts.items():
            target = buffer.stage.get(name, buffer.arrays[name])[span]
            if layout.layout == "jagged":
                column = _take_jagged(window.jagged_column(name), rows)
                fill = padding_value(name, layout.dtype)
                column.pad(column.values, target.shape[1], fill, out=target)
            elif layout.layout == "counts":
                counts = window.fixed[name][rows]
                np.less(np.arange(target.shape[1]), counts[:, None], out=target)
            else:
                _take(window.fixed[name], rows, target)
        if self.ids:
            for index, field in enumerate(ID_FIELDS):
                buffer.arrays["ids"][span, index] = window.ids[field][rows]

    def _shard(self, number: int) -> ShardFile:
        """The open file of this thread."""
        opened: tuple[int, ShardFile] | None = getattr(self._local, "shard", None)
        if opened is not None and opened[0] == number:
            return opened[1]
        if opened is not None:
            opened[1].close()
            self._opened.remove(opened[1])
        shard = self.split.open_shard(number)
        self._opened.append(shard)
        self._local.shard = (number, shard)
        return shard


def _of_piece(column: Column, piece: Piece) -> Column:
    """The rows of a row group that a piece reads."""
    if piece.rows is None:
        return part(column, piece.start, piece.stop)
    rows = piece.rows[piece.start : piece.stop]
    return take(column, rows)


def _take(source: Array, rows: Array | slice, target: Array) -> None:
    """Copy rows, without a detour: ``mode="clip"`` lets numpy write straight to `target`."""
    if target.shape[1:] != source.shape[1:]:
        target[:] = source[:, *(slice(size) for size in target.shape[1:])][rows]
    elif isinstance(rows, slice):
        target[:] = source[rows]
    elif target.size:
        np.take(source, rows, axis=0, out=target, mode="clip")


def _take_jagged(source: Ragged, rows: Array | slice) -> Ragged:
    if isinstance(rows, slice):
        return source.part(rows.start, rows.stop)
    return source.take(rows)
