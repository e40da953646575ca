"""SPANet's losses, against its own numbers and by pencil."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from hepset.schema.symmetry import PermutationGroup
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.losses import (
    AssignmentTarget,
    LossTargets,
    combine,
    pair_terms,
    permutation_terms,
    regression_loss,
    spanet_loss,
    symmetry_breaking,
)
from hepset_spanet.network.embedding import Source
from hepset_spanet.network.reading import read_network
from hepset_spanet.options import SpanetOptions

FIXTURES = Path(__file__).parents[5] / "shared/fixtures/spanet"
needs_numbers = pytest.mark.skipif(not FIXTURES.is_dir(), reason="SPANet's numbers are not here")
SWAP = ((0, 1), (1, 0))


@needs_numbers
@pytest.mark.parametrize("name", ["tiny_ttbar", "tiny_ttH"])
def test_every_term_and_gradient_equals_spanet(name: str) -> None:
    folder = FIXTURES / name
    options = SpanetOptions.parse(json.loads((folder / "options.json").read_text()), "options")
    document = yaml.safe_load((folder / "event.yaml").read_text())
    event = parse_event_file(document, where="event", parity=True)
    with np.load(folder / "state_dict.npz") as stored:
        weights = {key: torch.from_numpy(stored[key]) for key in stored}
    network = read_network(weights, options, event)
    numbers = np.load(folder / "io.npz")
    topology = network.topology

    def get(key: str) -> Tensor:
        return torch.from_numpy(numbers[key])

    outputs = network(
        {
            each.name: Source(get(f"source/{each.name}/data"), get(f"source/{each.name}/mask"))
            for each in topology.inputs
        }
    )
    names = [particle.name for particle in topology.particles]
    targets = LossTargets(
        {
            each: AssignmentTarget(
                *(get(f"target/{each}/{part}") for part in ("indices", "mask", "weight"))
            )
            for each in names
        },
        get("num_vectors"),
        {key: get(f"regression_target/{key}") for key in topology.regressions},
        {key: get(f"classification_target/{key}") for key in topology.classifications},
    )
    pairs = pair_terms(
        [outputs.log_probabilities[each] for each in names],
        [outputs.detections[each] for each in names],
        [targets.assignments[each] for each in names],
        [len(particle.group) for particle in topology.particles],
        topology.permutations,
        focal_gamma=options.focal_gamma,
    )
    scales = torch.tensor([options.assignment_loss_scale, options.detection_loss_scale])
    terms = permutation_terms(pairs * scales.double()[:, None], topology.permutations)
    combined = combine(terms, options.combine_pair_loss)
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(terms.detach(), get("loss/all_permutations"), **close)
    expected = get("loss/combined_per_particle_event")
    torch.testing.assert_close(combined.terms.detach(), expected, **close)
    assert torch.equal(combined.best, get("loss/best_permutation_index"))

    transpositions = PermutationGroup(tuple(names), topology.permutations).transpositions
    total, logged = spanet_loss(outputs, targets, network, pairs=transpositions)
    torch.testing.assert_close(total.detach(), get("loss/returned_mean"), **close)
    stated = json.loads((folder / "losses.json").read_text())
    for key, value in logged.items():
        assert float(value.detach()) == pytest.approx(stated["logs"][key], rel=1e-6, abs=1e-6), key
    total.backward()
    gradients = {
        piece.name: piece.of(p.grad)
        for name, p in network.named_parameters()
        if p.grad is not None
        for piece in network._pieces[name]
    }
    for key, norm in stated["grad_norms"].items():
        assert float(gradients[key].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-7), key


def two_particles(focal_gamma: float = 0.0) -> Tensor:
    """One event, one-product particles over two objects, targets 0 and 1."""
    distributions = [torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.6, 0.4]]).log()]
    detections = [torch.tensor([0.0]), torch.tensor([math.log(3)])]
    there = torch.tensor([True])
    targets = [
        AssignmentTarget(torch.tensor([[0]]), there, torch.tensor([1.0])),
        AssignmentTarget(torch.tensor([[1]]), there, torch.tensor([2.0])),
    ]
    pairs = pair_terms(distributions, detections, targets, [1, 1], SWAP, focal_gamma=focal_gamma)
    return permutation_terms(pairs, SWAP)


def test_terms_by_pencil() -> None:
    found = two_particles()[..., 0]
    half, quarter = math.log(2), math.log(4 / 3)
    same = [[-math.log(0.2), half], [-2 * math.log(0.4), 2 * quarter]]
    swapped = [[-2 * math.log(0.8), 2 * half], [-math.log(0.6), quarter]]
    torch.testing.assert_close(found, torch.tensor([same, swapped]))


def test_focal_by_pencil() -> None:
    found = two_particles(focal_gamma=2.0)[0, 0, 0, 0]
    assert float(found) == pytest.approx(-math.log(0.2) * 0.8**2)


def test_focal_of_a_certain_assignment_is_finite() -> None:
    certain = torch.tensor([[0.0, -1.0]]) + 1e-7
    target = AssignmentTarget(torch.tensor([[0]]), torch.tensor([True]), torch.tensor([1.0]))
    pairs = pair_terms([certain], [torch.zeros(1)], [target], [1], [(0,)], focal_gamma=0.5)
    assert torch.isfinite(pairs).all()


def test_the_ways_to_combine() -> None:
    terms = two_particles()
    totals = terms.sum((1, 2))[:, 0]
    assert int(totals.argmin()) == 1
    assert torch.equal(combine(terms, "min").terms, terms[1])
    assert torch.equal(combine(terms, "something else").terms, terms[1])
    torch.testing.assert_close(combine(terms, "mean").terms, (terms[0] + terms[1]) / 2)
    weights = torch.exp(-totals) / torch.exp(-totals).sum()
    expected = weights[0] * terms[0] + weights[1] * terms[1]
    torch.testing.assert_close(combine(terms, "softmin").terms, expected)


def test_missing_particle_has_no_assignment_term() -> None:
    distribution = torch.tensor([[-math.inf, 0.0]])
    target = AssignmentTarget(torch.tensor([[-1]]), torch.tensor([False]), torch.tensor([1.0]))
    pairs = pair_terms([distribution], [torch.zeros(1)], [target], [2], [(0,)])
    assert pairs[0, 0, :, 0].tolist() == pytest.approx([0.0, math.log(2)])


def test_unordered_assignments_count_all_their_orders() -> None:
    uniform = torch.full((1, 3, 3), -math.log(6))
    uniform = uniform.masked_fill(torch.eye(3, dtype=torch.bool), -math.inf)
    target = AssignmentTarget(torch.tensor([[0, 2]]), torch.tensor([True]), torch.tensor([1.0]))
    pairs = pair_terms([uniform], [torch.zeros(1)], [target], [2], [(0,)])
    assert float(pairs[0, 0, 0, 0]) == pytest.approx(math.log(3))


def test_swapping_the_targets_changes_nothing() -> None:
    distributions = [torch.randn(4, 3, 3).log_softmax(-1) for _ in range(2)]
    detections = [torch.randn(4) for _ in range(2)]
    targets = [
        AssignmentTarget(torch.tensor([[0, 1]] * 4), torch.tensor([True] * 4), torch.ones(4)),
        AssignmentTarget(torch.tensor([[2, -1]] * 4), torch.tensor([False] * 4), torch.ones(4)),
    ]
    for mode in ("min", "softmin", "mean"):
        totals = [
            combine(
                permutation_terms(pair_terms(distributions, detections, order, [1, 1], SWAP), SWAP),
                mode,
            ).terms.sum((0, 1))
            for order in (targets, targets[::-1])
        ]
        torch.testing.assert_close(*totals)


def test_divergence_of_equal_and_of_disjoint_distributions() -> None:
    first = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 3).log()
    second = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.1, 0.9]]).log()
    masks = torch.tensor([[True, True, True], [True, True, False]])
    found = symmetry_breaking([first, second], masks, [(0, 1)])
    assert found.tolist() == pytest.approx([1.0, math.exp(-(math.log(2) ** 2)), 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("gaussian", (1 + 4) / 2 / 4), ("laplacian", (1 + 2) / 2 / 2), ("log_gaussian", (1 + 4) / 2)],
)
def test_regression_by_pencil(kind: Any, expected: float) -> None:
    prediction = torch.tensor([1.0, 5.0, 2.0], requires_grad=True)
    target = torch.tensor([2.0, math.nan, 4.0])
    loss = regression_loss(prediction, target, kind, torch.tensor(2.0))
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert float(prediction.grad[1]) == 0


def test_without_any_target_a_regression_is_zero() -> None:
    nothing = torch.tensor([math.nan])
    assert float(regression_loss(torch.ones(1), nothing, "gaussian", torch.tensor(1.0))) == 0
