from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from hepset.batch import EventBatch, FlatStream, PaddedStream, make_ids
from hepset.errors import ReadError
from hepset.interfaces.reader import (
    Chunk,
    FileReaderConfig,
    Reader,
    ReaderConfig,
    Source,
    expand_files,
)
from hepset.schema.event import EventInfo
from hepset.testing import check_reader
from hepset.testing.readers import _check_light

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"features": {"pt": {"transform": "log1p"}}}},
        "targets": {"signal": {"kind": "classification", "classes": ["no", "yes"]}},
    }
)


class JsonReader(Reader):
    """Reads lists of [[pt, …], signal] from JSON; conforms unless it has a flaw."""

    Config: ClassVar[type[ReaderConfig]] = FileReaderConfig
    config: FileReaderConfig
    flaw: ClassVar[str] = ""

    def __init__(self, config: ReaderConfig, event: EventInfo | None = None) -> None:
        super().__init__(config, event)
        self.calls = 0
        if self.flaw == "keeps a file":
            self.file = sys.__stdout__  # an open file that nobody has to close

    def event_info(self) -> EventInfo:
        self.calls += 1
        if self.flaw == "other event":
            return EVENT.model_copy(update={"shared_objects": self.calls % 2 == 0})
        return EVENT

    def _load(self, path: str) -> list[tuple[list[float], int]]:
        if self.flaw == "reads anything" and "damaged" in path:
            return [([1.0], 0)]
        try:
            return json.loads(Path(path).read_text())  # type: ignore[no-any-return]
        except json.JSONDecodeError as problem:
            if self.flaw == "raw error":
                raise
            name = "a file" if self.flaw == "no name" else path
            raise ReadError(f"{name}: {problem}") from problem

    def _paths(self) -> list[str]:
        return [path for path, _ in expand_files(self.config.files)]

    def sources(self) -> list[Source]:
        found = [Source(path, len(self._load(path))) for path in self._paths()]
        return [*found, found[0]] if self.flaw == "one source twice" else found

    def chunks(self) -> list[Chunk]:
        found = super().chunks()
        if self.flaw == "loses the last chunk":
            return found[:-1]
        if self.flaw == "reads twice":
            return [*found, found[0]]
        if self.flaw == "beyond the end":
            last = found[-1]
            return [*found[:-1], Chunk(last.source, last.start, last.stop + 1)]
        if self.flaw == "ignores max_events":
            config = self.config.model_copy(update={"max_events": None})
            return Reader.chunks(type(self)(config))
        return found

    def read(self, chunk: Chunk) -> EventBatch:
        rows = self._load(self._paths()[chunk.source])[chunk.start : chunk.stop]
        entries = np.arange(chunk.start, chunk.stop)
        if self.flaw == "loses an entry" and len(rows) > 1:
            rows, entries = rows[:-1], entries[:-1]
        if self.flaw == "drops empty events":
            entries = entries[[bool(jets) for jets, _ in rows]]
            rows = [row for row in rows if row[0]]
        counts = np.array([len(jets) for jets, _ in rows], np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        pt = np.array([pt for jets, _ in rows for pt in jets], np.float32)
        signal = np.array([signal for _, signal in rows], np.int64)
        if self.flaw == "scales":
            pt = pt / pt.max(initial=1.0)
        if self.flaw == "negative pt":
            pt = pt - 1000
        if self.flaw == "counts calls":
            self.calls += 1
            pt = pt + self.calls
        if self.flaw == "other dtype" and chunk.start:
            pt = pt.astype(np.float64)
        if self.flaw == "pads to the chunk":
            mask = np.arange(counts.max(initial=0)) < counts[:, None]
            padded = np.zeros(mask.shape, np.float32)
            padded[mask] = pt
            stream: FlatStream | PaddedStream = PaddedStream({"pt": padded}, mask)
        else:
            stream = FlatStream(offsets, {"pt": pt})
        arrays = {"target/signal": signal}
        if self.flaw == "undeclared":
            arrays["target/other"] = signal
        if self.flaw == "entries of the chunk":
            entries = entries - chunk.start
        source = 0 if self.flaw == "one source" else chunk.source
        if self.flaw == "same entry":
            entries = np.full_like(entries, chunk.start)
        return EventBatch(
            make_ids(source, entries),
            {"jets": stream},
            arrays,
            sources=[] if self.flaw == "no sources" else self._paths(),
        )


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(3)
    paths = []
    for number, size in enumerate((13, 6)):
        rows = [
            [[round(float(pt), 3) for pt in rng.exponential(40, rng.integers(0, 4))], int(row % 2)]
            for row in range(size)
        ]
        rows[1][0] = []
        rows[2][0] = [40.0, 30.0]
        path = tmp_path / f"events{number}.json"
        path.write_text(json.dumps(rows))
        paths.append(str(path))
    return paths


def flawed(flaw: str = "", base: type[Reader] = JsonReader, **more: object) -> type[Reader]:
    broken = type("Broken", (base,), {"flaw": flaw, "__module__": __name__, **more})
    # Pickling looks a class up by its name.
    globals()["Broken"] = broken
    return broken


def test_a_conforming_reader_passes(files: list[str]) -> None:
    check_reader(JsonReader(FileReaderConfig(files=files, chunk_size=5)))
    check_reader(JsonReader(FileReaderConfig(files=files)))
    check_reader(JsonReader(FileReaderConfig(files=files[:1], chunk_size=1, max_events=7)))


def test_padding_may_depend_on_the_chunk(files: list[str]) -> None:
    padded = flawed("pads to the chunk")
    check_reader(padded(FileReaderConfig(files=files, chunk_size=5)))


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("keeps a file", "the reader cannot be pickled .*so no worker can read"),
        ("other event", "event_info.. differs from call to call"),
        ("one source twice", "sources.. names .*events0.json'. twice"),
        ("loses the last chunk", "leaves out 1 of 6 entries of .*events1.json"),
        ("reads twice", "covers 5 entries of .*events0.json' more than once"),
        ("beyond the end", "has the entries 0 to 5"),
        ("ignores max_events", r"chunks\(\) covers 19 entries instead of 14 \(max_events: 14\)"),
        ("loses an entry", r"entries of .*events0.json' give no row \(first: entry \[4\]"),
        ("drops empty events", "a reader loses no event; selecting is for prepare"),
        ("scales", "gives other events .*: jets.pt: 2 of 2 values differ"),
        ("counts calls", "gives other events .*: jets.pt"),
        ("negative pt", "do not obey the contract of event_info.*\n.*jets.pt: domain"),
        ("other dtype", "jets.pt: float64 in .*, float32 in"),
        ("undeclared", "does not declare the tensor 'target/other'"),
        ("entries of the chunk", 'ids."entry". is .* outside the chunk'),
        ("one source", 'ids."source". is .0. for .* events instead of 1'),
        ("same entry", "ids are given to more than one row"),
        ("no sources", "batch.sources is .. instead of"),
        ("raw error", "a damaged file raises JSONDecodeError .* not hepset.ReadError"),
        ("no name", "a damaged file is not named"),
        ("reads anything", "a damaged file is read without an error"),
    ],
)
def test_a_flaw_is_named(flaw: str, message: str, files: list[str]) -> None:
    broken = flawed(flaw)
    with pytest.raises(AssertionError, match=message):
        check_reader(broken(FileReaderConfig(files=files, chunk_size=5)))


