"""`Loader`: batches of tensors for training, straight from the shards.

The batch is the unit. Threads decode row groups into *windows* (the rows of a few row groups) and
gather the rows of each batch from them, one call per tensor. Which event stands in which batch is
a function of seed and epoch alone (`hepset.dataset.order`), whatever the threads.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hepset.arrays import Array, Ragged, join
from hepset.batch import ID_DTYPE, EventBatch, concatenate
from hepset.dataset.batches import with_masks
from hepset.dataset.columns import Column, ColumnLayout, part, take, widen
from hepset.dataset.mmap_cache import expand
from hepset.dataset.order import (
    EpochOrder,
    Piece,
    RowSampler,
    Stretch,
    count_batches,
    order_epoch,
    order_rows,
)
from hepset.dataset.shards import ShardFile
from hepset.errors import ConfigurationError, DatasetError, HepsetError
from hepset.schema.contract import Contract

if TYPE_CHECKING:
    from hepset.dataset.dataset import Split
    from hepset.interfaces.reader import Reader

__all__ = ["Loader", "batch_tensors", "ids_of", "reader_loader"]

Batch = dict[str, Tensor]

_ID_FIELDS: Final = ("source", "entry", "sample")

KEPT: Final = 2
"""Without `copy`, a batch stays as it is until this many further ones have been drawn."""


class Loader(IterableDataset[Batch]):
    """Batches of a split, name → tensor with the dtype of the contract.

    Each iteration is one epoch; the next iteration is the next epoch, in another order where
    shuffled. One iteration at a time: a second ``iter`` ends the first. It may be given to
    ``torch.utils.data.DataLoader(loader, batch_size=None)``, but gains nothing from its processes.

    Every event is in exactly one batch of one rank, and every rank makes the same number of
    batches. Without `drop_last` the last batch is shorter (with several ranks, the last ones may
    be shorter by one event each). With it, events that fill no batch are left out of that epoch,
    other ones in every epoch where shuffled; a split smaller than a batch still makes one short
    batch.

    Args:
        split: What to read.
        batch_size: Events per batch and rank.
        seed: Seed of the shuffle.
        shuffle: Whether to shuffle. With ``cache="mmap"`` any order of all events is equally
            likely; without, shards, row groups and the rows of every `window` row groups are
            shuffled, which is as good because the events were shuffled over all shards before.
        columns: Names of tensors, masks come along; null = all of the contract.
        ids: Add ``ids``, int64 (event, 3): source, entry, sample; `ids_of` makes structured ids.
        threads: Decoder threads; 0 does everything in the calling thread.
        rank: Which part to read, of `world` parts.
        world: Number of parts.
        drop_last: Leave out events that fill no batch.
        cache: ``mmap`` expands the shards once to uncompressed files in the data set's ``.cache``.
        copy: Give every batch memory of its own. Without, memory is used again: a batch stays as
            it is until two further ones have been drawn.
        buffers: Batches in memory at a time; `buffers` − 2 are prepared ahead.
        pin_memory: Use page-locked memory, for copies to a GPU; only without `copy`.
        window: Row groups that are shuffled together; two windows are in memory at a time.
        sampling: Says how often each event is read in an epoch; null = once.

    Attributes:
        rows: Events of an epoch, before `drop_last`.
        epoch: Number of the epoch that is read, or that the next iteration will read.
        wait_seconds: Time that the consumer has waited for batches so far.

    Raises:
        ConfigurationError: If an option has an impossible value.
        DatasetError: If there are fewer events than ranks.
        KeyError: If there is no such tensor.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        columns: Sequence[str] | None = None,
        ids: bool = False,
        threads: int = 1,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        cache: Literal["none", "mmap"] = "none",
        copy: bool = True,
        buffers: int = 6,
        pin_memory: bool = False,
        window: int = 4,
        sampling: RowSampler | None = None,
    ) -> None:
        smallest = {"batch_size": 1, "threads": 0, "world": 1, "buffers": KEPT + 1, "window": 1}
        given = {
            "batch_size": batch_size,
            "threads": threads,
            "world": world,
            "buffers": buffers,
            "window": window,
        }
        for name, value in given.items():
            if value < smallest[name]:
                raise ConfigurationError(
                    f"loader: {name} = {value}, expected at least {smallest[name]}"
                )
        if not 0 <= rank < world:
            raise ConfigurationError(f"loader: rank {rank} is not one of {world} ranks")
        if seed < 0:
            raise ConfigurationError(f"loader: seed = {seed}, expected at least 0")
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.ids = ids
        self.threads = threads
        self.rank = rank
        self.world = world
        self.drop_last = drop_last
        self.cache = cache
        self.copy = copy
        self.buffers = buffers
        self.pin_memory = pin_memory and not copy
        self.window = window
        self.sampling = sampling
        self.layouts = _chosen(split, columns)
        self.epoch = 0
        self.wait_seconds = 0.0
        self._consumed = 0
        self.rows = len(split) if sampling is None else sampling.events
        self._batches = count_batches(self.rows, batch_size, world=world, drop_last=drop_last)
        self._current: weakref.ref[_Iteration] | None = None

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return self._batches

    @property
    def events(self) -> int:
        """Number of events that all ranks read in an epoch."""
        if not self.drop_last:
            return self.rows
        return min(len(self) * self.batch_size * self.world, self.rows)

    def __iter__(self) -> Iterator[Batch]:
        """Read the epoch, from where `load_state_dict` has put it."""
        self.close()
        iteration = _Iteration(self)
        self._current = weakref.ref(iteration)
        return iteration

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read this epoch from its beginning."""
        self.close()
        self.epoch = epoch
        self._consumed = 0

    def state_dict(self) -> dict[str, int]:
        """Return where it stands: the batches that were drawn, and what decides the order."""
        return {
            "epoch": self.epoch,
            "batches": self._consumed,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "world": self.world,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration continue where a state was taken; what is skipped is not read.

        Raises:
            DatasetError: If the state was taken under another seed, batch size or number of ranks.
        """
        for name in ("seed", "batch_size", "world"):
            if state[name] != getattr(self, name):
                raise DatasetError(
                    f"the loader's state was taken with {name} = {state[name]}, now it is "
                    f"{getattr(self, name)}: the order of the batches differs"
                )
        self.close()
        self.epoch, self._consumed = state["epoch"], state["batches"]

    def close(self) -> None:
        """End the current iteration and its threads; the next one starts at the next batch."""
        iteration = self._current() if self._current is not None else None
        if iteration is not None:
            iteration.close()
        self._current = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the running iteration behind: another process starts its own."""
        return {**self.__dict__, "_current": None}

    def __repr__(self) -> str:
        """Return what is read and how."""
        return (
            f"<Loader of {self.split!r}: {len(self)} batches of {self.batch_size}, "
            f"{'shuffled' if self.shuffle else 'in order'}>"
        )

    def _drawn(self, batches: int) -> None:
        """Note how many batches of the epoch were drawn; after the last the epoch is over."""
        self._consumed = batches
        if batches == len(self):
            self.epoch, self._consumed = self.epoch + 1, 0


def ids_of(tensor: Tensor) -> Array:
    """Return the structured ids (`hepset.batch.ID_DTYPE`) of a batch's ``ids``, (event, 3)."""
    numbers = tensor.cpu().numpy()
    ids = np.zeros(len(numbers), ID_DTYPE)
    for index, name in enumerate(_ID_FIELDS):
        ids[name] = numbers[:, index]
    return ids


