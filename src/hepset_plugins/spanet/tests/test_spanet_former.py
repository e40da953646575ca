"""Modules that hepset-assignment has now, under their former names."""

from __future__ import annotations

import importlib
import sys

import pytest

import hepset_spanet
from hepset_spanet.former import MODULES


@pytest.mark.parametrize("former", sorted(MODULES))
def test_a_former_name_gives_the_module_of_today(former: str) -> None:
    name = f"{hepset_spanet.__name__}.{former}"
    for other in (name, name.rpartition(".")[0]):
        if other != hepset_spanet.__name__:
            sys.modules.pop(other, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is now hepset_assignment"):
        module = importlib.import_module(name)
    assert module.__name__ == f"hepset_assignment.{MODULES[former]}"
    assert module is importlib.import_module(module.__name__)
