from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that puts a distribution with one plugin module where Python finds it."""
    monkeypatch.delenv("HEPSET_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(distribution: str, source: str, *, plugin: str = "", version: str = "1.0") -> str:
        name = plugin or distribution
        module = distribution.replace("-", "_") + "_module"
        (tmp_path / f"{module}.py").write_text(
            "from hepset import Component, hookimpl\n" + textwrap.dedent(source)
        )
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[hepset.plugins]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return module

    yield install
    for name in set(sys.modules) - before:
        if name.endswith("_module"):
            del sys.modules[name]