class OtherScalars(JsonReader):
    """Gives other rows when it is asked for scalars only."""

    def read_scalars(self, chunk: Chunk) -> EventBatch:
        batch = super().read_scalars(chunk)
        return batch.take(np.arange(len(batch))[::-1])


class OtherRows(JsonReader):
    """Gives rows in file order, whatever order was asked for."""

    def read_rows(self, chunk: Chunk, rows: NDArray[Any]) -> EventBatch:
        return super().read_rows(chunk, rows if rows.dtype == bool else np.sort(rows))


def test_reading_in_two_steps_is_checked(files: list[str]) -> None:
    config = FileReaderConfig(files=files, chunk_size=5)
    with pytest.raises(AssertionError, match=r"read_scalars\(.* gives other rows than read"):
        check_reader(OtherScalars(config))
    with pytest.raises(AssertionError, match=r"read_rows\(.* with numbers gives other events"):
        check_reader(OtherRows(config))


def test_a_reader_may_select_if_it_says_so(files: list[str]) -> None:
    selecting = flawed("drops empty events")
    reader = selecting(FileReaderConfig(files=files, chunk_size=5))
    check_reader(reader, every_entry=False)
    # Losing by place in the chunk is not a selection.
    losing = flawed("loses an entry")
    with pytest.raises(AssertionError, match="gives other events"):
        check_reader(losing(FileReaderConfig(files=files, chunk_size=5)), every_entry=False)


class InOrder(JsonReader):
    """Can only go on from where it stopped."""

    sequential = True

    def __init__(self, config: ReaderConfig, event: EventInfo | None = None) -> None:
        super().__init__(config, event)
        self.at = (0, 0)

    def read(self, chunk: Chunk) -> EventBatch:
        if chunk.start and (chunk.source, chunk.start) != self.at:
            raise RuntimeError(f"cannot go from {self.at} to {chunk}")
        self.at = (chunk.source, chunk.stop)
        return super().read(chunk)


def test_a_sequential_reader_is_read_in_order(files: list[str]) -> None:
    check_reader(InOrder(FileReaderConfig(files=files, chunk_size=5)))
    not_said = flawed(base=InOrder, sequential=False)
    with pytest.raises(AssertionError, match=r"sequential = True"):
        check_reader(not_said(FileReaderConfig(files=files, chunk_size=5)))


def test_torch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonReader, "__module__", "torch")
    with pytest.raises(AssertionError, match="importing torch loads torch"):
        _check_light(JsonReader)
