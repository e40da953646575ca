"""`SyntheticReader`: seeded random events with every kind of tensor, for tests and benchmarks.

The content of an entry is a function of the seed and the entry alone, so that reading in other
chunks gives the same events.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from hepset.batch import EventBatch, PaddedStream, StreamData, make_ids
from hepset.errors import ReadError
from hepset.events.split import hash_rows
from hepset.interfaces import Chunk, Reader, ReaderConfig, Source
from hepset.schema.event import ASSIGNMENT, EventInfo

Array = NDArray[Any]

FEATURES = ("pt", "eta", "phi", "mass", "btag", "charge", "width")


class SyntheticConfig(ReaderConfig):
    """Options of the synthetic reader."""

    events: PositiveInt = 1000
    """Entries per source."""
    names: tuple[str, ...] = ("toy:a", "toy:b")
    """Keys of the sources."""
    groups: tuple[str, ...] = ()
    """Group of each source; none where empty."""
    seed: int = 1
    """Seed of the content."""
    slots: PositiveInt = 18
    """Most jets of an event."""
    auto: bool = False
    """Whether the event description leaves the number of slots to prepare."""
    flat: bool = True
    """Whether jets come flat or padded."""
    rich: bool = True
    """Whether there are targets per jet, texts and observers."""
    table: bool = False
    """Whether to add the wide targets of the benchmarks' event table (1.4 kB per event)."""
    numbered: bool = False
    """Whether events have run and event numbers."""
    sorted_by_class: bool = False
    """Whether the first half of each source is background and the second signal."""
    broken: tuple[int, ...] = ()
    """Sources that raise in the middle when they are read."""
    deadly: tuple[int, ...] = ()
    """Entries of the first source that kill the process which reads them."""


