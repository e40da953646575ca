from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hepset.batch import EventBatch
from hepset.interfaces.writer import Writer, open_writer
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo


class _Silent(Writer):
    def write(self, batch: EventBatch) -> None:
        del batch

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def test_a_writer_is_told_what_it_asks_for() -> None:
    told: dict[str, Any] = {}

    class Some(_Silent):
        def open(  # type: ignore[override]  # as a plugin may write it
            self, target: Path, contract: Contract, *, events: int | None, classes: Any
        ) -> None:
            del target, contract
            told.update(events=events, classes=classes)

    class All(_Silent):
        def open(self, target: Path, contract: Contract, **known: Any) -> None:
            del target, contract
            told.update(known)

    event = EventInfo.parse({"streams": {"jets": {"slots": 1, "features": {"pt": {}}}}}, "event")
    open_writer(Some(), Path("a"), Contract(), event=event, events=3, classes={"target/x": ["a"]})
    assert told == {"events": 3, "classes": {"target/x": ["a"]}}
    open_writer(All(), Path("a"), Contract(), event=event, events=4)
    assert told["event"] is event
    assert told["events"] == 4


def test_a_writer_of_two_arguments_works_with_a_deprecation() -> None:
    opened = []

    class Former(_Silent):
        def open(self, target: Path, contract: Contract) -> None:  # type: ignore[override]
            opened.append((target, contract))

    with pytest.warns(DeprecationWarning, match="Former.open takes no keywords"):
        open_writer(Former(), Path("a"), Contract(), events=3)
    assert opened == [(Path("a"), Contract())]