def reader_loader(
    reader: Reader,
    contract: Contract,
    batch_size: int,
    *,
    conform: Callable[[EventBatch], EventBatch] | None = None,
) -> Iterator[Batch]:
    """Read batches of tensors straight from files, without a data set: for quick looks.

    Args:
        reader: What to read.
        contract: Tensors that are wanted; those that the files lack are left out where optional.
        batch_size: Events per batch; the last may be shorter.
        conform: What to do with each chunk before: derive features, cut to the slots.

    Yields:
        Name → tensor with the dtype of the contract, and ``ids``, int64 (event, 3).

    Raises:
        ContractError: If an event has more objects than slots.
        DatasetError: If a required input is missing.
    """
    waiting: list[EventBatch] = []
    count = 0
    for chunk in reader.chunks():
        events = reader.read(chunk)
        events = conform(events) if conform is not None else events
        waiting.append(events)
        count += len(events)
        if count < batch_size:
            continue
        joined = concatenate(waiting)
        whole = count - count % batch_size
        for start in range(0, whole, batch_size):
            yield batch_tensors(joined.take(np.arange(start, start + batch_size)), contract)
        waiting, count = [joined.take(np.arange(whole, count))], count - whole
    if count:
        yield batch_tensors(concatenate(waiting), contract)


