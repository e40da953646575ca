from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.backbones.transformer import TransformerBackbone, TransformerConfig
from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.component import parse_options
from hepset.interfaces.head import EncoderHandle, Evaluation
from hepset.judges import judge_head
from hepset.model.input_transform import InputTransform
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import (
    ColumnStatistics,
    EventCounts,
    Statistics,
    TensorStatistics,
)
from hepset.testing import check_head, make_event_info
from hepset_assignment.head import AssignmentConfig, AssignmentHead

Array = NDArray[Any]

JETS = {
    "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
    "eta": {"transform": "standardise"},
    "phi": {},
    "mass": {"unit": "GeV"},
    "btag": {},
}


def event_of(particles: dict[str, Any], symmetries: dict[str, Any], **more: Any) -> EventInfo:
    return EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 7, "features": JETS}},
            "particles": particles,
            "symmetries": symmetries,
            **more,
        }
    )


TOPS = event_of(
    {"t1": {"b": "jets", "q1": "jets", "q2": "jets"}, "t2": {"b": None, "q1": None, "q2": None}},
    {"t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
)
PAIR = event_of(
    {"h1": {"a": "jets", "b": "jets"}, "h2": {"a": "jets", "b": "jets"}},
    {"event": [["h1", "h2"]], "h1": [["a", "b"]], "h2": [["a", "b"]]},
)


def make_head(event: EventInfo, **options: Any) -> tuple[AssignmentHead, Contract]:
    head = AssignmentHead("assignment", parse_options(AssignmentConfig, options, "test"))
    contract = compile_contract(event, [head.contract(event)])
    column = {"pt": ColumnStatistics(count=2, mean=60.0, m2=1.0, minimum=1.0, maximum=9.0)}
    head.build(contract, Statistics(tensors={"jets": TensorStatistics(columns=column)}), 16)
    return head, contract


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mass_features": False, "detection_loss_weight": 0, "partial_products": False},
        {"particle_queries": True, "combination": "softmin", "selection": "greedy"},
        {"max_tuples": 12, "use_detection": True, "focal_gamma": 1.5},
        {"balance_particles": True, "balance_objects": True},
    ],
)
def test_conforms(options: dict[str, Any]) -> None:
    check_head(AssignmentHead, options)


@pytest.mark.parametrize("event", [TOPS, PAIR])
@pytest.mark.parametrize("max_tuples", [6000, 12])
def test_a_gpu_is_not_waited_for(event: EventInfo, max_tuples: int) -> None:
    """Tensors without data stand for a GPU: whatever asks for a number of theirs fails."""
    head, _ = make_head(event, max_tuples=max_tuples)
    head.to("meta").train()
    real = torch.ones(4, 7, dtype=torch.bool, device="meta")
    encoded = Encoded(
        {"jets": torch.randn(4, 7, 16, device="meta", requires_grad=True)},
        {"jets": real},
        torch.randn(4, 16, device="meta"),
        {"jets": torch.randn(4, 7, 4, device="meta")},
    )
    outputs = head.score(encoded)
    targets = {
        particle.tensor: torch.zeros(4, len(particle.streams), dtype=torch.int64, device="meta")
        for plan in head.topology.processes
        for particle in plan.particles
    }
    terms = head.loss(outputs, targets)
    sum(term.value.sum() for term in terms.values()).backward()
    assert terms["assignment"].value.shape == (4,)


