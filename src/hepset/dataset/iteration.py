"""One epoch of a loader: plans the order, submits the work, hands out batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import ID_DTYPE
from hepset.dataset.batch_buffers import Buffer
from hepset.dataset.columns import lengths_of, mask_columns, room
from hepset.dataset.mmap_cache import expand
from hepset.dataset.order import EpochOrder, Piece, Stretch, order_epoch, order_rows
from hepset.dataset.similar_lengths import by_length, similar_in_window
from hepset.dataset.tensors import Batch
from hepset.dataset.windows import Gatherer, Window

if TYPE_CHECKING:
    from hepset.dataset.loader import Loader

KEPT: Final = 2
"""Without `copy`, a batch stays as it is until this many further ones have been drawn."""


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


class Iteration(Iterator[Batch]):
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
        self._worker = Gatherer(loader)
        self._pending: deque[Future[Batch]] = deque()
        self._windows: dict[int, Window] = {}
        self._idle: list[tuple[Array, dict[str, Array]]] = []
        self._ring: list[Buffer] = []
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
            # What comes before the first wanted batch is not read.
            first = self._order.batch(self._next, self._starts)[0].window
            self._decoded = sum(number < first for number, _, _ in self._pieces)

    def _plan_mapped(self) -> None:
        """Have all rows as one window that needs no decoding."""
        loader = self._loader
        ids, columns = expand(loader.split, list(loader.layouts))
        fixed = {n: column for n, column in columns.items() if not isinstance(column, Ragged)}
        lengths = {
            stream: lengths_of(loader.layouts[mask], fixed[mask])
            for stream, mask in (mask_columns(loader.layouts) if loader.trim else {}).items()
        }
        similar = None
        if loader.limit is not None:
            rows, ends = loader.limit.epoch(
                seed=loader.seed,
                epoch=loader.epoch,
                shuffle=loader.shuffle,
                rank=loader.rank,
                world=loader.world,
            )
        else:
            rows, ends = order_rows(len(loader.split), **self._options())
            if loader.by_length:
                key = (loader.seed, loader.epoch)
                similar = partial(by_length, rows, ends=ends[:-1], key=key)
        window = Window(ids, fixed, rows, lengths, similar)
        window.jagged = {n: [c] for n, c in columns.items() if isinstance(c, Ragged)}
        self._windows[0] = window
        self._starts = np.array([0, len(rows)], np.int64)
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

    def _buffer(self, slot: int) -> Buffer:
        loader = self._loader
        while len(self._ring) <= slot:
            self._ring.append(Buffer(loader.layouts, ids=loader.ids, pinned=loader.pin_memory))
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

    def _new_window(self, number: int) -> Window:
        layouts = self._loader.layouts
        if self._idle:
            ids, fixed = self._idle.pop()
        else:
            ids = np.zeros(self._capacity, ID_DTYPE)
            fixed = {
                name: room(layout, self._capacity)
                for name, layout in layouts.items()
                if layout.layout != "jagged"
            }
        start, stop = int(self._starts[number]), int(self._starts[number + 1])
        lengths = {
            stream: np.zeros(stop - start, np.int64)
            for stream in (mask_columns(layouts) if self._loader.trim else ())
        }
        similar = similar_in_window(self._order, start, stop) if self._loader.by_length else None
        window = Window(ids, fixed, self._order.rows(start, stop), lengths, similar)
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
