from __future__ import annotations

import builtins
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import awkward as ak
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
import yaml
from click.testing import CliRunner

import hepset
from hepset.cli import main
from hepset.errors import ReadError
from hepset.interfaces.reader import expand_files
from hepset.interfaces.remote import expand_address, open_address

EVENT = {"streams": {"jets": {"features": {"pt": {}}}}, "globals": {"met": {"features": ["pt"]}}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Files in fsspec's file system in memory."""
    memory = fsspec.filesystem("memory")
    with uproot.recreate(tmp_path / "b.root") as file:
        file.mktree("events", {"jets_pt": "var * float32", "met_pt": "float32"})
        pt = np.array([10, 20, 30], np.float32)
        lists = ak.unflatten(pt, [2, 0, 1])
        file["events"].extend({"jets_pt": lists, "met_pt": pt})
    lists = pa.array([[10.0, 20.0], [], [30.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"jets_pt": lists, "met_pt": pa.array(pt)}), tmp_path / "a.parquet")
    for name in ("a.parquet", "b.root"):
        memory.pipe(f"/place/{name}", (tmp_path / name).read_bytes())
    yield "memory://place"
    memory.rm("/place", recursive=True)


@pytest.mark.parametrize(("reader", "name"), [("root", "*.root"), ("parquet", "a*.parquet")])
def test_readers_read_what_is_elsewhere(reader: str, name: str, server: str) -> None:
    opened = hepset.open_reader(reader, files=f"{server}/{name}", event=EVENT)
    (batch,) = opened
    assert list(batch["met"][:, 0]) == [10, 20, 30]
    assert list(batch.flat("jets").columns["pt"]) == [10, 20, 30]
    assert opened.sources()[0].key.startswith("memory://")


def test_patterns_are_expanded(server: str) -> None:
    assert [path.rpartition("/")[2] for path in expand_address(f"{server}/*")] == [
        "a.parquet",
        "b.root",
    ]
    assert expand_address("https://host/a.root?x=[1]") == ["https://host/a.root?x=[1]"]
    assert expand_files(["root://host//a.root"]) == [("root://host//a.root", "")]
    with pytest.raises(ReadError, match=r"'memory://place/\*.h5' matches no file"):
        expand_files([f"{server}/*.h5"])


def test_what_is_not_there_is_named(server: str) -> None:
    with pytest.raises(ReadError, match=r"memory://place/c.parquet: cannot be opened"):
        open_address(f"{server}/c.parquet")
    reader = hepset.open_reader("root", files=f"{server}/c.root", event=EVENT)
    with pytest.raises(ReadError, match=r"memory://place/c.root"):
        reader.sources()


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_xrootd(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith(("fsspec_xrootd", "XRootD")):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without_xrootd)
    reader = hepset.open_reader("root", files="root://host//a.root", event=EVENT)
    with pytest.raises(ReadError, match=r"root://host//a.root: .* pip install fsspec-xrootd"):
        reader.sources()
    with pytest.raises(ReadError, match="fsspec knows no protocol 'nowhere'"):
        open_address("nowhere://host/a.root")


@pytest.mark.parametrize("name", ["a.parquet", "b.root"])
def test_what_is_elsewhere_can_be_looked_at(name: str, server: str, tmp_path: Path) -> None:
    event = tmp_path / "event.yaml"
    event.write_text(yaml.safe_dump({"format": "hepset-event/1", **EVENT}))
    listed = CliRunner().invoke(main, ["inspect", f"{server}/{name}"])
    assert listed.exit_code == 0, listed.output
    assert "jets_pt" in listed.output
    read = CliRunner().invoke(main, ["inspect", f"{server}/{name}", "--event", str(event)])
    assert read.exit_code == 0, read.output
    assert "3 events" in read.output
    missing = CliRunner().invoke(main, ["inspect", f"{server}/no-{name}"])
    assert missing.exit_code == 2
    assert f"{server}/no-{name}" in missing.output


def test_a_server_without_ranges_is_named(tmp_path: Path) -> None:
    """Python's own server sends whole files only."""
    pytest.importorskip("aiohttp")
    values = np.random.default_rng(1).normal(size=1_500_000)  # more than is asked for at once
    pq.write_table(pa.table({"met_pt": values}), tmp_path / "a.parquet", compression="none")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/a.parquet"
            event = {"globals": {"met": {"features": ["pt"]}}}
            reader = hepset.open_reader("parquet", files=address, event=event)
            with pytest.raises(ReadError, match=r"a\.parquet: cannot be read as Parquet.*range"):
                reader.sources()
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Says nothing of the requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""