def test_tuples_that_do_not_exist_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU scores them too: scores, detection and gradients are those of a CPU."""
    head, _ = make_head(TOPS)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([7, 5, 3, 2])
    mask = torch.arange(7) < lengths[:, None]
    momenta = torch.randn(4, 7, 3, generator=generator)
    p4 = torch.cat([momenta, momenta.norm(dim=-1, keepdim=True) + 0.1], -1) * mask[..., None]
    found = []
    for everything in (False, True):
        x = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(1)) * mask[..., None]
        x.requires_grad_()
        with monkeypatch.context() as patch:
            if everything:
                patch.setattr(Tensor, "is_cpu", False)
            outputs = head.score(Encoded({"jets": x}, {"jets": mask}, x.sum(1), {"jets": p4}))
        exists = outputs["scores.0"] > -1e5
        kept = torch.where(exists, outputs["scores.0"], 0.0)
        (kept.sin().sum() + outputs["detection.0"].sum()).backward()
        found.append((exists, kept, outputs["detection.0"], x.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "event",
    [
        make_event_info(processes=3),
        TOPS,
        event_of({"x": ["a", "b", "c", "d", "e"]}, {"x": [["a", "b"], ["c", "d", "e"]]}),
        event_of({"x": ["a", "b", "c"], "y": ["a"]}, {"x": [[["a", "b", "c"]]]}),
        event_of(
            {f"h{n}": {"a": "jets", "b": "jets"} for n in range(3)},
            {"event": [["h0", "h1", "h2"]], **{f"h{n}": [["a", "b"]] for n in range(3)}},
        ),
        event_of({"x": ["a", "b"], "y": ["a", "b"]}, {}, shared_objects=True),
    ],
)
def test_conforms_for_any_topology(event: EventInfo) -> None:
    check_head(AssignmentHead, {"particle_queries": True, "selection_width": 16}, event=event)


def test_conforms_with_a_penalty_of_overlaps() -> None:
    options = {"particle_queries": True, "overlap_loss_weight": 0.5, "balance_particles": True}
    check_head(AssignmentHead, options, event=PAIR)


def test_the_graph_decides_the_same() -> None:
    check_head(
        AssignmentHead,
        {"selection_width": 24, "particle_queries": True},
        event=PAIR,
        onnx=True,
    )


def test_symmetric_particles_share_their_network_and_others_do_not() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 7, "features": JETS}},
            "processes": {
                "tt": {
                    "particles": {"t1": ["b", "q1", "q2"], "t2": ["b", "q1", "q2"]},
                    "symmetries": {
                        "event": [["t1", "t2"]],
                        "t1": [["q1", "q2"]],
                        "t2": [["q1", "q2"]],
                    },
                },
                "ttz": {
                    "particles": {"t1": ["b", "q1", "q2"], "z": ["b1", "b2"], "h": ["b1", "b2"]},
                    "symmetries": {"t1": [["q1", "q2"]], "z": [["b1", "b2"]], "h": [["b1", "b2"]]},
                },
            },
        }
    )
    head, contract = make_head(event)
    kinds = [[p.kind for p in plan.particles] for plan in head.topology.processes]
    assert kinds == [[0, 0], [0, 1, 2]]
    assert contract["process"].required
    assert contract["target/assignment/ttz/z"].wanted_by[-1] == "assignment"


def test_wrong_events_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="declares no particle to assign"):
        make_head(EventInfo.model_validate({"streams": {"jets": {"features": JETS}}}))
    unlike = event_of(
        {"x": ["a", "b"], "y": ["a", "b"]}, {"event": [["x", "y"]], "x": [["a", "b"]]}
    )
    with pytest.raises(ConfigurationError, match="x, y may be interchanged, but their products"):
        make_head(unlike)
    apart = event_of({"x": {"a": "jets", "b": None}}, {"x": [["a", "b"]]})
    with pytest.raises(ConfigurationError, match="a, b of x may be interchanged"):
        make_head(apart)
    plain = {"streams": {"hits": {"features": ["charge"]}}, "particles": {"x": ["a", "b"]}}
    with pytest.raises(ConfigurationError, match="mass_features: no stream of a product has"):
        make_head(EventInfo.model_validate(plain), mass_features=True)
    names = [f"x{n}" for n in range(9)]
    rounds = [[names], [names[:3]]]  # odd cycles generate the 181 440 even orders
    many = event_of({name: ["a"] for name in names}, {"event": rounds})
    with pytest.raises(ConfigurationError, match="permutations of particles change nothing"):
        make_head(many)
    free = event_of({name: ["a"] for name in names}, {"event": [names]})
    make_head(free, particle_queries=True)
    more = [f"x{n}" for n in range(11)]
    eleven = event_of({name: ["a"] for name in more}, {"event": [more]})
    with pytest.raises(ConfigurationError, match="softmin cannot weight the permutations of 11"):
        make_head(eleven, particle_queries=True, combination="softmin")
    with pytest.raises(ConfigurationError, match="set particle_queries: true"):
        make_head(TOPS, overlap_loss_weight=1.0)
    with pytest.raises(ConfigurationError, match="use_detection: with detection_loss_weight: 0"):
        make_head(TOPS, use_detection=True, detection_loss_weight=0)
    head = AssignmentHead("assignment", AssignmentConfig())
    with pytest.raises(ConfigurationError, match="call contract"):
        head.build(compile_contract(TOPS), Statistics(), 8)


def test_products_look_only_at_their_stream() -> None:
    """Lepton indices are local; absolute ones count the jets before."""
    event = EventInfo.model_validate(
        {
            "streams": {
                "jets": {"slots": 4, "features": JETS},
                "leptons": {"slots": 2, "features": ["pt"]},
            },
            "particles": {"x": {"l": "leptons"}, "y": {"any": None}},
        }
    )
    head, _ = make_head(event, likelihood="separate")
    masks = {"mask.jets": torch.ones(1, 4).bool(), "mask.leptons": torch.ones(1, 2).bool()}
    outputs: dict[str, Tensor] = {
        **masks,
        "scores.0": torch.tensor([[[0.0, 1.0, -1e12]]]),
        "scores.1": torch.tensor([[[0.0, 0.1, 0.2, 0.3, 0.8, 1.5, -1e12]]]),
        "detection.0": torch.zeros(1, 1),
        "detection.1": torch.zeros(1, 1),
    }
    decided = head.decode(outputs)
    # Both like the second lepton best: 1.0 + 0.8 is more than 0.0 + 1.5.
    assert decided["x"].tolist() == [[1]]
    assert decided["y"].tolist() == [[4]]
    assert float(decided["x/probability"]) == pytest.approx(math.e / (1 + math.e))
    targets = {
        "target/assignment/x": torch.tensor([[1]]),
        "target/assignment/y": torch.tensor([[4]]),
    }
    expected = -math.log(math.e / (1 + math.e))
    scores = outputs["scores.1"][0, 0, :6]
    expected -= float(torch.log_softmax(scores, 0)[4])
    loss = head.loss(outputs, targets)["assignment"]
    assert float(loss.value) == pytest.approx(expected, rel=1e-5)


def test_partial_particles_train_through_the_marginal() -> None:
    """One of three products is known: 15 of the 105 tuples of 7 jets have it as b."""
    event = event_of({"t": {"b": "jets", "q1": "jets", "q2": "jets"}}, {"t": [["q1", "q2"]]})
    known, _ = make_head(event)
    parity, _ = make_head(event, partial_products=False)
    mask = torch.ones(1, 7, dtype=torch.bool)
    given = {"mask.jets": mask}
    exists = known.space.exist(0, known.space.of(0, given), given)
    assert int(exists.sum()) == 105
    outputs = {
        "mask.jets": mask,
        "scores.0": torch.where(exists[:, None], 0.0, -1e12),
        "detection.0": torch.zeros(1, 1),
    }
    targets = {"target/assignment/t": torch.tensor([[3, -1, -1]])}
    loss = known.loss(outputs, targets)
    assert float(loss["assignment"].value) == pytest.approx(math.log(7))
    assert bool(loss["assignment"].valid)
    assert not parity.loss(outputs, targets)["assignment"].valid.any()
    assert float(loss["detection"].value) == pytest.approx(0.5 * math.log(2))


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


def test_weights_of_particles_are_inside_the_choice_of_the_permutation() -> None:
    """Unweighted the swap is better; where only h1 counts, h1's own target with the first is."""
    head, _ = make_head(PAIR, particle_queries=True, detection_loss_weight=0, likelihood="separate")
    given = {"mask.jets": torch.ones(1, 7, dtype=torch.bool)}
    objects = head.space.of(0, given).objects.tolist()
    probability = {(0, 1): (0.2, 0.3), (2, 3): (0.4, 0.01)}
    scores = torch.full((1, 2, len(objects)), -1e12)
    for place, pair in enumerate(map(tuple, objects[:-1])):
        for query in range(2):
            rest = (1 - sum(p[query] for p in probability.values())) / (len(objects) - 3)
            chance = probability[pair][query] if pair in probability else rest
            scores[0, query, place] = math.log(chance)
    outputs = {**given, "scores.0": scores}
    targets = {
        "target/assignment/h1": torch.tensor([[0, 1]]),
        "target/assignment/h2": torch.tensor([[2, 3]]),
    }
    swapped = -math.log(0.4) - math.log(0.3)
    assert float(head.loss(outputs, targets)["assignment"].value) == pytest.approx(swapped)
    targets["weight/assignment/h1"] = torch.tensor([0.1])
    targets["weight/assignment/h2"] = torch.tensor([2.0])
    # h2's target by the first particle: 2 · 0.92 + 0.1 · 1.2; by the second: 2 · 4.6 + 0.1 · 1.6.
    weighted = -2 * math.log(0.4) - 0.1 * math.log(0.3)
    assert float(head.loss(outputs, targets)["assignment"].value) == pytest.approx(weighted)
    targets["weight/assignment/h2"] = torch.tensor([0.0])
    targets["weight/assignment/h1"] = torch.tensor([-1.0])
    # The one with the larger probability for h1's target, 0.3, is chosen all the same.
    loss = head.loss(outputs, targets)["assignment"]
    assert float(loss.value) == pytest.approx(math.log(0.3))


