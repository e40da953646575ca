from __future__ import annotations

import pytest

from hepset_spanet.names import spanet_key, target_name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("EVENT/mass", "mass"),
        ("t1/PARTICLE/mass", "t1/mass"),
        ("t1/b/pt", "t1/b/pt"),
    ],
)
def test_names_go_there_and_back(key: str, name: str) -> None:
    assert target_name(key) == name
    assert spanet_key(name, ["t1"]) == key


@pytest.mark.parametrize("name", ["t9/mass", "t9/b/pt", "t1/b/pt/more"])
def test_names_without_a_place(name: str) -> None:
    assert spanet_key(name, ["t1"]) is None
