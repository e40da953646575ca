"""Simulate large-R jets with Pythia and write them in JetClass-II's own ROOT layout.

    python examples/jetclass/simulate.py data --events 6000

writes one file per class. Jets are at particle level: no pile-up and no detector but for the
resolution of impact parameters.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import hepset
from hepset_jetclass.writer import JetClassRootConfig, JetClassRootWriter

CLASSES = ("X_bb", "X_cc", "X_gg", "X_YY_qqqq", "QCD")


def simulate(jets: str, *, folder: Path, events: int, seed: int) -> str:
    """Generate the jets of one class, and write them; return what was done."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{jets}.root"
    if path.exists():
        return f"{path}: is there already"
    # Of QCD half of the jets have a mass, and a cut that one in a hundred passes needs many.
    collisions = 2 * events if jets == "QCD" else events
    reader = hepset.open_reader("pythia-jets", jets=jets, events=collisions, seed=seed)
    event = reader.event_info()
    names = tuple(event.targets["label"].classes or ())
    count = 0
    with JetClassRootWriter(JetClassRootConfig(classes=names)) as writer:
        writer.open(path, hepset.compile_contract(event))
        for batch in reader:
            writer.write(batch)
            count += len(batch)
    return f"{path}: {count} jets"


def main() -> None:
    """Simulate all classes, as many at a time as there are processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=6000, help="collisions per class, QCD twice")
    parser.add_argument("--classes", nargs="+", default=CLASSES, choices=CLASSES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    work = partial(simulate, folder=options.folder, events=options.events, seed=options.seed)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for line in pool.map(work, options.classes):
            print(line)


if __name__ == "__main__":
    main()
