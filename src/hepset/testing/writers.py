"""`check_writer`: what it means to be a writer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
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
) -> None:
    """Check that a writer conforms.

    * Nothing is visible under the target's name before ``close``; a target that exists keeps its
      content until then.
    * ``abort``, and an error inside ``with``, leave the folder as it was; ``abort`` after
      ``close`` does nothing.
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

    Raises:
        AssertionError: Naming the property, the tensor and the reason.
    """
    require(len(batch) >= 4, "check_writer needs four events or more, to write them in parts")
    writer = make_writer()
    require(isinstance(writer, Writer), f"{type(writer).__name__} is not derived from Writer")
    check_options(type(writer), writer.Config, WriterConfig)
    parts = [list(iterate_rows(batch, size)) for size in (len(batch), (len(batch) + 1) // 2, 1)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _check_nothing_before_close(make_writer, parts[1], contract, folder / "close", name)
        _check_abort(make_writer, parts[1], contract, folder / "abort", name)
        _check_replaces(make_writer, parts[1], contract, folder / "replace", name)
        for number, cut in enumerate(parts):
            target = _new(folder / f"back{number}", name)
            _write(make_writer(), target, contract, cut)
            if read_back is not None:
                how = f"written in {len(cut)} batches"
                _require_written(read_back(target), batch, tensors, how)
        empty = batch.take(np.zeros(0, np.int64))
        for what, cut in (("no batch", []), ("one batch without events", [empty])):
            _check_empty(make_writer, cut, contract, _new(folder / what, name), what, read_back)
        if read_back is not None:
            target = _new(folder / "mixed", name)
            _write(make_writer(), target, contract, [parts[1][0], empty, *parts[1][1:]])
            how = "written with an empty batch in between"
            _require_written(read_back(target), batch, tensors, how)


def _check_nothing_before_close(
    make_writer: Callable[[], Writer],
    parts: list[EventBatch],
    contract: Contract,
    folder: Path,
    name: str,
) -> None:
    target = _new(folder, name)
    writer = make_writer()
    writer.open(target, contract)
    for when, part in (("open", None), *(("write", part) for part in parts)):
        if part is not None:
            writer.write(part)
        seen = _visible(folder)
        require(
            not seen,
            f"after {when} and before close {seen} can be seen: a run that is killed would leave "
            "a file that looks complete; write to a hidden file beside the target",
        )
    writer.close()
    _require_only(folder, {name}, "after close")
    writer.abort()
    _require_only(folder, {name}, "after abort of a writer that is closed")


def _check_abort(
    make_writer: Callable[[], Writer],
    parts: list[EventBatch],
    contract: Contract,
    folder: Path,
    name: str,
) -> None:
    target = _new(folder, name)
    writer = make_writer()
    writer.abort()
    writer.open(target, contract)
    writer.abort()
    _require_only(folder, set(), "after open and abort")
    writer = make_writer()
    writer.open(target, contract)
    writer.write(parts[0])
    writer.abort()
    _require_only(folder, set(), "after write and abort")
    writer.abort()
    writer = make_writer()
    try:
        with writer:
            writer.open(target, contract)
            writer.write(parts[0])
            raise _Interrupted  # noqa: TRY301  what `with` does with it is the question
    except _Interrupted:
        pass
    else:
        raise AssertionError("an error inside `with writer:` is swallowed")
    _require_only(folder, set(), "after an error inside `with`")


def _check_replaces(
    make_writer: Callable[[], Writer],
    parts: list[EventBatch],
    contract: Contract,
    folder: Path,
    name: str,
) -> None:
    target = _new(folder, name)
    target.write_bytes(_OLD)

    def is_old() -> bool:
        return target.is_file() and target.read_bytes() == _OLD

    writer = make_writer()
    writer.open(target, contract)
    require(is_old(), "open destroys a file of the target's name before there is a new one")
    writer.write(parts[0])
    require(is_old(), "write changes a file of the target's name before close")
    writer.abort()
    require(is_old(), "abort changes a file that was there before")
    _require_only(folder, {name}, "after abort beside a file that was there before")
    _write(make_writer(), target, contract, parts)
    require(not is_old(), "close leaves the old file of the target's name in place")
    _require_only(folder, {name}, "after replacing a file")


def _check_empty(
    make_writer: Callable[[], Writer],
    parts: list[EventBatch],
    contract: Contract,
    target: Path,
    what: str,
    read_back: Callable[[Path], EventBatch] | None,
) -> None:
    writer = make_writer()
    try:
        _write(writer, target, contract, parts)
    except HepsetError:
        writer.abort()
        _require_only(target.parent, set(), f"after refusing {what}")
        return
    except Exception as problem:
        raise AssertionError(
            f"writing {what} raises {type(problem).__name__} ({problem}): a selection may leave "
            "no event; write an empty file, or refuse with a HepsetError that says so"
        ) from problem
    _require_only(target.parent, {target.name}, f"after writing {what}")
    if read_back is not None:
        found = len(read_back(target))
        require(found == 0, f"{what} written, {found} events read back")


def _require_written(
    found: EventBatch, expected: EventBatch, tensors: Collection[str] | None, how: str
) -> None:
    require(
        len(found) == len(expected),
        f"{how}: {len(found)} events read back instead of {len(expected)}",
    )
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


def _write(writer: Writer, target: Path, contract: Contract, parts: list[EventBatch]) -> None:
    with writer:
        writer.open(target, contract)
        for part in parts:
            writer.write(part)


def _new(folder: Path, name: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder / name


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _require_only(folder: Path, expected: set[str], when: str) -> None:
    found = {path.name for path in folder.iterdir()}
    require(
        found == expected,
        f"{when} the folder holds {sorted(found) or 'nothing'} instead of "
        f"{sorted(expected) or 'nothing'}: temporary files stay, or the result is missing",
    )
