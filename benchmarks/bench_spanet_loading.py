"""Benchmark 5: SPANet's HDF5 files to batches, against SPANet's own data set.

Ours straight from the reader, and from shards with the loader; SPANet's in-memory data set with the
loader that it trains with, in the interpreter of `--spanet-python` (see README.md). Same files,
batch size and number of events; one thread, no worker process. The batches hold the same arrays
(SPANet takes the logarithms of the inputs when it loads, hepset in the model).
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from benchmarks.harness import (
    ROOT,
    Cell,
    Floor,
    Options,
    Report,
    Task,
    cost_table,
    interleave,
    peak_memory,
)
from benchmarks.other_program import OtherProgram
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.dataset import open_dataset
from hepset.dataset.loader import reader_loader
from hepset.dialects import load_event
from hepset.interfaces.engine import Engine
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig

DATA = Path(os.environ.get("HEPSET_SPANET_DATA", ROOT.parent / "shared/data/spanet"))
ADAPTER = Path(__file__).parent / "spanet_adapter.py"
FILES = ("full_hadronic_ttbar", "semi_leptonic_ttH")
BATCH = 256
REPEATED = 200_000
SPANET = "SPANet, in memory"
READER = "hepset, reader"
WAYS: dict[str, dict[str, Any]] = {
    "hepset, shards": {},
    "hepset, shards, thread": {"threads": 1},
    "hepset, shards, mmap": {"cache": "mmap"},
}
MISSING = (
    "SPANet itself is skipped: {reason}. Clone github.com/Alexanders101/SPANet, install it into an "
    "environment of its own, and give that by --spanet-python or HEPSET_SPANET_PYTHON."
)


class Batches(Sized, Iterable[Any], Protocol):
    """What makes batches, epoch after epoch."""


def open_reader(data: Path, event: Path) -> SpanetReader:
    return SpanetReader(SpanetReaderConfig(files=[str(data)]), load_event(event))


def from_reader(data: Path, event: Path) -> Iterator[dict[str, Any]]:
    reader = open_reader(data, event)
    return reader_loader(reader, compile_contract(reader.event_info()), BATCH)


def from_shards(folder: Path, **options: Any) -> Batches:
    chosen = {"copy": False, "shuffle": True, "threads": 0, **options}
    loader: Batches = open_dataset(folder).loader("train", batch_size=BATCH, **chosen)
    return loader


def convert(data: Path, event: Path, folder: Path) -> None:
    reader = open_reader(data, event)
    described = reader.event_info()
    engine: Engine = LocalEngine(LocalEngineConfig(workers=1))
    prepare_dataset(
        [reader],
        event=described,
        contract=compile_contract(described),
        config=PrepareConfig.model_validate({"split": {"train": 1.0, "val": 0.0, "test": 0.0}}),
        seed=1,
        output=folder,
        engine=engine,
    )


def count(batches: Iterable[dict[str, Any]]) -> int:
    return sum(len(next(iter(batch.values()))) for batch in batches)


def epoch_of_reader(data: str, event: str) -> int:
    """For `peak_memory`."""
    return count(from_reader(Path(data), Path(event)))


def epoch_of_shards(folder: str, options: dict[str, Any]) -> int:
    """For `peak_memory`."""
    return count(from_shards(Path(folder), **options))


def start_spanet(python: str) -> OtherProgram:
    """Start SPANet's data set and network in its interpreter."""
    return OtherProgram("SPANet", python, ADAPTER, BATCH)