def test_rare_events_count_more() -> None:
    """Weights by the set of particles times those by the number of objects."""
    head, contract = make_head(PAIR)
    counts = EventCounts(objects={5: 3, 7: 1}, present={"": {0: {"00": 1, "10": 2, "11": 1}}})
    balanced = AssignmentHead(
        "assignment", AssignmentConfig(balance_particles=True, balance_objects=True)
    )
    balanced.contract(PAIR)
    balanced.build(contract, Statistics(events=4, counts=counts), 16)
    outputs = random_outputs(head, 2)
    outputs = {**outputs, "scores.0": outputs["scores.0"][:, :1]}
    outputs["detection.0"] = outputs["detection.0"][:, :1]
    targets = {
        "target/assignment/h1": torch.tensor([[0, 1], [0, 1]]),
        "target/assignment/h2": torch.tensor([[2, 3], [-1, -1]]),
    }
    plain, weighted = head.loss(outputs, targets), balanced.loss(outputs, targets)
    beta = 3 / 4
    by_set = {n: (1 - beta) / (1 - beta ** (n + 1)) for n in (1, 2)}
    mean = (2 * by_set[1] + 2 * by_set[2]) / 4
    by_size = {n: (1 - beta) / (1 - beta**n) for n in (3, 1)}
    size_mean = (3 * by_size[3] + by_size[1]) / 4
    expected = [by_set[1] * by_size[3], by_set[2] * by_size[1]]
    for name in ("assignment", "detection"):
        ratio = weighted[name].value / plain[name].value
        assert ratio.tolist() == pytest.approx([e / mean / size_mean for e in expected])