def batch_tensors(events: EventBatch, contract: Contract) -> Batch:
    """Return the tensors of a contract that a batch of events has, and ``ids`` (event, 3).

    Columns come in the contract's order, streams in the contract's slots.

    Raises:
        ContractError: If an event has more objects than slots.
        DatasetError: If a required input is missing.
    """
    events = _in_order(events, contract)
    found: Batch = {}
    for spec in contract.tensors.values():
        array = events.get(spec.name)
        if array is not None:
            found[spec.name] = torch.from_numpy(np.array(array, dtype=spec.dtype, order="C"))
        elif spec.required and spec.kind in {"stream", "mask", "global", "pairs"}:
            raise DatasetError(f"the events lack the input {spec.describe()}")
    numbers = np.stack([events.ids[name].astype(np.int64) for name in _ID_FIELDS], -1)
    found["ids"] = torch.from_numpy(numbers)
    return found


def _in_order(events: EventBatch, contract: Contract) -> EventBatch:
    """The events with streams in the contract's slots, their columns in its order."""
    streams = dict(events.streams)
    for spec in contract.of_kind("stream"):
        data = streams.get(spec.name)
        if data is None:
            continue
        lacking = [name for name in spec.columns if name not in data.columns]
        if lacking:
            raise DatasetError(
                f"{spec.name}: the events lack the features {', '.join(lacking)}; they have "
                f"{', '.join(data.columns)}"
            )
        columns = {name: data.columns[name] for name in spec.columns}
        streams[spec.name] = replace(data, columns=columns)
    slots = {name: size for name, size in contract.slots.items() if size is not None}
    return replace(events, streams=streams, slots=slots)


def _chosen(split: Split, columns: Sequence[str] | None) -> dict[str, ColumnLayout]:
    if columns is None:
        contract = split.dataset.contract
        columns = [name for name in split.layouts if name in contract or name.startswith("weight/")]
    layouts = with_masks(split.layouts, columns)
    for name, layout in layouts.items():
        if np.dtype(layout.dtype).kind not in "biufc":
            raise ConfigurationError(
                f"loader: {name} holds texts and cannot be a tensor; read it by "
                f"dataset.split({split.name!r}).read({name!r})"
            )
    return layouts


T = TypeVar("T")


class _Executor(Protocol):
    def submit(self, task: Callable[..., T], /, *args: Any) -> Future[T]: ...  # noqa: ANN401

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


class _Inline:
    """Does each task at once, in the calling thread."""

    def submit(self, task: Callable[..., T], /, *args: Any) -> Future[T]:  # noqa: ANN401
        future: Future[T] = Future()
        try:
            future.set_result(task(*args))
        except BaseException as problem:  # noqa: BLE001  given to who asks for the result
            future.set_exception(problem)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        del wait, cancel_futures