def repeat_file(source: Path, target: Path, events: int) -> None:
    """Write the events of a file over and over, until there are so many."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                new[name] = item[()][np.arange(events) % len(item)]

        old.visititems(copy)


def run(options: Options) -> Iterator[Report]:
    if not DATA.is_dir():
        note = f"skipped: SPANet's public files are not in {DATA}; name it by HEPSET_SPANET_DATA"
        yield Report(5, "SPANet files to batches", notes=[note])
        return
    spanet, missing = None, ""
    try:
        spanet = start_spanet(options.spanet_python or sys.executable)
    except RuntimeError as problem:
        missing = MISSING.format(reason=problem)
    try:
        # Memory first: the process that is copied for it has then loaded nothing.
        memory = {name: peaks(name, options, spanet) for name in FILES}
        for name in FILES:
            report = compare(name, options, spanet, memory[name])
            if missing:
                report.notes.append(missing)
            yield report
    finally:
        if spanet is not None:
            spanet.close()


def compare(
    name: str, options: Options, spanet: OtherProgram | None, memory: Mapping[str, Cell]
) -> Report:
    """Compare on one of the public files."""
    data, event = DATA / f"{name}.h5", DATA / f"{name}.yaml"
    shards = options.folder / name
    convert(data, event, shards)
    events = count(from_reader(data, event))
    passes = max(20_000 // events, 1)

    loaders: dict[str, Callable[[], Iterable[Any]]] = {READER: lambda: from_reader(data, event)}
    for each, way in WAYS.items():
        loaders[each] = partial(from_shards, shards, **way)
        count(loaders[each]())

    def first(make: Callable[[], Iterable[Any]]) -> Task:
        def task() -> None:
            batches = iter(make())
            next(batches)
            getattr(batches, "close", lambda: None)()

        return task

    def epochs(make: Callable[[], Iterable[Any]]) -> Task:
        kept = make()
        again = (lambda: kept) if isinstance(kept, Sized) else make

        def task() -> None:
            for _ in range(passes):
                assert count(again()) == events

        return task

    first_batch = {each: first(make) for each, make in loaders.items()}
    epoch = {each: epochs(make) for each, make in loaders.items()}
    if spanet is not None:
        file = {"data": str(data), "event": str(event)}
        assert spanet.ask("load", **file)["events"] == events
        first_batch[SPANET] = partial(spanet.cost, "first", **file)
        epoch[SPANET] = partial(spanet.cost, "epoch", passes=passes)
    started = interleave(first_batch, options.repeats, warm_up=True)
    running = interleave(epoch, options.repeats)
    number = itertools.count()
    converting: dict[str, Task] = {
        "": lambda: convert(data, event, options.folder / f"{name}-{next(number)}")
    }
    prepared = interleave(converting, options.repeats)[""]

    base = READER if spanet is None else SPANET
    report = Report(5, f"SPANet file to batches: {name}, {events} events, batches of {BATCH}")
    report.tables = [
        cost_table("from opening to the first batch, imports done", started, base, unit="ms"),
        cost_table(
            "one epoch",
            {each: cost.per(events * passes) for each, cost in running.items()},
            base,
            more={f"peak MB, {options.events(REPEATED)} events": memory},
        ),
    ]
    if spanet is not None:
        for what, costs in (("epoch", running), ("first batch", started)):
            for each in loaders:
                ratio = costs[SPANET].over(costs[each]).cpu
                report.floors.append(Floor(f"{what}: SPANet / {each}, CPU", ratio, 1.0))
    report.notes.append(
        f"conversion to shards, once: {1e3 * prepared.wall:.0f} ms wall, "
        f"{1e6 * prepared.cpu / events:.1f} µs/event CPU; peak MB is what opening the file, "
        "repeated, and one epoch add to a process that has imported the libraries"
    )
    return report


def peaks(name: str, options: Options, spanet: OtherProgram | None) -> dict[str, Cell]:
    """Return the memory that every contender adds, in MB, with the events of a file repeated."""
    data, event = options.folder / f"{name}-repeated.h5", DATA / f"{name}.yaml"
    shards = options.folder / f"{name}-repeated"
    repeat_file(DATA / f"{name}.h5", data, options.events(REPEATED))
    convert(data, event, shards)
    module = "benchmarks.bench_spanet_loading"
    found: dict[str, Cell] = {
        READER: peak_memory(f"{module}:epoch_of_reader", str(data), str(event)).added
    }
    for each, way in WAYS.items():
        found[each] = peak_memory(f"{module}:epoch_of_shards", str(shards), way).added
    if spanet is not None:
        found[SPANET] = spanet.ask("peak", data=str(data), event=str(event))["added"]
    return found
