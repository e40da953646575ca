from __future__ import annotations

import pytest

from hepset_pythia.generate import GeneratedBlock, generate_block
from hepset_pythia.processes import make_process


@pytest.fixture(scope="session")
def top_block() -> GeneratedBlock:
    """Sixty all-hadronic top pairs."""
    return generate_block(make_process("ttbar-allhadronic"), seed=11, block=0, n_events=60)


@pytest.fixture(scope="session")
def lepton_block() -> GeneratedBlock:
    """Sixty semi-leptonic top pairs."""
    return generate_block(make_process("ttbar-semileptonic"), seed=11, block=0, n_events=60)
