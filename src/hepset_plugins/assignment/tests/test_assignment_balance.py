"""Weights against rare events: SPANet's own numbers, and by pencil."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hepset.errors import ConfigurationError
from hepset.schema.statistics import EventCounts, Statistics
from hepset.schema.symmetry import parse_permutations
from hepset_assignment.balance import effective_weights, object_table, particle_table

TOPS = parse_permutations([["t1", "t2"]], ["t1", "t2"])


def counted(**patterns: int) -> Statistics:
    present = {"": {0: {name.removeprefix("p"): n for name, n in patterns.items()}}}
    return Statistics(counts=EventCounts(present=present, objects={6: 1, 7: 3, 9: 4}))


def test_weights_of_effective_numbers() -> None:
    """β = 1/2: (1 − β) / (1 − β¹) = 1, and 2/3 for two events."""
    assert effective_weights([1, 2, 0], 2).tolist() == pytest.approx([1, 2 / 3, 0])


def test_symmetric_sets_of_particles_are_one_class() -> None:
    """Counts 1 + 1, 4 + 1 (one of the two, whichever), 3 + 1."""
    found = particle_table(
        counted(p00=1, p10=3, p01=1, p11=3),
        TOPS,
        process="",
        number=0,
        parity=True,
        where="balance",
    )
    beta = 1 - 1 / 8
    weight = np.array([(1 - beta) / (1 - beta**n) for n in (2, 5, 4)])
    weight *= 3 / weight.sum()
    # Indexed by the bits: none, t1, t2, both.
    assert found.tolist() == pytest.approx(weight[[0, 1, 1, 2]])
    own = particle_table(
        counted(p00=1, p10=3, p01=1, p11=3),
        TOPS,
        process="",
        number=0,
        parity=False,
        where="balance",
    )
    assert (own * [1, 3, 1, 3]).sum() == pytest.approx(8)
    assert own / found == pytest.approx(np.full(4, own[0] / found[0]))


def test_numbers_of_objects() -> None:
    beta = 1 - 1 / 8
    weight = np.array([(1 - beta) / (1 - beta**n) for n in (1, 3, 4)])
    found = object_table(counted(p11=8), parity=True, where="balance")
    assert found[:6].tolist() == [0] * 6
    assert found[[6, 7, 9]].tolist() == pytest.approx(weight * 4 / weight.sum())
    own = object_table(counted(p11=8), parity=False, where="balance")
    assert (own[[6, 7, 9]] * [1, 3, 4]).sum() == pytest.approx(8)
    assert not math.isnan(own.sum())


def test_spanets_example_has_the_table_that_spanet_makes() -> None:
    """The counts of the 10 000 events of its all-hadronic example, and what SPANet gives."""
    found = particle_table(
        counted(p00=2262, p10=2696, p01=2729, p11=2313),
        TOPS,
        process="",
        number=0,
        parity=True,
        where="balance",
    )
    assert found.tolist() == pytest.approx([1.2175, 0.5888, 0.5888, 1.1936], abs=5e-5)


def test_data_without_counts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"balance: .* convert it again"):
        object_table(Statistics(), parity=False, where="balance")
    with pytest.raises(ConfigurationError, match=r"which particles"):
        particle_table(Statistics(), TOPS, process="", number=0, parity=False, where="balance")
