"""`check_reader`: what it means to be a reader."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from hepset.batch import ID_DTYPE, EventBatch, concatenate
from hepset.errors import HepsetError, ReadError
from hepset.interfaces.reader import Chunk, FileReaderConfig, Reader, ReaderConfig, Source
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.testing.conditions import check_options, require, require_same_batch

__all__ = ["check_reader"]


def check_reader(
    reader: Reader,
    *,
    entries: int = 20,
    sizes: Sequence[int] = (1, 3),
    every_entry: bool = True,
) -> None:
    """Check that a reader conforms.

    * The description is an `EventInfo`, the same whenever it is asked for.
    * Sources and chunks are plain, picklable and always the same; the chunks cover every entry of
      every source once, or the first ``max_events``.
    * Batches obey the contract of the description; ids are unique and lie in the chunk.
    * Any cut into chunks gives the same events, in any order unless the reader is `sequential`;
      a pickled copy reads the same.
    * `read_scalars` gives the same rows without streams, `read_rows` some of them, `block_start` no
      later entry.
    * A file that is missing or damaged is a `ReadError` that names it.
    * Importing the reader loads no torch.

    Args:
        reader: Reads a small sample, best of several files and with an event without objects.
        entries: Entries of each source, from its beginning and from its end, that are read in
            other cuts.
        sizes: Events per chunk of these cuts.
        every_entry: Whether every entry gives a row; False for a reader that selects, or that
            makes samples of the objects of an event.

    Raises:
        AssertionError: Naming the property, the tensor and the reason.
    """
    require(
        isinstance(reader, Reader), f"{type(reader).__name__} is not derived from hepset.Reader"
    )
    check_options(type(reader), reader.Config, ReaderConfig)
    event = _check_description(reader)
    sources = _check_sources(reader)
    chunks = _check_chunks(reader, sources)
    batches = [reader.read(chunk) for chunk in chunks]
    contract = compile_contract(event)
    for chunk, batch in zip(chunks, batches, strict=True):
        _check_batch(reader, contract, sources, chunk, batch)
    _check_agreement(chunks, batches)
    _check_ids(sources, chunks, batches, every_entry=every_entry)
    _check_cuts(reader, chunks, batches, entries, sizes)
    _check_two_steps(reader, chunks, batches)
    _check_options_of_chunks(reader, sources, batches)
    if isinstance(reader.config, FileReaderConfig):
        _check_missing_file(reader, sources)
    _check_light(type(reader))


def _check_description(reader: Reader) -> EventInfo:
    event = reader.event_info()
    require(
        isinstance(event, EventInfo),
        f"event_info() gives {type(event).__name__}, not an EventInfo: nothing can be compiled",
    )
    require(
        reader.event_info() == event,
        "event_info() differs from call to call: workers would disagree on what an event is",
    )
    stored = EventInfo.model_validate(event.model_dump(mode="json"))
    require(stored == event, "event_info() is not the same after being stored as JSON")
    slots = reader.input_slots()
    unknown = set(slots) - set(event.streams)
    require(not unknown, f"input_slots() names {sorted(unknown)}, which are no streams")
    return event


def _check_sources(reader: Reader) -> list[Source]:
    sources = reader.sources()
    require(sources, "sources() is empty: there is nothing to check; give a small sample")
    for source in sources:
        require(source.key, f"sources() holds {source!r} without a key")
        require(source.entries >= 0, f"source {source.key!r} has {source.entries} entries")
        require(
            not source.is_file or "://" in source.key or Path(source.key).exists(),
            f"source {source.key!r} says that it is a file, and there is none of this path: the "
            "digest of inputs needs it (a generator sets is_file=False)",
        )
    keys = [source.key for source in sources]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    require(not twice, f"sources() names {twice} twice: the ids of their events would collide")
    require(reader.sources() == sources, "sources() differs from call to call")
    copy = _copied(reader)
    require(copy.sources() == sources, "sources() of a pickled copy differ: workers would disagree")
    return sources


def _check_chunks(reader: Reader, sources: list[Source]) -> list[Chunk]:
    chunks = reader.chunks()
    require(reader.chunks() == chunks, "chunks() differs from call to call")
    require(_copied(reader).chunks() == chunks, "chunks() of a pickled copy differ")
    require(
        pickle.loads(pickle.dumps(chunks)) == chunks,
        "chunks do not survive pickling: they are what is sent to workers",
    )
    _check_cover(reader, sources, chunks, reader.config.max_events)
    return chunks


def _check_cover(
    reader: Reader, sources: list[Source], chunks: list[Chunk], max_events: int | None
) -> None:
    covered = [np.zeros(source.entries, int) for source in sources]
    last: tuple[int, int] = (0, 0)
    for chunk in chunks:
        require(0 <= chunk.source < len(sources), f"{chunk}: there are {len(sources)} sources")
        size = sources[chunk.source].entries
        require(
            0 <= chunk.start < chunk.stop <= size,
            f"{chunk}: source {sources[chunk.source].key!r} has the entries 0 to {size - 1}",
        )
        covered[chunk.source][chunk.start : chunk.stop] += 1
        require(
            not reader.sequential or (chunk.source, chunk.start) >= last,
            f"{chunk} comes after {last}: a sequential reader is read in the order of its chunks",
        )
        last = (chunk.source, chunk.stop)
    for source, times in zip(sources, covered, strict=True):
        twice = np.flatnonzero(times > 1)
        require(
            not len(twice),
            f"chunks() covers {len(twice)} entries of {source.key!r} more than once (first: "
            f"{twice[:1]}): these events would count twice",
        )
    total = sum(source.entries for source in sources)
    expected = total if max_events is None else min(total, max_events)
    found = sum(len(chunk) for chunk in chunks)
    if max_events is None:
        for source, times in zip(sources, covered, strict=True):
            lost = np.flatnonzero(times == 0)
            require(
                not len(lost),
                f"chunks() leaves out {len(lost)} of {source.entries} entries of {source.key!r} "
                f"(first: {lost[:1]}): these events would be lost in silence",
            )
    require(
        found == expected,
        f"chunks() covers {found} entries instead of {expected} (max_events: {max_events})",
    )


def _check_batch(
    reader: Reader, contract: Contract, sources: list[Source], chunk: Chunk, batch: EventBatch
) -> None:
    require(isinstance(batch, EventBatch), f"read({chunk}) gives a {type(batch).__name__}")
    require(
        batch.ids.dtype == ID_DTYPE,
        f"read({chunk}): ids have the dtype {batch.ids.dtype}; hepset.batch.make_ids makes them",
    )
    wrong = np.flatnonzero(batch.ids["source"] != chunk.source)
    require(
        not len(wrong),
        f'read({chunk}): ids["source"] is {batch.ids["source"][wrong[:1]]} for {len(wrong)} '
        f"events instead of {chunk.source}: predictions would be joined to the wrong file",
    )
    entry = batch.ids["entry"]
    wrong = np.flatnonzero((entry < chunk.start) | (entry >= chunk.stop))
    require(
        not len(wrong),
        f'read({chunk}): ids["entry"] is {entry[wrong[:1]]} for {len(wrong)} events, outside the '
        "chunk: ids count through the whole source",
    )
    keys = [source.key for source in sources]
    require(
        list(batch.sources) == keys,
        f"read({chunk}): batch.sources is {list(batch.sources)} instead of {keys}: messages "
        "would not name the file",
    )
    known = {*contract.tensors, *(f"{stream}.counts" for stream in contract.slots)}
    for name in batch.names():
        require(
            name in known or name.startswith(("extra/", "weight/")),
            f"read({chunk}): the event description does not declare the tensor {name!r}; declare "
            "it, or call it extra/<name>",
        )
    slots = reader.input_slots()
    for name, data in batch.streams.items():
        if name in slots and data.slots is not None:
            require(
                data.slots == slots[name],
                f"read({chunk}): {name} has {data.slots} slots, input_slots() says {slots[name]}",
            )
    report = contract.check(batch, training=False, raw=True)
    if not report.ok:
        lines = "\n".join(f"  {violation}" for violation in report.errors)
        raise AssertionError(
            f"read({chunk}): the events do not obey the contract of event_info():\n{lines}"
        )


def _check_agreement(chunks: list[Chunk], batches: list[EventBatch]) -> None:
    """All chunks give the same tensors in the same dtypes."""
    if not batches:
        return
    first = _layout(batches[0])
    for chunk, batch in zip(chunks, batches, strict=True):
        here = _layout(batch)
        for name in {**first, **here}:
            require(
                first.get(name) == here.get(name),
                f"{name}: {here.get(name, 'absent')} in {chunk}, {first.get(name, 'absent')} in "
                f"{chunks[0]}: chunks cannot be put together; fill what a file lacks as missing",
            )


def _layout(batch: EventBatch) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, data in batch.streams.items():
        found |= {f"{name}.{column}": str(values.dtype) for column, values in data.columns.items()}
        found |= {column: str(values.dtype) for column, values in data.attached.items()}
    found |= {name: str(array.dtype) for name, array in batch.arrays.items()}
    return {
        name: "text" if kind.lstrip("<>|=")[:1] in "US" else kind for name, kind in found.items()
    }


def _check_ids(
    sources: list[Source], chunks: list[Chunk], batches: list[EventBatch], *, every_entry: bool
) -> None:
    ids = np.concatenate([batch.ids for batch in batches]) if batches else np.zeros(0, ID_DTYPE)
    unique, counts = np.unique(ids, return_counts=True)
    twice = unique[counts > 1]
    require(
        not len(twice),
        f"{len(twice)} ids are given to more than one row (first: {twice[:1]}): number the samples "
        'of one event by ids["sample"]',
    )
    if not every_entry:
        return
    for chunk in chunks:
        mine = unique[unique["source"] == chunk.source]
        lost = np.setdiff1d(np.arange(chunk.start, chunk.stop), mine["entry"])
        require(
            not len(lost),
            f"{len(lost)} entries of {sources[chunk.source].key!r} give no row (first: entry "
            f"{lost[:1]} of {chunk}): a reader loses no event; selecting is for prepare. Pass "
            "every_entry=False where it is meant",
        )


def _check_cuts(
    reader: Reader,
    chunks: list[Chunk],
    batches: list[EventBatch],
    entries: int,
    sizes: Sequence[int],
) -> None:
    if not chunks:
        return
    everything = concatenate(batches)
    for size in sizes:
        cut = [part for chunk in chunks for part in _parts(chunk, entries, size)]
        if reader.sequential:
            cut = [
                Chunk(chunk.source, start, min(start + size, chunk.stop))
                for chunk in chunks
                for start in range(chunk.start, chunk.stop, size)
            ]
        copy = _copied(reader)
        order = cut if reader.sequential else [*cut[1::2], *cut[::2]][::-1]
        for chunk in order:
            try:
                found = copy.read(chunk)
            except Exception as problem:
                raise AssertionError(
                    f"a pickled copy that starts with {order[0]} cannot read {chunk}: "
                    f"{type(problem).__name__}: {problem}; workers read chunks of any size in any "
                    "order (a source without random access says sequential = True)"
                ) from problem
            _require_rows(
                found,
                everything,
                chunk,
                f"a pickled copy that reads {size} events at a time, starting with {order[0]}",
            )
    # What was read in between changes nothing, and neither does reading twice.
    if not reader.sequential:
        again = reader.read(chunks[0])
        _require_rows(again, everything, chunks[0], "reading a second time")
        whole = [c for c in chunks if c.source == chunks[0].source]
        if len(whole) > 1:
            joined = Chunk(chunks[0].source, whole[0].start, whole[-1].stop)
            if len(joined) == sum(map(len, whole)):
                _require_rows(reader.read(joined), everything, joined, "reading a source at once")


def _check_two_steps(reader: Reader, chunks: list[Chunk], batches: list[EventBatch]) -> None:
    """Reading what events have once, and then some of the events, changes nothing."""
    if reader.sequential:
        return  # cannot go back to read the events that were chosen
    for chunk, batch in list(zip(chunks, batches, strict=True))[:3]:
        begin = reader.block_start(chunk.source, chunk.start)
        require(
            0 <= begin <= chunk.start,
            f"block_start({chunk.source}, {chunk.start}) is {begin}, expected that entry or an "
            "earlier one",
        )
        once = reader.read_scalars(chunk)
        require(not once.streams, f"read_scalars({chunk}) has the streams {list(once.streams)}")
        counted = {f"{stream}.counts" for stream in batch.streams}
        arrays = {name: array for name, array in batch.arrays.items() if name not in counted}
        require_same_batch(
            once,
            replace(batch, streams={}, slots={}, arrays=arrays),
            f"read_scalars({chunk}) gives other rows than read, so that what is decided on them "
            "would meet other events",
        )
        mask = np.arange(len(batch)) % 3 == 1
        some = np.arange(len(batch))[::-2].repeat(2)
        for what, rows in (("a mask", mask), ("numbers", some), ("none", some[:0])):
            require_same_batch(
                reader.read_rows(chunk, rows),
                batch.take(rows),
                f"read_rows({chunk}, rows) with {what} gives other events than read(…).take(rows)",
            )


def _parts(chunk: Chunk, entries: int, size: int) -> Iterable[Chunk]:
    """Cut the first and the last entries of a chunk into parts."""
    middle = min(chunk.start + entries, chunk.stop)
    late = max(middle, chunk.stop - entries)
    for first, last in ((chunk.start, middle), (late, chunk.stop)):
        for start in range(first, last, size):
            yield Chunk(chunk.source, start, min(start + size, last))


def _require_rows(found: EventBatch, everything: EventBatch, chunk: Chunk, how: str) -> None:
    ids = everything.ids
    chosen = ids["source"] == chunk.source
    chosen &= (ids["entry"] >= chunk.start) & (ids["entry"] < chunk.stop)
    require_same_batch(
        found.take(np.argsort(found.ids)),
        everything.take(np.flatnonzero(chosen)[np.argsort(ids[chosen])]),
        f"{how} gives other events in {chunk} than the reader's own chunks, but results may not "
        "depend on chunks or workers",
    )


def _check_options_of_chunks(
    reader: Reader, sources: list[Source], batches: list[EventBatch]
) -> None:
    """``max_events`` and ``chunk_size`` do what they say."""
    total = sum(source.entries for source in sources)
    if total < 2 or not batches or reader.config.max_events is not None:
        return
    everything = concatenate(batches)
    wanted = max(1, min(total - 1, sources[0].entries + 1))
    fewer = _with(reader, max_events=wanted)
    chunks = fewer.chunks()
    _check_cover(fewer, fewer.sources(), chunks, wanted)
    for chunk in chunks:
        _require_rows(fewer.read(chunk), everything, chunk, f"max_events: {wanted}")
    other = _with(reader, chunk_size=max(1, total // 3))
    require(other.event_info() == reader.event_info(), "event_info() depends on chunk_size")
    chunks = other.chunks()
    _check_cover(other, other.sources(), chunks, None)
    read = list(other)
    for chunk, batch in zip(chunks, read, strict=True):
        _require_rows(batch, everything, chunk, f"chunk_size: {other.config.chunk_size}")


def _check_missing_file(reader: Reader, sources: list[Source]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        suffix = Path(sources[0].key).suffix
        missing = Path(folder) / f"no_such_file{suffix}"
        _require_read_error(reader, missing, "missing")
        damaged = Path(folder) / f"damaged{suffix}"
        damaged.write_bytes(b"this is not what the reader expects\n" * 40)
        _require_read_error(reader, damaged, "damaged")
        if Path(sources[0].key).is_file():
            content = Path(sources[0].key).read_bytes()
            cut = Path(folder) / f"cut{suffix}"
            cut.write_bytes(content[: len(content) // 2])
            _require_read_error(reader, cut, "cut short")


def _require_read_error(reader: Reader, path: Path, what: str) -> None:
    why = "a user has to learn which file it is"
    try:
        broken = _with(reader, files=[str(path)])
        for _ in broken:
            pass
    except ReadError as problem:
        require(path.name in str(problem), f"a {what} file is not named: {problem}; {why}")
    except HepsetError as problem:
        raise AssertionError(
            f"a {what} file raises {type(problem).__name__} ({problem}), not ReadError"
        ) from problem
    except Exception as problem:
        raise AssertionError(
            f"a {what} file raises {type(problem).__name__} ({problem}), not hepset.ReadError; "
            f"{why}"
        ) from problem
    else:
        raise AssertionError(f"a {what} file is read without an error: events are lost in silence")


def _check_light(cls: type[Reader]) -> None:
    """Conversion workers start many times: none should wait for torch."""
    module = cls.__module__
    if module == "__main__" or module.rpartition(".")[2].startswith(("test_", "conftest")):
        return  # made up in a notebook or in a test
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import {module}; sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    require(
        ran.returncode == 0,
        f"importing {module} loads torch (or fails): every conversion worker would wait for it. "
        f"{ran.stderr.strip()[-300:]}",
    )


def _with(reader: Reader, **options: object) -> Reader:
    config = type(reader.config).parse(
        {**reader.config.model_dump(), **options}, type(reader).__name__
    )
    return type(reader)(config, reader.event)


def _copied(reader: Reader) -> Reader:
    try:
        return cast("Reader", pickle.loads(pickle.dumps(reader)))
    except Exception as problem:
        raise AssertionError(
            f"the reader cannot be pickled ({problem}), so no worker can read; keep open files "
            "out of its state (__getstate__)"
        ) from problem
