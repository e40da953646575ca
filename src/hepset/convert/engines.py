"""`LocalEngine`: the tasks of a conversion in processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal

from pydantic import PositiveInt

from hepset.convert.worker_threads import start_worker
from hepset.errors import HepsetError
from hepset.interfaces.engine import Engine, EngineConfig

logger = logging.getLogger(__name__)

STRIKES = 2
"""A task that kills its worker so many times is not tried again."""


class WorkerDiedError(HepsetError, RuntimeError):
    """Tasks killed their worker process, again when they ran alone."""


class LocalEngineConfig(EngineConfig):
    """Options of the local engine."""

    workers: PositiveInt | Literal["auto"] = "auto"
    """Number of worker processes; ``auto`` = number of cores; 1 = no further process."""


class LocalEngine(Engine):
    """A pool of spawned processes with one native thread each.

    A worker that dies breaks the whole pool. The tasks that were in work are then run one by one in
    a process of their own: the one that kills again is put aside and named at the end, when
    everything else is done.
    """

    Config = LocalEngineConfig

    def __init__(self, config: EngineConfig | None = None) -> None:
        """Keep the options; processes start with the first tasks."""
        super().__init__(config)
        self._pool: ProcessPoolExecutor | None = None
        self._size = 0

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        chosen = self.config.workers if isinstance(self.config, LocalEngineConfig) else "auto"
        if chosen != "auto":
            return chosen
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def map(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Run ``task(item)`` for every item; yield (index, result) as they finish.

        Raises:
            WorkerDiedError: At the end, naming the tasks that crash their worker.
        """
        workers = min(self.workers, len(items))
        if workers <= 1:
            for index, item in enumerate(items):
                yield index, task(item)
            return
        try:
            yield from self._map(task, items, workers)
        except BaseException:
            self._stop(cancel=True)
            raise

    def _map(
        self, task: Callable[[Any], Any], items: Sequence[Any], workers: int
    ) -> Iterator[tuple[int, Any]]:
        left = deque(range(len(items)))
        running: dict[Future[Any], int] = {}
        strikes: dict[int, int] = {}
        poisonous: list[int] = []
        while left or running:
            broken: list[int] = []
            # No more tasks in flight than workers: when the pool breaks, these are the suspects.
            while left and len(running) < workers and not broken:
                index = left.popleft()
                try:
                    running[self._executor(workers).submit(task, items[index])] = index
                except BrokenProcessPool:
                    left.appendleft(index)
                    broken = list(running.values())
            if not broken:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    index = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        broken.append(index)
                        continue
                    yield index, result
            if broken:
                suspects = sorted({*broken, *running.values()})
                running.clear()
                logger.warning("a worker process died; repeating %d tasks", len(suspects))
                self._stop(cancel=True)
                for index in suspects:
                    strikes[index] = strikes.get(index, 0) + 1
                    while strikes[index] < STRIKES:
                        try:
                            yield index, self._executor(1).submit(task, items[index]).result()
                            break
                        except BrokenProcessPool:
                            strikes[index] += 1
                            self._stop(cancel=True)
                    else:
                        logger.error("task %d killed its worker again: %r", index, items[index])
                        poisonous.append(index)
                self._stop(cancel=False)
        if poisonous:
            named = "\n".join(f"  task {index}: {items[index]}" for index in poisonous)
            raise WorkerDiedError(
                f"{len(poisonous)} of {len(items)} tasks crash their worker (out of memory, "
                f"or a crash in native code):\n{named}\nreduce read.chunk_size or "
                "prepare.shard_size, or leave out these files; what is done is kept"
            )

    def _executor(self, workers: int) -> ProcessPoolExecutor:
        if self._pool is None or self._size != workers:
            self._stop(cancel=False)
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=start_worker,
            )
            self._size = workers
        return self._pool

    def _stop(self, *, cancel: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=cancel)
            self._pool = None

    def close(self) -> None:
        """End the worker processes."""
        self._stop(cancel=True)
