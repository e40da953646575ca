from __future__ import annotations

from pathlib import Path

import pytest

from hepset.batch import EventBatch, make_ids
from hepset.errors import ReadError
from hepset.interfaces import (
    Chunk,
    FileReaderConfig,
    Reader,
    ReaderConfig,
    Source,
    expand_files,
    named_group,
)
from hepset.schema.event import EventInfo


class Counting(Reader):
    def event_info(self) -> EventInfo:
        return EventInfo.parse({"globals": {"met": {"features": ["pt"]}}}, "e")

    def sources(self) -> list[Source]:
        return [Source("a", 5), Source("b", 0), Source("c", 4)]

    def read(self, chunk: Chunk) -> EventBatch:
        return EventBatch(make_ids(chunk.source, range(chunk.start, chunk.stop)), {})


def test_chunks_cover_every_entry_once() -> None:
    chunks = Counting(ReaderConfig(chunk_size=3)).chunks()
    assert chunks == [Chunk(0, 0, 3), Chunk(0, 3, 5), Chunk(2, 0, 3), Chunk(2, 3, 4)]
    assert sum(len(batch) for batch in Counting(ReaderConfig(chunk_size=3))) == 9


def test_max_events_counts_over_all_sources() -> None:
    chunks = Counting(ReaderConfig(chunk_size=4, max_events=6)).chunks()
    assert chunks == [Chunk(0, 0, 4), Chunk(0, 4, 5), Chunk(2, 0, 1)]


def test_files_are_sorted_and_named_once(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5"):
        (tmp_path / name).touch()
    found = expand_files([f"{tmp_path}/*.h5", f"{tmp_path}/a.h5", "root://host//x.root"])
    assert [Path(path).name for path, _ in found] == ["a.h5", "b.h5", "x.root"]


def test_groups_keep_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.h5").touch()
    config = FileReaderConfig.model_validate({"files": {"signal": f"{tmp_path}/a.h5"}})
    assert expand_files(config.files) == [(f"{tmp_path}/a.h5", "signal")]


def test_groups_may_stand_before_the_pattern(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5", "odd:c.h5"):
        (tmp_path / name).touch()
    files = [f"signal:{tmp_path}/a*.h5", f"{tmp_path}/b.h5", f"signal:{tmp_path}/b.h5"]
    config = FileReaderConfig.model_validate({"files": files})
    assert config.files == {"signal": [files[0][7:], files[2][7:]], "": [files[1]]}
    assert named_group("QCD:root://host//x.root") == ("QCD", "root://host//x.root")
    assert named_group("root://host//x.root") == ("", "root://host//x.root")
    chained = "simplecache::root://host//x.root"
    assert named_group(chained) == ("", chained)
    assert named_group(f"QCD:{chained}") == ("QCD", chained)
    assert named_group("data/a:b.root") == ("", "data/a:b.root")
    assert named_group("odd:c.h5", tmp_path) == ("", "odd:c.h5")
    assert named_group("odd:d.h5", tmp_path) == ("odd", "d.h5")


def test_a_pattern_without_files_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"no/\*\.h5' matches no file \(no folder"):
        expand_files([f"{tmp_path}/no/*.h5"])


def test_a_sample_may_be_a_name() -> None:
    assert ReaderConfig.model_validate({"sample": "ttbar"}).sample.label == "ttbar"
