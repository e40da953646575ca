from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import make_batch, make_event_info, make_statistics
from hepset.testing.batches import resolved


@settings(max_examples=25, deadline=None)
@given(
    processes=st.integers(1, 3),
    events=st.integers(0, 30),
    seed=st.integers(0, 1000),
    missing=st.floats(0, 1),
)
def test_random_events_obey_their_contract(
    processes: int, events: int, seed: int, missing: float
) -> None:
    contract = resolved(compile_contract(make_event_info(processes=processes)))
    batch = make_batch(contract, events, seed, missing=missing)
    assert len(batch) == events
    report = contract.check(batch)
    assert [str(violation) for violation in report.errors] == []
    assert set(contract.tensors) <= set(batch.names())


def test_momenta_and_pairs_and_energies() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {
                "cells": {
                    "slots": 9,
                    "features": ["px", "py", "pz", "energy"],
                    "pairs": {"distance": {"transform": "log"}},
                }
            }
        }
    )
    batch = make_batch(event, 20, 3)
    assert compile_contract(event).check(batch).violations == ()
    cells = batch.flat("cells").columns
    mass2 = cells["energy"] ** 2 - cells["px"] ** 2 - cells["py"] ** 2 - cells["pz"] ** 2
    assert (mass2 > 0).mean() > 0.99
    assert batch["cells.pairs"].shape == (20, 9, 9, 1)
    assert batch["cells.mask"][0].all()
    assert not batch["cells.mask"][1].any()


def test_equal_seeds_give_equal_events() -> None:
    one, same, other = (make_batch(make_event_info(), 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["jets"], same["jets"])
    assert not np.array_equal(one["met"], other["met"])


def test_statistics_are_those_of_numpy() -> None:
    contract = resolved(compile_contract(make_event_info()))
    batch = make_batch(contract, 50, 4)
    statistics = make_statistics(contract, batch)
    pt = batch.flat("jets").columns["pt"].astype(np.float64)
    found = statistics.tensors["jets"]
    assert found.columns["pt"].mean == pytest.approx(pt.mean())
    assert found.transformed["pt"].std == pytest.approx(np.log1p(pt).std())
    assert "phi" not in found.transformed
    assert found.multiplicity is not None
    assert found.multiplicity.count == 50
    mass = batch["target/m_ttbar"]
    assert statistics.tensors["target/m_ttbar"].columns[""].count == np.isfinite(mass).sum()
    labels = batch["target/flavour"]
    assert statistics.labels["target/flavour"].events == [(labels == c).sum() for c in range(3)]
    assert statistics.labels["target/flavour"].missing == (labels < 0).sum()


def test_what_readers_and_writers_need_loads_no_torch() -> None:
    code = (
        "import sys; from hepset.testing import check_reader, check_writer, check_dialect, "
        "make_batch; assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_unknown_names_are_refused() -> None:
    import hepset.testing

    assert "check_head" in dir(hepset.testing)
    with pytest.raises(AttributeError, match="check_nothing"):
        hepset.testing.check_nothing  # noqa: B018  the access is the test