def boosted(parts: Array, momentum: Array, mass: float) -> Array:
    """Four-momenta (E, n, 4) in the rest frame of a mass that moves with `momentum` (E, 3)."""
    energy = np.sqrt((momentum**2).sum(1) + mass**2)
    beta, gamma = momentum / energy[:, None], energy / mass
    along = (parts[..., :3] * beta[:, None]).sum(-1)
    push = (gamma**2 / (gamma + 1))[:, None] * along + gamma[:, None] * parts[..., 3]
    space: Array = parts[..., :3] + beta[:, None] * push[..., None]
    total: Array = np.concatenate(
        [space, (gamma[:, None] * (parts[..., 3] + along))[..., None]], -1
    )
    return total


def decays(events: int, seed: int) -> dict[str, Tensor]:
    """Seven massless jets; three of them have an invariant mass of 170, two of these 80."""
    rng = np.random.default_rng(seed)

    def momentum(size: float) -> Array:
        direction = rng.normal(size=(events, 3))
        scaled: Array = size * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        return scaled

    def two_body(mass: float, left: float) -> Array:
        """Products with masses `left` and 0 at rest, (E, 2, 4)."""
        size = (mass**2 - left**2) / (2 * mass)
        back = momentum(size)
        first = np.concatenate([back, np.full((events, 1), math.hypot(size, left))], 1)
        second = np.concatenate([-back, np.full((events, 1), size)], 1)
        return np.stack([first, second], 1)

    top = two_body(170.0, 80.0)
    quarks = boosted(two_body(80.0, 0.0), top[:, 0, :3], 80.0)
    decay = boosted(np.concatenate([quarks, top[:, 1:]], 1), momentum(80.0), 170.0)
    other = rng.normal(size=(events, 4, 3)) * 60
    energy = np.linalg.norm(other, axis=-1, keepdims=True)
    p4 = np.concatenate([decay, np.concatenate([other, energy], -1)], 1)
    order = rng.permuted(np.tile(np.arange(7), (events, 1)), axis=1)
    p4 = np.take_along_axis(p4, order[..., None], 1)
    place = np.argsort(order, 1)
    return {
        "jets": torch.from_numpy(p4.astype(np.float32)),
        "jets.mask": torch.ones(events, 7, dtype=torch.bool),
        "target/assignment/t": torch.from_numpy(place[:, [2, 0, 1]]),
    }


