from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hepset.batch import EventBatch, make_ids
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.convert.plan import Plan, make_plan, open_sources
from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, ReadError
from hepset.events.derive import derived_contract, derived_event, input_event
from hepset.interfaces import Chunk, FileReaderConfig, Reader, Source, expand_files
from hepset.plugins import Component, hookimpl, registry
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.model_validate({"globals": {"met": {"features": ["pt"]}}})


class TextReader(Reader):
    """Reads one number per line."""

    Config = FileReaderConfig
    config: FileReaderConfig

    def event_info(self) -> EventInfo:
        return EVENT

    def _numbers(self, path: str) -> np.ndarray:
        try:
            return np.array([float(line) for line in Path(path).read_text().split()], np.float32)
        except ValueError as problem:
            raise ReadError(f"{path}: {problem}") from None

    def sources(self) -> list[Source]:
        return [
            Source(path, len(self._numbers(path)), group)
            for path, group in expand_files(self.config.files)
        ]

    def read(self, chunk: Chunk) -> EventBatch:
        source = self.sources()[chunk.source]
        entries = np.arange(chunk.start, chunk.stop)
        met = self._numbers(source.key)[entries][:, None]
        return EventBatch(ids=make_ids(chunk.source, entries), streams={}, arrays={"met": met})


def files(folder: Path) -> Path:
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    (folder / "a" / "x.txt").write_text("1 2 3")
    (folder / "b" / "x.txt").write_text("4 5 6 7")
    return folder


def convert(folder: Path, output: Path, on_error: str = "stop") -> Dataset:
    reader = TextReader(FileReaderConfig(files=[f"{folder}/*/*.txt"], sample="toy"))
    return prepare_dataset(
        [reader],
        event=EVENT,
        contract=compile_contract(EVENT),
        config=PrepareConfig.model_validate({"on_error": on_error}),
        seed=1,
        output=output,
        engine=LocalEngine(LocalEngineConfig(workers=1)),
    )


def test_keys_are_relative_so_that_a_moved_copy_gives_the_same_bytes(tmp_path: Path) -> None:
    one = convert(files(tmp_path / "here"), tmp_path / "one")
    other = convert(files(tmp_path / "there" / "deep"), tmp_path / "other")
    assert [s.key for s in one.manifest.sources] == ["a/x.txt", "b/x.txt"]
    assert [len(s.digest) for s in one.manifest.sources] == [32, 32]
    for path in one.path.iterdir():
        assert path.read_bytes() == (other.path / path.name).read_bytes()
    values = np.concatenate([s.read("met")["met"][:, 0] for s in one.splits.values()])
    assert sorted(values) == [1, 2, 3, 4, 5, 6, 7]
    assert one.samples[0].label == "toy"


def test_changed_file_changes_the_plan(tmp_path: Path) -> None:
    folder = files(tmp_path / "f")
    first = convert(folder, tmp_path / "d").manifest
    (folder / "b" / "x.txt").write_text("4 5 6 8")
    second = convert(folder, tmp_path / "d").manifest
    assert first.plan != second.plan
    assert first.sources[0] == second.sources[0]
    assert first.sources[1].digest != second.sources[1].digest


