"""hepset's own head with ``parity: spanet``, and its baseline, against SPANet's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import hepset
from hepset.interfaces.component import parse_options
from hepset.interfaces.head import Evaluation
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_assignment import AssignmentConfig, AssignmentHead
from hepset_assignment.evaluation.metrics import baselines
from hepset_assignment.topology import make_topology
from hepset_spanet.losses import (
    AssignmentTarget,
    combine,
    pair_terms,
    permutation_terms,
    symmetry_breaking,
)

EXAMPLE = Path(__file__).parents[4].parent / "shared" / "data" / "spanet"

PAIR = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 7, "features": ["pt", "eta", "phi", "mass"]}},
        "particles": {"h1": {"a": "jets", "b": "jets"}, "h2": {"a": "jets", "b": "jets"}},
        "symmetries": {"event": [["h1", "h2"]], "h1": [["a", "b"]], "h2": [["a", "b"]]},
    }
)


def random_outputs(head: AssignmentHead, events: int) -> dict[str, Tensor]:
    """Scores of two particles over all tuples of seven jets, two of them padded in one event."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(events, 7, dtype=torch.bool)
    mask[0, 5:] = False
    given = {"mask.jets": mask}
    exists = head.space.exist(0, head.space.of(0, given), given)
    scores = torch.randn(events, 2, exists.shape[1], generator=generator, dtype=torch.float64)
    return {
        **given,
        "scores.0": torch.where(exists[:, None], scores, -1e12),
        "detection.0": torch.randn(events, 2, generator=generator, dtype=torch.float64),
    }


@pytest.mark.parametrize("combination", ["min", "softmin", "mean"])
def test_parity_gives_what_spanet_minimises(combination: str) -> None:
    """Against the functions that are held to SPANet's own numbers, on the same distributions."""
    options = {
        "particle_queries": True,
        "combination": combination,
        "detection_loss_weight": 0.7,
        "overlap_loss_weight": 0.3,
        "focal_gamma": 1.5,
        "parity": "spanet",
        "max_tuples": 10_000,
    }
    head = AssignmentHead("assignment", parse_options(AssignmentConfig, options, "test"))
    head.build(compile_contract(PAIR, [head.contract(PAIR)]), Statistics(), 16)
    events = 6
    outputs = random_outputs(head, events)
    targets = {
        "target/assignment/h1": torch.tensor(
            [[0, 1], [-1, -1], [3, 4], [6, 2], [1, -1], [5, 6]],
        ),
        "target/assignment/h2": torch.tensor(
            [[2, 3], [0, 5], [-1, 2], [0, 1], [-1, -1], [4, 2]],
        ),
        "weight/assignment/h1": torch.tensor([1.0, 2.0, 0.5, 1.5, 1.0, 0.1]),
        "weight/assignment/h2": torch.tensor([1.0, 1.0, 3.0, 0.2, 2.0, 1.0]),
    }
    found = head.loss(outputs, targets)

    objects = head.space.of(0, outputs).objects
    logs = torch.log_softmax(outputs["scores.0"], -1)
    dense = torch.full((2, events, 7, 7), -torch.inf, dtype=torch.float64)
    for tuples, (a, b) in enumerate(objects.tolist()[:-1]):
        for particle in range(2):
            value = logs[:, particle, tuples] - math.log(2)
            value = torch.where(value < -1e9, -torch.inf, value)
            dense[particle, :, a, b] = dense[particle, :, b, a] = value
    names = ("h1", "h2")
    swap = ((0, 1), (1, 0))
    wanted = [
        AssignmentTarget(
            targets[f"target/assignment/{name}"],
            (targets[f"target/assignment/{name}"] >= 0).all(1),
            targets[f"weight/assignment/{name}"].double(),
        )
        for name in names
    ]
    pairs = pair_terms(
        list(dense), list(outputs["detection.0"].T), wanted, [2, 2], swap, focal_gamma=1.5
    )
    scale = torch.tensor([1.0, 0.7], dtype=torch.float64)[:, None]
    combined = combine(permutation_terms(pairs * scale, swap), combination)
    masks = torch.stack([each.mask for each in wanted])
    order = torch.tensor(swap)[combined.best].T
    there = masks.gather(0, order)
    expected = combined.terms.sum(2) / there.sum(1).clamp(min=1)[:, None]
    penalty = symmetry_breaking(list(dense), there, [(0, 1)])
    overlap = 0.3 * 2 * 2 * penalty.sum() / there.sum()
    for name, value in (
        ("assignment", expected[:, 0].sum()),
        ("detection", expected[:, 1].sum()),
        ("overlap", overlap),
    ):
        assert bool(found[name].valid.all())
        assert float(found[name].value.mean()) == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="shared/data/spanet is not there")
def test_the_chi_square_has_its_known_purity() -> None:
    """Last 500 events of the all-hadronic example: 0.328 and 0.416, found independently."""
    event = hepset.load_event(EXAMPLE / "full_hadronic_ttbar.yaml")
    files = [str(EXAMPLE / "full_hadronic_ttbar.h5")]
    last = list(hepset.open_reader("spanet-hdf5", files=files, event=event))[-1]
    stream = next(iter(event.streams))
    contract = compile_contract(event).resolve(slots={stream: 10})
    arrays = {name: np.asarray(last[name])[-500:] for name in contract.tensors if name in last}
    evaluation = Evaluation(
        event,
        contract,
        {name: np.full((500, 3), -1) for name in ("t1", "t2")},
        {name: array for name, array in arrays.items() if name.startswith("target/")},
        {name: arrays[name] for name in (stream, f"{stream}.mask")},
        np.ones(500),
    )
    found = {
        m.name: m for m in baselines(make_topology(event, queries=False, where="test"), evaluation)
    }
    assert found["event purity"].value == pytest.approx(0.328, abs=5e-4)
    assert found["event purity, 2 of 2 reconstructable"].value == pytest.approx(0.416, abs=5e-4)
    assert "file units taken as GeV" in found["event purity"].of