def test_learns_a_mass() -> None:
    """Chance is 1 / 105; a model that uses masses finds most decays within seconds."""
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 7, "features": ["px", "py", "pz", "energy"]}},
            "particles": {"t": {"b": "jets", "q1": "jets", "q2": "jets"}},
            "symmetries": {"t": [["q1", "q2"]]},
        }
    )
    train, test = decays(1500, 1), decays(300, 2)
    scale = ColumnStatistics(count=9, mean=70.0, m2=1.0, minimum=0.0, maximum=9.0)
    statistics = Statistics(tensors={"jets": TensorStatistics(columns={"energy": scale})})
    head = AssignmentHead("assignment", AssignmentConfig())
    contract = compile_contract(event, [head.contract(event)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transform = InputTransform(event, contract, statistics)
        backbone = TransformerBackbone(TransformerConfig(width=16, depth=0, attention_heads=2))
        backbone.build(transform.layout)
        head.build(contract, statistics, 16)
        optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.01)

        def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            inputs = transform(tensors)
            handle = EncoderHandle(transform, backbone, inputs)
            return head.forward(backbone(inputs), handle)

        for _ in range(8):
            for rows in torch.randperm(1500).split(100):
                batch = {name: value[rows] for name, value in train.items()}
                loss = head.loss(run(batch), batch)["assignment"].value.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        found = head.decode(run(test))
    evaluation = Evaluation(
        event,
        contract,
        {name: value.numpy() for name, value in found.items()},
        {"target/assignment/t": test["target/assignment/t"].numpy()},
        {name: test[name].numpy() for name in ("jets", "jets.mask")},
        np.ones(300),
    )
    purity = {m.name: m.value for m in judge_head(head, evaluation).metrics()}["event purity"]
    simple = {m.name: m.value for m in judge_head(head, evaluation).baselines()}["event purity"]
    assert purity > 0.8
    assert simple < 0.2