def test_another_version_of_the_plugin_changes_the_plan(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def hepset_components(self) -> list[Component]:
            return [Component("readers", "toy-text", f"{__name__}.reader:TextReader")]

    reader = TextReader(FileReaderConfig(files=[f"{files(tmp_path / 'f')}/*/*.txt"]))

    def inputs() -> dict[str, Any]:
        contract = compile_contract(EVENT)
        plan = make_plan([reader], event=EVENT, contract=contract, config=PrepareConfig(), seed=1)
        return plan.inputs

    found = []
    for version in ("1.0", "1.1"):
        registry().register(Plugin(), name="toy-text", distribution="acme", version=version)
        found.append(inputs()["readers"][0].get("acme"))
        registry().unregister("toy-text")
    assert found == ["1.0", "1.1"]
    assert "acme" not in inputs()["readers"][0]


def test_a_fingerprint_of_the_reader_changes_the_plan(tmp_path: Path) -> None:
    class Versioned(TextReader):
        state: ClassVar[dict[str, object]] = {}

        def fingerprint(self) -> dict[str, object]:
            return self.state

    reader = Versioned(FileReaderConfig(files=[f"{files(tmp_path / 'f')}/*/*.txt"]))

    def plan() -> Plan:
        contract = compile_contract(EVENT)
        return make_plan([reader], event=EVENT, contract=contract, config=PrepareConfig(), seed=1)

    assert "fingerprint" not in plan().inputs["readers"][0]
    keys = set()
    for version in (1, 2):
        Versioned.state = {"weights": version}
        assert plan().inputs["readers"][0]["fingerprint"] == {"weights": version}
        keys.add(plan().key)
    assert len(keys) == 2


def test_readers_without_damaged_files_keep_their_purpose(tmp_path: Path) -> None:
    folder = files(tmp_path / "f")
    (folder / "b" / "x.txt").write_text("4 five")
    reader = TextReader(FileReaderConfig(files=[f"{folder}/*/*.txt"]))
    reader.purpose = "predict"
    kept, sources, bad = open_sources(reader, skip=True)
    assert kept.purpose == "predict"
    assert (len(sources), len(bad)) == (1, 1)


def test_file_that_cannot_be_opened_is_skipped_on_request(tmp_path: Path) -> None:
    folder = files(tmp_path / "f")
    (folder / "b" / "x.txt").write_text("4 five")
    with pytest.raises(ReadError, match="five"):
        convert(folder, tmp_path / "d")
    found = convert(folder, tmp_path / "d", on_error="skip")
    assert len(found) == 3
    assert [s.key for s in found.manifest.skipped] == ["b/x.txt"]
    assert "five" in found.manifest.skipped[0].reason
    (folder / "a" / "x.txt").write_text("one")
    with pytest.raises(ReadError, match="none of the 2 files"):
        convert(folder, tmp_path / "d", on_error="skip")


def test_one_file_in_two_samples_is_refused(tmp_path: Path) -> None:
    folder = files(tmp_path / "f")
    readers = [TextReader(FileReaderConfig(files=[f"{folder}/*/*.txt"])) for _ in range(2)]
    arguments = {"event": EVENT, "contract": compile_contract(EVENT), "seed": 1}
    with pytest.raises(ConfigurationError, match="read twice"):
        make_plan(readers, config=PrepareConfig(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="nothing to read"):
        make_plan([], config=PrepareConfig(), **arguments)  # type: ignore[arg-type]


def test_copies_of_a_file_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = files(tmp_path / "f")
    (folder / "b" / "link.txt").symlink_to(folder / "a" / "x.txt")
    assert len(convert(folder, tmp_path / "d")) == 10
    warned = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith("b/link.txt is a copy of a/x.txt: its events are counted twice")


def test_derived_features_are_of_the_data_set_and_not_of_the_files() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 4, "features": {"pt": None, "frac": {"unit": "1"}}}},
            "globals": {"met": {"features": ["pt"]}},
        }
    )
    derive = {"jets.frac": "…", "jets.phi": "…", "met.log": "…", "extra.ht": "…", "new.x": "…"}
    full, held = derived_event(event, derive), input_event(event, derive)
    assert list(full.streams["jets"].features) == ["pt", "frac", "phi"]
    assert full.streams["jets"].features["phi"].transform == ("circular",)
    assert full.streams["jets"].features["frac"].unit == "1"
    assert list(full.globals["met"].features) == ["pt", "log"]
    assert list(held.streams["jets"].features) == ["pt"]
    assert input_event(full, derive) == held
    contract = derived_contract(compile_contract(event), full)
    assert contract["jets"].shape == (None, 4, 3)
    assert contract["met"].columns == ["pt", "log"]
    assert derived_event(event, {}) is event