class _Window:
    """Decoded rows of some row groups, in stored element types."""

    def __init__(self, ids: Array, fixed: dict[str, Array], order: Array | None) -> None:
        self.ids = ids
        self.fixed = fixed
        self.order = order
        self.jagged: dict[str, list[Ragged | None]] = {}
        self.decoding: list[Future[None]] = []
        self._lock = threading.Lock()

    def rows(self, stretch: Stretch) -> Array | slice:
        """Which rows stand at some positions."""
        if self.order is None:
            return slice(stretch.start, stretch.stop)
        return self.order[stretch.start : stretch.stop]

    def jagged_column(self, name: str) -> Ragged:
        """A jagged tensor of the whole window."""
        with self._lock:
            whole = join([piece for piece in self.jagged[name] if piece is not None])
            self.jagged[name] = [whole]
            return whole


class _Buffer:
    """Memory of one batch: tensors as they are given out, and stored types where narrower."""

    def __init__(
        self, layouts: Mapping[str, ColumnLayout], size: int, *, ids: bool, pinned: bool
    ) -> None:
        self._size = size
        self.tensors: Batch = {}
        self.arrays: dict[str, Array] = {}
        self.stage: dict[str, Array] = {}
        for name, layout in layouts.items():
            dtype = _given_dtype(layout)
            self._add(name, (size, *layout.shape), dtype, pinned)
            stored = np.dtype(layout.stored)
            if layout.layout == "fixed" and stored != dtype:
                self.stage[name] = np.empty((size, *layout.shape), stored)
        if ids:
            self._add("ids", (size, len(_ID_FIELDS)), np.dtype(np.int64), pinned)

    def __len__(self) -> int:
        return self._size

    def _add(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], pinned: bool) -> None:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        self.tensors[name] = torch.empty(shape, dtype=kind, pin_memory=pinned)
        self.arrays[name] = self.tensors[name].numpy()


def _given_dtype(layout: ColumnLayout) -> np.dtype[Any]:
    """Element type of a tensor; torch computes with no unsigned integer but bytes."""
    dtype = np.dtype(layout.dtype).newbyteorder("=")
    return np.dtype(np.int64) if dtype.kind == "u" and dtype.itemsize > 1 else dtype


class _Worker:
    """What the threads do: decode row groups into windows, gather batches from windows."""

    def __init__(self, loader: Loader) -> None:
        self.split = loader.split
        self.layouts = loader.layouts
        self.ids = loader.ids
        self.batch_size = loader.batch_size
        self._local = threading.local()
        self._opened: list[ShardFile] = []

    def close(self) -> None:
        """Close the files; no thread may be at work any more."""
        for shard in self._opened:
            shard.close()
        self._opened.clear()

    def decode(self, window: _Window, index: int, piece: Piece, offset: int) -> None:
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
        except HepsetError:
            raise
        except Exception as problem:
            raise DatasetError(
                f"{self.split.paths[piece.shard]}: row group {piece.group} cannot be read: "
                f"{type(problem).__name__}: {problem}; run dataset.verify()"
            ) from problem

    def gather(self, windows: Sequence[tuple[_Window, Stretch]], buffer: _Buffer | None) -> Batch:
        """Put the rows of a batch together, in a buffer or in fresh memory."""
        size = sum(len(stretch) for _, stretch in windows)
        if buffer is None:
            buffer = _Buffer(self.layouts, size, ids=self.ids, pinned=False)
        place = 0
        for window, stretch in windows:
            for future in window.decoding:
                future.result()
            span = slice(place, place + len(stretch))
            self._copy(window, window.rows(stretch), buffer, span)
            place = span.stop
        for name, stage in buffer.stage.items():
            np.copyto(buffer.arrays[name][:size], stage[:size], casting="unsafe")
        if size == len(buffer):
            return dict(buffer.tensors)
        return {name: tensor[:size] for name, tensor in buffer.tensors.items()}

    def _copy(self, window: _Window, rows: Array | slice, buffer: _Buffer, span: slice) -> None:
        for name, layout in self.layouts.items():
            target = buffer.arrays[name]
            if layout.layout == "jagged":
                target[span] = widen(layout, _take_jagged(window.jagged_column(name), rows))
            elif layout.layout == "counts":
                target[span] = widen(layout, window.fixed[name][rows])
            else:
                _take(window.fixed[name], rows, buffer.stage.get(name, target)[span])
        if self.ids:
            for index, field in enumerate(_ID_FIELDS):
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


