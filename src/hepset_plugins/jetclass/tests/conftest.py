from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def jets_file() -> Path:
    """One hundred public JetClass-II jets."""
    return _public(SHARED / "data" / "jetclass2" / "JetClassII_example.parquet")


@pytest.fixture(scope="session")
def delphes_file() -> Path:
    """Ten public Delphes events."""
    return _public(SHARED / "data" / "jetclass2" / "events_delphes_example.root")


def _public(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"the public file {path.name} is not here")
    return path
