from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.errors import ContractError
from hepset.interfaces.writer import Writer
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import check_writer, make_batch

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"features": {"pt": {"transform": "log1p"}, "eta": {}}}},
        "globals": {"met": {"features": {"pt": {}}}},
        "targets": {"mass": {"kind": "regression"}},
    }
)
CONTRACT = compile_contract(EVENT)
BATCH = make_batch(CONTRACT, 7, 5)


class LinesWriter(Writer):
    """Writes one line of JSON per event; conforms unless it has a flaw."""

    flaw: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Path | None = None

    def open(self, target: Path, contract: Contract) -> None:
        del contract
        self.target = target
        name = "part.tmp" if self.flaw == "visible" else f".{target.name}.part"
        self.hidden = target if self.flaw == "in place" else target.with_name(name)
        self.hidden.write_text("")
        if self.flaw == "deletes first":
            target.unlink(missing_ok=True)
        if self.flaw == "litters":
            target.with_name(".lock").write_text("")
        self.events = 0

    def write(self, batch: EventBatch) -> None:
        if self.flaw == "chokes on nothing" and not len(batch):
            raise IndexError("list index out of range")
        assert self.hidden is not None
        names = [name for name in batch.names() if name != "jets.mask"]
        jets = batch.flat("jets")
        if self.flaw == "pads":  # reads what is no object
            padded, slots = batch["jets"], batch["jets"].shape[1]
            columns = {"pt": padded[..., 0].ravel(), "eta": padded[..., 1].ravel()}
            jets = FlatStream(np.arange(len(batch) + 1) * slots, columns)
        with self.hidden.open("w" if self.flaw == "keeps the last" else "a") as file:
            for row in range(len(batch)):
                event: dict[str, Any] = {n: batch[n][row].tolist() for n in names if n != "jets"}
                objects = slice(jets.offsets[row], jets.offsets[row + 1])
                event["jets"] = {n: v[objects].tolist() for n, v in jets.columns.items()}
                if self.flaw == "forgets":
                    del event["target/mass"]
                event["entry"] = int(batch.ids["entry"][row])
                if self.flaw == "numbers anew":
                    event["entry"] = row
                if self.flaw == "rounds":
                    event["met"] = [round(value, 2) for value in event["met"]]
                file.write(json.dumps(event) + "\n")
        self.events += len(batch)
        if self.flaw == "shuffles":
            lines = self.hidden.read_text().splitlines(keepends=True)
            self.hidden.write_text("".join(lines[::-1]))

    def close(self) -> None:
        if self.flaw == "wants events" and not self.events:
            raise ContractError("no event was written")
        if self.flaw == "keeps the old" and self.target.exists():
            self.abort()
            return
        assert self.hidden is not None
        self.hidden.replace(self.target)
        self.hidden = self.target if self.flaw == "aborts what is closed" else None

    def abort(self) -> None:
        if self.hidden is not None and self.flaw != "stays":
            self.hidden.unlink(missing_ok=True)
            self.hidden = None


class Swallowing(LinesWriter):
    def __exit__(self, *reason: object) -> bool:  # type: ignore[override]
        self.abort()
        return True


def read_lines(path: Path) -> EventBatch:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    counts = [len(event["jets"]["pt"]) for event in events]
    columns = {
        name: np.array([v for event in events for v in event["jets"][name]], np.float32)
        for name in ("pt", "eta")
    }
    others = {name for event in events for name in event if name not in {"jets", "entry"}}
    dtypes = {"met": np.float32, "met.mask": bool, "target/mass": np.float32, "weight": np.float64}
    return EventBatch(
        make_ids(0, [event["entry"] for event in events]),
        {"jets": FlatStream(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), columns)},
        {name: np.array([event[name] for event in events], dtypes[name]) for name in others},
    )


def test_a_conforming_writer_passes() -> None:
    check_writer(LinesWriter, BATCH, CONTRACT, read_back=read_lines)
    check_writer(LinesWriter, BATCH, CONTRACT)
    picky = type("Picky", (LinesWriter,), {"flaw": "wants events"})
    check_writer(picky, BATCH, CONTRACT, read_back=read_lines)


def test_what_a_format_has_no_place_for_can_be_left_out() -> None:
    forgetful = type("Forgetful", (LinesWriter,), {"flaw": "forgets"})
    names = ["jets", "met", "weight"]
    check_writer(forgetful, BATCH, CONTRACT, read_back=read_lines, tensors=names)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("visible", r"after open and before close \['part.tmp'\] can be seen"),
        ("in place", r"before close \['events.out'\] can be seen"),
        (
            "aborts what is closed",
            "after abort of a writer that is closed the folder holds nothing",
        ),
        ("litters", r"after close the folder holds \['.lock', 'events.out'\]"),
        ("stays", "after open and abort the folder holds .*part"),
        ("deletes first", "open destroys a file of the target's name"),
        ("keeps the old", "close leaves the old file"),
        ("keeps the last", "written in 2 batches: 3 events read back instead of 7"),
        ("forgets", "'target/mass' does not read back: it is lost in silence"),
        ("pads", "written in 1 batches: jets: number of objects"),
        ("numbers anew", "written in 2 batches: ids"),
        ("shuffles", "written in 1 batches: jets: number of objects: .* differ"),
        ("rounds", "written in 1 batches: met: .* values differ"),
        ("chokes on nothing", "raises IndexError"),
    ],
)
def test_a_flaw_is_named(flaw: str, message: str) -> None:
    broken = type("Broken", (LinesWriter,), {"flaw": flaw})
    names = [*BATCH.names(), "ids"]
    with pytest.raises(AssertionError, match=message):
        check_writer(broken, BATCH, CONTRACT, read_back=read_lines, tensors=names)


def test_a_writer_may_shuffle_if_it_says_so() -> None:
    shuffling = type("Shuffling", (LinesWriter,), {"flaw": "shuffles"})
    check_writer(shuffling, BATCH, CONTRACT, read_back=read_lines, order=False)
    losing = type("Losing", (LinesWriter,), {"flaw": "numbers anew"})
    with pytest.raises(AssertionError, match="ids, by which shuffled events are compared"):
        check_writer(losing, BATCH, CONTRACT, read_back=read_lines, order=False)


def test_an_error_may_not_be_swallowed() -> None:
    with pytest.raises(AssertionError, match="is swallowed"):
        check_writer(Swallowing, BATCH, CONTRACT)
