from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hepset.errors import ConfigurationError
from hepset.interfaces import Reader
from hepset.plugins import Component, hookimpl, registry
from hepset.readers import guess_reader


class Own(Reader):
    """Knows its files by what they begin with."""

    @classmethod
    def guess(cls, path: str) -> float:
        return 1.0 if Path(path).read_bytes().startswith(b"own") else 0.0


class Rival(Reader):
    """Would read any file called .root."""

    @classmethod
    def guess(cls, path: str) -> float:
        return 0.5 if path.endswith(".root") else 0.0


@pytest.fixture
def toy_readers() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def hepset_components(self) -> list[Component]:
            return [
                Component("readers", "a-own", Own),
                Component("readers", "broken", "module_that_is_absent:Reader"),
                Component("readers", "rival", Rival),
            ]

    registry().register(Plugin(), name="toy-readers")
    yield
    registry().unregister("toy-readers")


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("a.root", "root"),
        ("root://host//a.root", "root"),
        ("a.parquet", "parquet"),
        ("dir/a.PQ", "parquet"),
    ],
)
def test_a_file_of_a_general_format_is_known_by_its_name(path: str, reader: str) -> None:
    assert guess_reader(path) == reader


def test_what_nobody_reads_is_refused_with_the_readers_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"a\.xyz: no installed reader.* parquet, .*root"):
        guess_reader("a.xyz")


@pytest.mark.usefixtures("toy_readers")
def test_the_content_goes_before_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"own format")
    assert guess_reader(str(path)) == "a-own"


@pytest.mark.usefixtures("toy_readers")
def test_two_readers_of_one_file_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(b"root")
    with pytest.raises(ConfigurationError, match=r"several readers .*--reader: rival, root"):
        guess_reader(str(path))


@pytest.mark.usefixtures("toy_readers")
def test_a_reader_that_fails_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    assert guess_reader("a.pq") == "parquet"
    assert "reader 'broken' is not asked about a.pq: plugin 'toy-readers'" in caplog.text
    assert "reader 'a-own' is not asked about a.pq: [Errno 2]" in caplog.text


@pytest.mark.parametrize(("group", "known"), [("INPUTS/jets/pt", True), ("jets/pt", False)])
def test_an_hdf5_file_is_not_taken_for_another_systems(
    tmp_path: Path, group: str, known: bool
) -> None:
    pytest.importorskip("hepset_spanet")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file[group] = np.zeros(3)
    if known:
        assert guess_reader(str(path)) == "spanet-hdf5"
    else:
        with pytest.raises(ConfigurationError, match=r"a\.h5: no installed reader"):
            guess_reader(str(path))
