"""`check_writer`: what it means to be a writer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from hepset.batch import EventBatch, iterate_rows
from hepset.errors import HepsetError
from hepset.interfaces.writer import Writer, WriterConfig
from hepset.schema.contract import Contract
from hepset.testing.conditions import check_options, require, require_same

__all__ = ["check_writer"]

_OLD = b"what was here before"


class _Interrupted(Exception):
    """Stands for anything that goes wrong while events are written."""


def check_writer(
    make_writer: Callable[[], Writer],
    batch: EventBatch,
    contract: Contract,
    *,
    read_back: Callable[[Path], EventBatch] | None = None,
    tensors: Collection[str] | None = None,
    name: str = "events.out",
    order: bool = True,
) -> None:
    """Check that a writer conforms.

    * Nothing is visible under the target's name before ``close``; a target that exists keeps its
      content until then.
    * ``abort``, and an error inside ``with``, leave the folder as it was; ``abort`` after
      ``close`` is a no-op.
    * No file but the target remains.
    * What is written in several batches of any sizes reads back equal, in order.
    * No events at all are written, or refused by a `HepsetError` that leaves nothing.

    Args:
        make_writer: Makes a fresh writer.
        batch: Some events (four or more); with predictions where the writer is for predictions.
        contract: What they obey.
        read_back: Reads a written file, for the comparison.
        tensors: Tensors, and ``<head>/<field>`` predictions, that have to read back; all of the
            batch without. ``ids`` stands for the identity of the events.
        name: Name of the file, where the format asks for a suffix.
        order: Whether events come back in the order in which they were written; False for a
            writer that shuffles. They are then compared by their ids, which have to read back.

    Raises:
        AssertionError: Naming the property, the tensor and the reason.
    """
    require(len(batch) >= 4, "check_writer needs four events or more, to write them in parts")
    writer = make_writer()
    require(isinstance(writer, Writer), f"{type(writer).__name__} is not derived from Writer")
    check_options(type(writer), writer.Config, WriterConfig)
    with tempfile.TemporaryDirectory() as scratch:
        check = _Check(make_writer, contract, Path(scratch), name)
        whole, halves, single = (
            list(iterate_rows(batch, size)) for size in (len(batch), (len(batch) + 1) // 2, 1)
        )
        check.nothing_before_close(halves)
        check.abort(halves)
        check.replace(halves)
        empty = batch.take(np.zeros(0, np.int64))
        for what, parts in (("no batch", []), ("one batch without events", [empty])):
            check.empty(parts, what, read_back)
        for how, parts in (
            ("in 1 batches", whole),
            ("in 2 batches", halves),
            (f"in {len(batch)} batches", single),
            ("with an empty batch in between", [halves[0], empty, *halves[1:]]),
        ):
            target = check.written(make_writer(), parts)
            if read_back is not None:
                _require_written(read_back(target), batch, tensors, f"written {how}", order=order)


class _Check:
    """The properties of one writer, each in a folder of its own."""

    def __init__(
        self, make_writer: Callable[[], Writer], contract: Contract, scratch: Path, name: str
    ) -> None:
        self.make, self.contract, self.scratch, self.name = make_writer, contract, scratch, name
        self.folders = 0

    def target(self) -> Path:
        """A path in a new folder."""
        self.folders += 1
        folder = self.scratch / str(self.folders)
        folder.mkdir()
        return folder / self.name

    def opened(self, target: Path) -> Writer:
        writer = self.make()
        writer.open(target, self.contract)
        return writer

    def written(
        self, writer: Writer, parts: Sequence[EventBatch], target: Path | None = None
    ) -> Path:
        path = target or self.target()
        with writer:
            writer.open(path, self.contract)
            for part in parts:
                writer.write(part)
        return path

    def only(self, target: Path, expected: set[str], when: str) -> None:
        found = {path.name for path in target.parent.iterdir()}
        require(
            found == expected,
            f"{when} the folder holds {sorted(found) or 'nothing'} instead of "
            f"{sorted(expected) or 'nothing'}: temporary files stay, or the result is missing",
        )

    def nothing_before_close(self, parts: Sequence[EventBatch]) -> None:
        target = self.target()
        writer = self.opened(target)
        for when, part in (("open", None), *(("write", part) for part in parts)):
            if part is not None:
                writer.write(part)
            names = (path.name for path in target.parent.iterdir())
            seen = sorted(each for each in names if not each.startswith("."))
            require(
                not seen,
                f"after {when} and before close {seen} can be seen: a run that is killed would "
                "leave a file that looks complete; write to a hidden file beside the target",
            )
        writer.close()
        self.only(target, {self.name}, "after close")
        writer.abort()
        self.only(target, {self.name}, "after abort of a writer that is closed")

    def abort(self, parts: Sequence[EventBatch]) -> None:
        target = self.target()
        self.make().abort()
        self.opened(target).abort()
        self.only(target, set(), "after open and abort")
        writer = self.opened(target)
        writer.write(parts[0])
        for when in ("after write and abort", "after a second abort"):
            writer.abort()
            self.only(target, set(), when)
        writer = self.make()
        try:
            with writer:
                writer.open(target, self.contract)
                writer.write(parts[0])
                raise _Interrupted  # noqa: TRY301  what `with` does with it is the question
        except _Interrupted:
            pass
        else:
            raise AssertionError("an error inside `with writer:` is swallowed")
        self.only(target, set(), "after an error inside `with`")

    def replace(self, parts: Sequence[EventBatch]) -> None:
        target = self.target()
        target.write_bytes(_OLD)

        def require_old(message: str) -> None:
            require(target.is_file() and target.read_bytes() == _OLD, message)

        writer = self.opened(target)
        require_old("open destroys a file of the target's name before there is a new one")
        writer.write(parts[0])
        require_old("write changes a file of the target's name before close")
        writer.abort()
        require_old("abort changes a file that was there before")
        self.only(target, {self.name}, "after abort beside a file that was there before")
        self.written(self.make(), parts, target)
        is_old = target.is_file() and target.read_bytes() == _OLD
        require(not is_old, "close leaves the old file of the target's name in place")
        self.only(target, {self.name}, "after replacing a file")

    def empty(
        self,
        parts: Sequence[EventBatch],
        what: str,
        read_back: Callable[[Path], EventBatch] | None,
    ) -> None:
        writer, target = self.make(), self.target()
        try:
            self.written(writer, parts, target)
        except HepsetError:
            writer.abort()
            self.only(target, set(), f"after refusing {what}")
            return
        except Exception as problem:
            raise AssertionError(
                f"writing {what} raises {type(problem).__name__} ({problem}): a selection may "
                "leave no event; write an empty file, or refuse with a HepsetError that says so"
            ) from problem
        self.only(target, {target.name}, f"after writing {what}")
        if read_back is not None:
            found = len(read_back(target))
            require(found == 0, f"{what} written, {found} events read back")


def _require_written(
    found: EventBatch,
    expected: EventBatch,
    tensors: Collection[str] | None,
    how: str,
    *,
    order: bool,
) -> None:
    require(
        len(found) == len(expected),
        f"{how}: {len(found)} events read back instead of {len(expected)}",
    )
    if not order:
        found, expected = (each.take(np.argsort(each.ids)) for each in (found, expected))
        require_same(found.ids, expected.ids, f"{how}: ids, by which shuffled events are compared")
    names = [*expected.names(), *expected.predictions] if tensors is None else list(tensors)
    for name in names:
        if name == "ids":
            require_same(found.ids, expected.ids, f"{how}: ids")
            continue
        have, want = _values(found, name), _values(expected, name)
        if want is None:
            raise AssertionError(f"tensors names {name!r}, which the batch does not hold")
        if have is None:
            raise AssertionError(
                f"{how}: {name!r} does not read back: it is lost in silence; write it, refuse it, "
                "or leave it out of `tensors` where the format has no place for it"
            )
        if name in expected.streams:
            one, other = found.flat(name), expected.flat(name)
            require_same(one.counts, other.counts, f"{how}: {name}: number of objects")
            for column, values in other.columns.items():
                require(column in one.columns, f"{how}: {name}.{column} does not read back")
                require_same(one.columns[column], values, f"{how}: {name}.{column}")
        elif name.endswith(".mask") and name.removesuffix(".mask") in expected.streams:
            continue  # the number of objects says it all
        elif any(name in stream.attached for stream in expected.streams.values()):
            stream = next(s for s, data in expected.streams.items() if name in data.attached)
            require_same(
                found.flat(stream).attached[name],
                expected.flat(stream).attached[name],
                f"{how}: {name}",
            )
        elif name in expected.arrays and f"{name}.mask" in expected.arrays:
            present = expected.arrays[f"{name}.mask"]
            require_same(have[present], want[present], f"{how}: {name}")
        else:
            require_same(have, want, f"{how}: {name}")


def _values(batch: EventBatch, name: str) -> np.ndarray | None:
    return batch.predictions[name] if name in batch.predictions else batch.get(name)
