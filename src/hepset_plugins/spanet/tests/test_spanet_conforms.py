"""hepset's own definition of a dialect, applied to SPANet's event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hepset.dialects import load_yaml
from hepset.testing import check_dialect
from hepset_spanet.dialect import SpanetDialect

PUBLIC = sorted((Path(__file__).parents[5] / "shared/data/spanet").glob("*.yaml"))

DOCUMENTS: list[dict[str, Any]] = [
    {"INPUTS": {"SEQUENTIAL": {"Jets": {"pt": "log_normalize", "phi": "normalize"}}}},
    {
        "INPUTS": {
            "SEQUENTIAL": {"Jets": {"pt": "log", "eta": "none"}, "Leptons": {"pt": "log"}},
            "GLOBAL": {"Met": {"met": "log_normalize", "phi": "normalize"}},
        },
        "EVENT": {"t1": [{"b": "Jets"}, {"l": "Leptons"}], "t2": ["q1", "q2"]},
        "PERMUTATIONS": {"t2": [["q1", "q2"]]},
        "REGRESSIONS": {"EVENT": ["mass", ["scale", "laplacian"]], "t1": {"PARTICLE": ["pt"]}},
        "CLASSIFICATIONS": {"EVENT": ["signal"]},
    },
]


def test_dialect_conforms() -> None:
    check_dialect(SpanetDialect(), DOCUMENTS)


@pytest.mark.skipif(not PUBLIC, reason="the public SPANet examples are not here")
def test_dialect_conforms_on_the_public_examples() -> None:
    check_dialect(SpanetDialect(), [load_yaml(path) for path in PUBLIC])
