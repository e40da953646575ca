"""Peak memory of converting and reading back the event table; it must not grow with the events.

Every step runs in a process of its own; the figure is the largest resident set of any process,
worker processes included. The limit is 700 MB at a million events.

Run: ``python benchmarks/bench_memory.py [--events 100000 1000000] [--workers 2]``
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MB = 700
CHUNK = 10_000


def convert(directory: Path, events: int, workers: int) -> int:
    from hepset.prepare import prepare_dataset
    from hepset.prepare.engines import LocalEngine, LocalEngineConfig
    from hepset.schema.config import PrepareConfig
    from hepset.schema.contract import compile_contract
    from hepset.testing.events import SyntheticConfig, SyntheticReader

    config = SyntheticConfig(
        events=events // 2, chunk_size=CHUNK, table=True, rich=False, flat=False
    )
    reader = SyntheticReader(config)
    event = reader.event_info()
    engine = LocalEngine(LocalEngineConfig(workers=workers))
    try:
        dataset = prepare_dataset(
            [reader],
            event=event,
            contract=compile_contract(event),
            config=PrepareConfig(),
            seed=1,
            output=directory,
            engine=engine,
        )
    finally:
        engine.close()
    return len(dataset)


def read(directory: Path) -> int:
    from hepset.dataset import open_dataset

    dataset = open_dataset(directory)
    rows = 0
    for split in dataset.splits.values():
        for batch in split.batches(512):
            rows += len(batch)
            assert batch["jets"].shape[1:] == (18, 7)
    return rows


def measure(step: str, directory: Path, events: int, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--directory", str(directory)]
    command += ["--events", str(events), "--workers", str(workers)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def run_step(step: str, directory: Path, events: int, workers: int) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    rows = convert(directory, events, workers) if step == "convert" else read(directory)
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        json.dumps(
            {
                "rows": rows,
                "parent_mb": own.ru_maxrss / 1024,
                "worker_mb": children.ru_maxrss / 1024,
                "wall_s": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu + children.ru_utime + children.ru_stime,
            }
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step", choices=["convert", "read"])
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.directory, arguments.events[0], arguments.workers)
        return 0
    worst = 0.0
    for events in arguments.events:
        with tempfile.TemporaryDirectory(prefix="hepset-memory-") as folder:
            directory = Path(folder) / "dataset"
            for step in ("convert", "read"):
                found = measure(step, directory, events, arguments.workers)
                assert found["rows"] == events
                size = sum(path.stat().st_size for path in directory.iterdir()) / events
                worst = max(worst, found["parent_mb"], found["worker_mb"])
                print(
                    f"{events:>9} events  {step:<8} parent {found['parent_mb']:5.0f} MB  "
                    f"worker {found['worker_mb']:5.0f} MB  wall {found['wall_s']:6.1f} s  "
                    f"CPU {1e6 * found['cpu_s'] / events:6.1f} us/event  {size:6.0f} B/event",
                    flush=True,
                )
    print(f"largest process: {worst:.0f} MB, limit {LIMIT_MB} MB")
    return 0 if worst < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
