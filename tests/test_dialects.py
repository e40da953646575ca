from __future__ import annotations

from pathlib import Path

import pytest

from hepset.dialects import load_event
from hepset.errors import EventInfoError

EVENT = "format: hepset-event/1\nstreams:\n  jets: {slots: 4, features: [pt, eta, phi, mass]}\n"


def test_a_file_and_its_content_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "event.yaml"
    path.write_text(EVENT)
    content = {"streams": {"jets": {"slots": 4, "features": ["pt", "eta", "phi", "mass"]}}}
    assert load_event(path) == load_event(content) == load_event(load_event(path))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "event.yaml"
    path.write_text(EVENT + "  jets: {features: [pt]}\n")
    with pytest.raises(EventInfoError, match="'jets' is given twice"):
        load_event(path)


def test_merge_keys_of_yaml_are_not_repeats(tmp_path: Path) -> None:
    path = tmp_path / "event.yaml"
    path.write_text("streams:\n  jets: &j {slots: 4, features: [pt]}\n  taus: {<<: *j, slots: 2}\n")
    assert load_event(path).streams["taus"].slots == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "no dialect recognises this file"),
        ("- 1\n", "expected a mapping, found list"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_what_is_not_an_event_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "event.yaml"
    path.write_text(text)
    with pytest.raises(EventInfoError, match=message) as caught:
        load_event(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventInfoError, match=r"nothing\.yaml: cannot be read"):
        load_event(tmp_path / "nothing.yaml")
