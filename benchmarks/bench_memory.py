"""Benchmark 3: peak memory of converting and reading back the event table.

It must not grow with the number of events. Every step runs in a process of its own; the figure is
the largest resident set of any process, worker processes included.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Cell, Cost, Floor, Options, Report, Table, now, peak_memory
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.dataset import open_dataset
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from synthetic_events import SyntheticConfig, SyntheticReader

LIMIT_MB = 700
CHUNK = 10_000
WORKERS = 2


def convert(directory: str, events: int) -> tuple[int, float, float]:
    """For `peak_memory`: rows, and seconds of CPU and wall."""
    start = now()
    config = SyntheticConfig(
        events=events // 2, chunk_size=CHUNK, table=True, rich=False, flat=False
    )
    reader = SyntheticReader(config)
    event = reader.event_info()
    engine = LocalEngine(LocalEngineConfig(workers=WORKERS))
    try:
        dataset = prepare_dataset(
            [reader],
            event=event,
            contract=compile_contract(event),
            config=PrepareConfig(),
            seed=1,
            output=Path(directory),
            engine=engine,
        )
    finally:
        engine.close()
    return len(dataset), *since(start)


def read(directory: str, events: int) -> tuple[int, float, float]:
    """For `peak_memory`: rows, and seconds of CPU and wall."""
    start = now()
    rows = 0
    for split in open_dataset(Path(directory)).splits.values():
        for batch in split.batches(512):
            rows += len(batch)
            assert batch["jets"].shape[1:] == (18, 7)
    assert rows == events
    return rows, *since(start)


def since(start: Cost) -> tuple[float, float]:
    end = now()
    return end.cpu - start.cpu, end.wall - start.wall


def run(options: Options) -> Iterator[Report]:
    rows: dict[str, tuple[Cell, ...]] = {}
    largest: dict[int, float] = {}
    sizes = (options.events(100_000), options.events(1_000_000))
    for events in sizes:
        directory = options.folder / f"dataset{events}"
        for step in ("convert", "read"):
            peak = peak_memory(f"benchmarks.bench_memory:{step}", str(directory), events)
            made, cpu, wall = peak.value
            assert made == events
            size = sum(path.stat().st_size for path in directory.iterdir()) / events
            largest[events] = max(largest.get(events, 0.0), peak.total, peak.children)
            rows[f"{step}, {events} events"] = (
                peak.total,
                peak.children or None,
                1e6 * cpu / events,
                1e6 * wall / events,
                size,
            )
    headings = ("MB", "worker MB", "CPU µs/event", "wall µs/event", "B/event")
    few, many = sizes
    yield Report(
        3,
        f"peak memory of a conversion by {WORKERS} workers and of reading back",
        [Table("event table", headings, rows)],
        [
            Floor("largest process, MB", largest[many], LIMIT_MB, at_least=False),
            Floor(
                f"memory: {many} events / {few} events",
                largest[many] / largest[few],
                1.25,
                at_least=False,
            ),
        ],
    )