class SyntheticReader(Reader):
    """Reads random events that need no file."""

    Config = SyntheticConfig
    config: SyntheticConfig

    def event_info(self) -> EventInfo:
        """Return the given description, or that of all that is generated."""
        if self.event is not None:
            return self.event
        return EventInfo.model_validate(
            {
                "streams": {
                    "jets": {
                        "slots": "auto" if self.config.auto else self.config.slots,
                        "order": "-pt",
                        "features": {
                            **dict.fromkeys(FEATURES),
                            "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                            "eta": {"transform": "standardise"},
                            "mass": {"unit": "GeV", "transform": ["asinh", "standardise"]},
                        },
                    }
                },
                "globals": {
                    "met": {
                        "features": {
                            "pt": {"unit": "GeV", "transform": ["log", "standardise"]},
                            "phi": None,
                        }
                    }
                },
                "particles": {
                    "t1": {"b": "jets", "q1": "jets", "q2": "jets"},
                    "t2": {"b": "jets", "q1": "jets", "q2": None},
                },
                "symmetries": {"event": [["t1", "t2"]], "t1": [["q1", "q2"]]},
                "targets": {
                    "signal": {"kind": "classification", "classes": ["background", "signal"]},
                    "kind": {"kind": "classification"},
                    "mass": {"kind": "regression", "unit": "GeV", "transform": "log1p"},
                    **(
                        {
                            "jets/flavour": {"kind": "classification", "stream": "jets"},
                            "jets/energy": {"kind": "regression", "stream": "jets"},
                        }
                        if self.config.rich
                        else {}
                    ),
                },
            }
        )

    def sources(self) -> list[Source]:
        """Return the named sources."""
        groups = self.config.groups or ("",) * len(self.config.names)
        return [
            Source(name, self.config.events, group, is_file=False)
            for name, group in zip(self.config.names, groups, strict=True)
        ]

    def read(self, chunk: Chunk) -> EventBatch:
        """Generate the events of a chunk.

        Raises:
            ReadError: In the middle of a source that is to be broken.
        """
        config = self.config
        middle = config.events // 2
        if chunk.source in config.broken and chunk.start <= middle < chunk.stop:
            raise ReadError(f"{config.names[chunk.source]}: entry {middle}: damaged on purpose")
        if chunk.source == 0 and any(chunk.start <= e < chunk.stop for e in config.deadly):
            import os

            os._exit(9)
        entries = np.arange(chunk.start, chunk.stop)
        make = _Random(config.seed, chunk.source, entries)
        counts = make.integers("count", config.slots + 1)
        streams: dict[str, StreamData] = {"jets": self._jets(make, counts)}
        label = make.integers("signal", 2)
        if config.sorted_by_class:
            label = (entries >= middle).astype(np.int64)
        arrays = {
            "met": np.stack(
                [5 - 40 * np.log(make.uniform("met")), make.angle("met.phi")], axis=1
            ).astype(np.float32),
            "target/signal": label,
            "target/kind": make.integers("kind", 4) - 1,
            "target/mass": np.where(
                make.uniform("has mass") < 0.2, np.nan, 100 + 50 * make.uniform("mass")
            ).astype(np.float32),
            "weight": make.uniform("weight") * 2 - 0.1,
            **_assignment(make, counts),
        }
        if config.rich:
            arrays |= {
                "extra/truth": make.uniform("truth", 6).reshape(-1, 2, 3),
                "extra/name": np.array([f"event {entry}" for entry in entries]),
            }
        if config.table:
            arrays |= _table(make)
        if config.numbered:
            arrays |= {"extra/run": entries // 100, "extra/event": entries.astype(np.uint64)}
        return EventBatch(
            ids=make_ids(chunk.source, entries),
            streams=streams,
            arrays=arrays,
            slots={"jets": config.slots},
            sources=config.names,
        )

    def _jets(self, make: _Random, counts: Array) -> StreamData:
        slots = self.config.slots
        columns = {
            "pt": 20 - 50 * np.log(make.uniform("pt", slots)),
            "eta": 5 * make.uniform("eta", slots) - 2.5,
            "phi": make.angle("phi", slots),
            "mass": 20 * make.uniform("jet mass", slots),
            "btag": (make.uniform("btag", slots) < 0.3).astype(np.float32),
            "charge": 2 * make.uniform("charge", slots) - 1,
            "width": make.uniform("width", slots) ** 2,
        }
        attached = (
            {
                "target/jets/flavour": make.integers("flavour", 6, slots),
                "target/jets/energy": (100 * make.uniform("energy", slots)).astype(np.float32),
                "extra/origin": make.integers("origin", 30_000, slots).astype(np.int32),
            }
            if self.config.rich
            else {}
        )
        mask = np.arange(slots) < counts[:, None]
        columns = {name: values.astype(np.float32) for name, values in columns.items()}
        padded = PaddedStream(columns, mask, attached)
        return padded.flat() if self.config.flat else padded


class SequentialSyntheticReader(SyntheticReader):
    """The same events from sources without random access."""

    sequential: ClassVar[bool] = True


class _Random:
    """Random numbers by entry: no state, so chunks do not matter."""

    def __init__(self, seed: int, source: int, entries: Array) -> None:
        self._seed = seed * 1000 + source
        self._entries = entries

    def uniform(self, name: str, columns: int | None = None) -> Array:
        """Return numbers in (0, 1), shape ``(event,)`` or ``(event, column)``."""
        tag = int.from_bytes(name.encode()[:8].ljust(8), "little")
        entries = np.repeat(self._entries, columns or 1)
        column = np.tile(np.arange(columns or 1), len(self._entries))
        hashes = hash_rows(self._seed ^ tag, [entries, column])
        numbers = (hashes >> np.uint64(11)) * 2.0**-53 + 2.0**-54
        return numbers if columns is None else numbers.reshape(-1, columns)

    def integers(self, name: str, stop: int, columns: int | None = None) -> Array:
        """Return integers from 0 to stop − 1."""
        return (self.uniform(name, columns) * stop).astype(np.int64)

    def angle(self, name: str, columns: int | None = None) -> Array:
        """Return angles in (−π, π)."""
        return (2 * self.uniform(name, columns) - 1) * np.pi


def _assignment(make: _Random, counts: Array) -> dict[str, Array]:
    """Six different jets of each event that has as many, else nothing."""
    enough = counts >= 6
    start = (make.uniform("assign") * np.maximum(counts - 5, 1)).astype(np.int64)
    indices = np.where(enough[:, None], start[:, None] + np.arange(6), -1)
    return {f"{ASSIGNMENT}t1": indices[:, :3], f"{ASSIGNMENT}t2": indices[:, 3:]}


def _table(make: _Random) -> dict[str, Array]:
    rows = len(make.uniform("rows"))
    real = make.uniform("candidates", 56) < 0.1
    indices = np.where(real[:, :, None], make.integers("index", 18, 168).reshape(-1, 56, 3), -1)
    numbers = {"conditions": (10,), "cls": (4, 9), "segments": (4, 18), "boxes": (4, 4)}
    tensors: dict[str, Array] = {}
    for name, shape in {**numbers, "invisible": (2, 5)}.items():
        values = make.uniform(name, int(np.prod(shape))).reshape(rows, *shape)
        # Targets are mostly padding, as in real files.
        tensors[f"extra/{name}"] = (values * (values > 0.5)).astype(np.float32)
    return {
        "extra/candidates": indices.astype(np.int8),
        "extra/candidates_mask": real,
        **tensors,
    }