class _Iteration(Iterator[Batch]):
    """One epoch. The consumer's thread alone plans and submits; worker threads only work.

    Tasks are submitted so that one never waits for a later one: first the decoding of row groups,
    then the gathering of batches from them; the pool starts them in that order. No task refers to
    the iteration, so that dropping it ends it.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._executor: _Executor | None = None
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        began = time.perf_counter()
        try:
            if self._executor is None:
                self._begin()
            batch = self._draw()
        except BaseException:
            self.close()
            raise
        if batch is None:
            self.close()
            raise StopIteration
        self._loader.wait_seconds += time.perf_counter() - began
        return batch

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and let go of the memory; may be called again."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._worker.close()
            self._executor = None
            self._pending.clear()
            self._windows.clear()
            self._idle.clear()

    def _begin(self) -> None:
        loader = self._loader
        self._worker = _Worker(loader)
        self._pending: deque[Future[Batch]] = deque()
        self._windows: dict[int, _Window] = {}
        self._idle: list[tuple[Array, dict[str, Array]]] = []
        self._ring: list[_Buffer] = []
        self._next = self._submitted = loader._consumed
        self._decoded = 0
        if loader.cache == "mmap":
            self._plan_mapped()
        else:
            self._plan()
        name = f"hepset-loader-{loader.split.name}"
        self._executor = (
            ThreadPoolExecutor(loader.threads, thread_name_prefix=name)
            if loader.threads
            else _Inline()
        )

    def _plan(self) -> None:
        groups = [shard.row_groups for shard in self._loader.split.shards]
        self._order = order_epoch(groups, window=self._loader.window, **self._options())
        self._starts = self._order.starts()
        self._pieces: list[tuple[int, int, Piece]] = [
            (number, index, piece)
            for number, pieces in enumerate(self._order.windows)
            for index, piece in enumerate(pieces)
        ]
        self._capacity = int(np.diff(self._starts).max(initial=0))
        if self._next < len(self._order):
            # What stands before the first wanted batch is not read.
            first = self._order.batch(self._next, self._starts)[0].window
            self._decoded = sum(number < first for number, _, _ in self._pieces)

    def _plan_mapped(self) -> None:
        """Have all rows as one window that needs no decoding."""
        loader = self._loader
        order, ends = order_rows(len(loader.split), **self._options())
        ids, columns = expand(loader.split, list(loader.layouts))
        fixed = {n: column for n, column in columns.items() if not isinstance(column, Ragged)}
        window = _Window(ids, fixed, order)
        window.jagged = {n: [c] for n, c in columns.items() if isinstance(c, Ragged)}
        self._windows[0] = window
        self._starts = np.array([0, len(order)], np.int64)
        self._pieces = []
        self._order = EpochOrder(((),), ends, loader.seed, loader.epoch, loader.shuffle, 0)

    def _options(self) -> dict[str, Any]:
        loader = self._loader
        return {
            "batch_size": loader.batch_size,
            "seed": loader.seed,
            "epoch": loader.epoch,
            "shuffle": loader.shuffle,
            "rank": loader.rank,
            "world": loader.world,
            "drop_last": loader.drop_last,
            "counts": None if loader.sampling is None else loader.sampling.counts(loader.epoch),
        }

    def _draw(self) -> Batch | None:
        if self._next >= len(self._order):
            return None
        self._submit_ahead()
        batch = self._pending.popleft().result()
        self._next += 1
        self._loader._drawn(self._next)
        if self._next == len(self._order):
            self.close()
        else:
            self._reuse_windows()
        return batch

    def _submit_ahead(self) -> None:
        loader = self._loader
        ahead = loader.buffers - KEPT if loader.threads else 1
        assert self._executor is not None
        while self._submitted < min(self._next + ahead, len(self._order)):
            stretches = self._order.batch(self._submitted, self._starts)
            self._decode_for(stretches)
            windows = [(self._windows[stretch.window], stretch) for stretch in stretches]
            buffer = None if loader.copy else self._buffer(self._submitted % loader.buffers)
            self._pending.append(self._executor.submit(self._worker.gather, windows, buffer))
            self._submitted += 1

    def _buffer(self, slot: int) -> _Buffer:
        loader = self._loader
        while len(self._ring) <= slot:
            # An epoch smaller than a batch needs no more than its own size.
            size = min(loader.batch_size, loader.rows)
            self._ring.append(
                _Buffer(loader.layouts, size, ids=loader.ids, pinned=loader.pin_memory)
            )
        return self._ring[slot]

    def _decode_for(self, stretches: Sequence[Stretch]) -> None:
        """Submit the row groups that a batch needs, and evenly those of the next window."""
        assert self._executor is not None
        last = stretches[-1].window
        # As far into the next window as the batch reaches into its own.
        reach = stretches[-1].stop + int(self._starts[last + 1])
        while self._decoded < len(self._pieces):
            number, index, piece = self._pieces[self._decoded]
            offset = sum(len(before) for before in self._order.windows[number][:index])
            ahead = number == last + 1 and self._starts[number] + offset < reach
            if number > last and not (ahead and self._loader.threads):
                break
            window = self._windows.get(number) or self._new_window(number)
            window.decoding.append(
                self._executor.submit(self._worker.decode, window, index, piece, offset)
            )
            self._decoded += 1

    def _new_window(self, number: int) -> _Window:
        layouts = self._loader.layouts
        if self._idle:
            ids, fixed = self._idle.pop()
        else:
            ids = np.zeros(self._capacity, ID_DTYPE)
            fixed = {
                name: np.zeros((self._capacity, *_stored_shape(layout)), _stored_dtype(layout))
                for name, layout in layouts.items()
                if layout.layout != "jagged"
            }
        start, stop = int(self._starts[number]), int(self._starts[number + 1])
        window = _Window(ids, fixed, self._order.rows(start, stop))
        pieces = len(self._order.windows[number])
        jagged = [name for name, layout in layouts.items() if layout.layout == "jagged"]
        window.jagged = {name: [None] * pieces for name in jagged}
        self._windows[number] = window
        return window

    def _reuse_windows(self) -> None:
        """Take back the memory of windows whose last batch was drawn."""
        if self._loader.cache == "mmap":
            return
        done = self._order.ends[self._next - 1]
        for number in [n for n in self._windows if self._starts[n + 1] <= done]:
            window = self._windows.pop(number)
            self._idle.append((window.ids, window.fixed))


def _of_piece(column: Column, piece: Piece) -> Column:
    """The rows of a row group that a piece reads."""
    if piece.rows is None:
        return part(column, piece.start, piece.stop)
    rows = piece.rows[piece.start : piece.stop]
    return take(column, rows)


def _stored_shape(layout: ColumnLayout) -> tuple[int, ...]:
    return () if layout.layout == "counts" else layout.shape


def _stored_dtype(layout: ColumnLayout) -> np.dtype[Any]:
    return np.dtype("<i4") if layout.layout == "counts" else np.dtype(layout.stored)


def _take(source: Array, rows: Array | slice, target: Array) -> None:
    """Copy rows, without a detour: ``mode="clip"`` lets numpy write straight to `target`."""
    if isinstance(rows, slice):
        target[:] = source[rows]
    elif target.size:
        np.take(source, rows, axis=0, out=target, mode="clip")


def _take_jagged(source: Ragged, rows: Array | slice) -> Ragged:
    if isinstance(rows, slice):
        return source.part(rows.start, rows.stop)
    return source.take(rows)
