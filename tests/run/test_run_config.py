from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hepset.errors import ConfigurationError
from hepset.interfaces import parse_options
from hepset.readers.root import RootReader
from hepset.run.config import dump_config, load_config, open_readers
from hepset.schema.config import GroupSplit

EVENT = "streams: {jets: {slots: 4, features: [pt, eta, phi, mass]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "event.yaml").write_text(EVENT)
    (tmp_path / "config.yaml").write_text(
        "event: event.yaml\n"
        "read: {reader: root, files: [data/*.root], tree: events}\n"
        "train: {learning_rate: 1e-4}\n"
    )
    return tmp_path


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    resolved = load_config(folder / "config.yaml")
    assert resolved.config.read[0]["files"] == [str(folder / "data" / "*.root")]
    assert resolved.event is not None
    assert resolved.event.streams["jets"].slots == 4
    assert resolved.config.train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("[sig:data/a*.root, b.root]", ["sig:{0}/data/a*.root", "{0}/b.root"]),
        ("sig:data/a.root", "sig:{0}/data/a.root"),
        ("[sig:/data/a.root]", ["sig:/data/a.root"]),
        ("[sig:root://h//a.root]", ["sig:root://h//a.root"]),
        ("{sig: data/a.root}", {"sig": "{0}/data/a.root"}),
    ],
)
def test_paths_in_groups_are_relative_to_the_file(
    folder: Path, written: str, found: str | list[str] | dict[str, str]
) -> None:
    text = (folder / "config.yaml").read_text().replace("[data/*.root]", written)
    (folder / "config.yaml").write_text(text)
    expected = yaml.safe_load(json.dumps(found).replace("{0}", str(folder)))
    assert load_config(folder / "config.yaml").config.read[0]["files"] == expected


def test_the_resolved_configuration_loads_to_itself(folder: Path) -> None:
    resolved = load_config(folder / "config.yaml")
    again = load_config(yaml.safe_load(dump_config(resolved.config)))
    assert again.config == resolved.config
    assert again.event == resolved.event


def test_overrides(folder: Path) -> None:
    sets = ["train.epochs=3", "model.heads.s.name=classification", "read.tree=other", "seed=5"]
    config = load_config(folder / "config.yaml", sets).config
    assert config.train.epochs == 3
    assert config.model.heads == {"s": {"name": "classification"}}
    assert config.read[0]["tree"] == "other"
    assert config.seed == 5


def test_bits_of_the_arithmetic_are_a_number_in_yaml(folder: Path) -> None:
    assert (
        load_config(folder / "config.yaml", ["train.precision=16"]).config.train.precision == "16"
    )
    with pytest.raises(ConfigurationError, match="'16', found '8'"):
        load_config(folder / "config.yaml", ["train.precision=8"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected key=value"),
        ("train.epohcs=3", "train.epohcs: unknown key; did you mean 'epochs'"),
        ("train.epochs=x", "train.epochs: Input should be a valid integer"),
        ("prepare.split={train: 0.5, val: 0.1, test: 0.1}", "add up to 0.7, expected 1"),
        ("event={file: a, inline: {}}", "either 'file' or 'inline'"),
        ("dataset=x", "either 'read' or 'dataset'"),
        ("prepare.split={train: 0.9, val: 0.1}", r"test 0.1 \(the default, not given\)"),
        ("prepare.split.train=[x]", "prepare.split.train"),
        ("model.heads={my head: classification}", "'my head': the name of a head"),
        ("train=fast", r"train: expected a mapping \(key: value\), found 'fast'"),
        ("read.files={2018: null}", "read: files"),
    ],
)
def test_wrong_values_are_named(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_readers(load_config(folder / "config.yaml", [override]))


def test_an_empty_section_is_one_that_is_not_there(folder: Path) -> None:
    sections = ["prepare=", "model=", "train=", "execution=", "export=", "evaluate=", "seed="]
    config = load_config(folder / "config.yaml", sections).config
    assert config.train.epochs == 20
    assert config.seed == 0


def test_groups_may_be_numbers_and_leave_out_a_split(folder: Path) -> None:
    groups = [
        "read.files={2017: a.root, 2018: [b.root]}",
        "prepare.split={train: {groups: [2017]}, val: {groups: [2018]}}",
    ]
    config = load_config(folder / "config.yaml", groups).config
    assert config.prepare.split.test == 0.0
    assert config.prepare.split.train == GroupSplit(groups=("2017",))
    reader = parse_options(RootReader.Config, config.read[0], "read")
    assert reader.files == {"2017": [str(folder / "a.root")], "2018": [str(folder / "b.root")]}


def test_an_option_of_a_reader_that_does_not_exist(folder: Path) -> None:
    resolved = load_config(folder / "config.yaml", ["read.tre=x"])
    with pytest.raises(ConfigurationError, match=r"read: tre: unknown key; did you mean 'tree'"):
        open_readers(resolved)


def test_a_missing_configuration_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_config(tmp_path / "no.yaml")
