"""SPANet's network, against its own numbers and against what its description says."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.losses import AssignmentTarget, LossTargets, spanet_loss
from hepset_spanet.network import Particle, SpanetInput, SpanetNetwork, Topology
from hepset_spanet.network.blocks import make_block
from hepset_spanet.network.branch import Branches
from hepset_spanet.network.embedding import Embedded, Source
from hepset_spanet.network.normalisation import MaskedBatchNorm
from hepset_spanet.network.reading import read_network
from hepset_spanet.network.rows import AllRows, RealRows
from hepset_spanet.network.stacked import GruGate
from hepset_spanet.network.symmetric import (
    contract_weights,
    joint_product,
    symmetrise,
    tuple_log_probability,
)
from hepset_spanet.options import SpanetOptions

FIXTURES = Path(__file__).parents[5] / "shared/fixtures/spanet"
needs_numbers = pytest.mark.skipif(not FIXTURES.is_dir(), reason="SPANet's numbers are not here")

SWAP = ((0, 1, 2), (1, 0, 2))
SMALL = SpanetOptions(
    hidden_dim=8,
    initial_embedding_dim=4,
    position_embedding_dim=2,
    num_encoder_layers=1,
    num_branch_embedding_layers=1,
    num_branch_encoder_layers=1,
    num_jet_embedding_layers=1,
    num_jet_encoder_layers=1,
    num_attention_heads=2,
)
TOPOLOGY = Topology(
    inputs=(
        SpanetInput(name="jets", kind="sequential", features=3),
        SpanetInput(name="pairs", kind="relative", features=2),
        SpanetInput(name="met", kind="global", features=2),
    ),
    particles=(
        Particle(name="t", products=("q1", "q2", "b"), group=SWAP),
        Particle(name="h", products=("a", "b"), group=((0, 1),)),
    ),
    permutations=((0, 1),),
    regressions={"EVENT/m": "gaussian", "t/q1/pt": "log_gaussian"},
    classifications={"h/PARTICLE/kind": 3},
)


def make_network(**options: Any) -> SpanetNetwork:
    """A network with random weights, running moments included."""
    torch.manual_seed(0)
    network = SpanetNetwork(SMALL.model_copy(update=options), TOPOLOGY).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_()
    return network


def make_sources(slots: int = 5, padding: int = 0) -> dict[str, Source]:
    """Three events of five, four and three jets, two objects with pairs, and a global."""
    generator = torch.Generator().manual_seed(1)
    jets = torch.randn(3, slots, 3, generator=generator)
    pairs = torch.randn(3, 2, 2, 2, generator=generator)
    met = torch.randn(3, 1, 2, generator=generator)
    mask = torch.arange(slots)[None] < torch.tensor([5, 4, 3])[:, None]
    jets = torch.cat([jets, torch.full((3, padding, 3), 7.0)], 1)
    mask = torch.cat([mask, torch.zeros(3, padding, dtype=torch.bool)], 1)
    return {
        "jets": Source(jets, mask),
        "pairs": Source(pairs, torch.tensor([[True, True], [True, False], [True, True]])),
        "met": Source(met, torch.tensor([[True], [True], [False]])),
    }


def test_a_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without data stand for a GPU: whatever asks for a number of theirs fails."""
    # They know nothing of lower precision.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    network = make_network(normalization="MaskedBatchNorm").to("meta").train()
    sources = {
        name: Source(source.values.to("meta"), source.mask.to("meta"))
        for name, source in make_sources().items()
    }
    outputs = network(sources)
    some = torch.ones(3, device="meta")
    targets = LossTargets(
        {
            particle.name: AssignmentTarget(
                torch.zeros(3, len(particle.products), dtype=torch.int64, device="meta"),
                some.bool(),
                some,
            )
            for particle in TOPOLOGY.particles
        },
        regressions=dict.fromkeys(TOPOLOGY.regressions, some),
        classifications={key: some.long() for key in TOPOLOGY.classifications},
    )
    loss, _ = spanet_loss(outputs, targets, network)
    loss.backward()
    assert outputs.log_probabilities["t"].shape == (3, 7, 7, 7)


def load(name: str) -> tuple[SpanetNetwork, Any]:
    folder = FIXTURES / name
    options = SpanetOptions.parse(json.loads((folder / "options.json").read_text()), "options")
    document = yaml.safe_load((folder / "event.yaml").read_text())
    event = parse_event_file(document, where="event", parity=True)
    with np.load(folder / "state_dict.npz") as stored:
        weights = {key: torch.from_numpy(stored[key]) for key in stored}
    return read_network(weights, options, event), np.load(folder / "io.npz")


def largest(found: Tensor, expected: Any) -> float:
    """Largest difference; infinities have to be in the same places."""
    expected = torch.from_numpy(expected)
    finite = torch.isfinite(expected)
    assert torch.equal(finite, torch.isfinite(found))
    return float((found - expected)[finite].abs().max())


@needs_numbers
@pytest.mark.parametrize("name", ["tiny_ttbar", "tiny_ttH"])
def test_every_stage_equals_spanet(name: str) -> None:
    network, numbers = load(name)
    sources = {
        each.name: Source(
            torch.from_numpy(numbers[f"source/{each.name}/data"]),
            torch.from_numpy(numbers[f"source/{each.name}/mask"]),
        )
        for each in network.topology.inputs
    }
    with torch.no_grad():
        embedded = network.embedding(sources)
        outputs = network(sources)
    assert np.array_equal(~embedded.rows.mask.numpy(), numbers["stage/padding_mask"])
    sequence = embedded.rows.padded(embedded.x)[0].transpose(0, 1)
    assert largest(sequence, numbers["stage/embedding"]) < 1e-6
    assignable = np.flatnonzero(numbers["stage/global_mask"])
    objects = embedded.assignable.padded(embedded.objects(embedded.x))[0].transpose(0, 1)
    assert torch.equal(objects, sequence[assignable])
    assert largest(outputs.sequence.transpose(0, 1), numbers["stage/encoder"]) < 1e-6
    found = {
        **{f"{n}/assignment_log_probability": v for n, v in outputs.log_probabilities.items()},
        **{f"{n}/detection_logit": v for n, v in outputs.detections.items()},
        **{f"vector/{n}": v for n, v in outputs.vectors.items()},
        **{f"regression/{n}": v for n, v in outputs.regressions.items()},
        **{f"classification/{n}": v for n, v in outputs.classifications.items()},
    }
    assert set(found) == {key[4:] for key in numbers if key.startswith("out/")}
    for key, value in found.items():
        assert largest(value, numbers[f"out/{key}"]) < 1e-6, key


def test_sizes_of_the_example_networks() -> None:
    example = SpanetOptions(
        hidden_dim=64,
        num_encoder_layers=6,
        num_branch_embedding_layers=3,
        num_branch_encoder_layers=3,
        num_jet_encoder_layers=2,
        num_detector_layers=2,
        num_regression_layers=3,
        num_classification_layers=3,
    )
    tops = tuple(Particle(name=n, products=("q1", "q2", "b"), group=SWAP) for n in ("t1", "t2"))
    ttbar = SpanetNetwork(
        example,
        Topology(
            inputs=(SpanetInput(name="jets", kind="sequential", features=5),),
            particles=tops,
            permutations=((0, 1), (1, 0)),
        ),
        {"particle_index_tensor": torch.ones(2), "particle_weights_tensor": torch.ones(4)},
    )
    tth = SpanetNetwork(
        example.model_copy(update={"num_branch_embedding_layers": 5, "num_jet_encoder_layers": 1}),
        Topology(
            inputs=(
                SpanetInput(name="jets", kind="sequential", features=9),
                SpanetInput(name="met", kind="global", features=3),
            ),
            particles=(
                Particle(name="lt", products=("b",), group=((0,),)),
                Particle(name="ht", products=("b", "q1", "q2"), group=((0, 1, 2), (0, 2, 1))),
                Particle(name="h", products=("b1", "b2"), group=((0, 1), (1, 0))),
            ),
            permutations=((0, 1, 2),),
            regressions={f"EVENT/{i}": "gaussian" for i in range(5)},
            classifications={"EVENT/signal": 2},
        ),
        {"particle_index_tensor": torch.ones(3), "particle_weights_tensor": torch.ones(8)},
    )
    sizes = []
    for network in (ttbar, tth):
        parameters = list(network.parameters())
        sizes.append(
            (
                sum(p.numel() for p in parameters),
                sum(p.numel() for p in parameters if p.requires_grad),
                len(network.state_dict()),
            )
        )
    assert sizes == [(2_542_476, 2_542_456, 1041), (3_543_006, 3_542_958, 1526)]


@pytest.mark.parametrize(
    ("block", "normalization", "masking", "transformer"),
    [
        ("GRU", "LayerNorm", "Filling", "Gated"),
        ("Basic", "BatchNorm", "Multiplicative", "Standard"),
        ("Gated", "MaskedBatchNorm", "Filling", "NormFirst"),
        ("Resnet", "LayerNorm", "none", "GTrXL"),
        ("GRU", "MaskedBatchNorm", "Multiplicative", "Standard"),
    ],
)
def test_padding_and_order_of_objects_change_nothing(
    block: str, normalization: str, masking: str, transformer: str
) -> None:
    network = make_network(
        linear_block_type=block,
        normalization=normalization,
        masking=masking,
        transformer_type=transformer,
    )
    sources = make_sources()
    order = torch.tensor([2, 0, 1, 4, 3])
    jets = sources["jets"]
    shuffled = {**sources, "jets": Source(jets.values[:, order], jets.mask[:, order])}
    with torch.no_grad():
        plain, padded = network(sources), network(make_sources(padding=3))
        moved = network(shuffled)
    where = torch.cat([order, torch.tensor([5, 6])])
    kept = torch.cat([torch.arange(5), torch.tensor([8, 9])])
    for name, expected in plain.log_probabilities.items():
        assert torch.isfinite(expected).flatten(1).any(1).all()
        found, trimmed = moved.log_probabilities[name], padded.log_probabilities[name]
        permuted = expected
        assert float(torch.exp(trimmed).sum()) == pytest.approx(len(trimmed), abs=1e-4)
        for axis in range(1, expected.ndim):
            permuted = permuted.index_select(axis, where)
            trimmed = trimmed.index_select(axis, kept)
        torch.testing.assert_close(found, permuted, atol=1e-5, rtol=0)
        torch.testing.assert_close(trimmed, plain.log_probabilities[name], atol=1e-5, rtol=0)
    for name in plain.vectors:
        torch.testing.assert_close(padded.vectors[name], plain.vectors[name], atol=1e-5, rtol=0)
        torch.testing.assert_close(moved.vectors[name], plain.vectors[name], atol=1e-5, rtol=0)
    assert set(plain.regressions) == set(TOPOLOGY.regressions)
    assert plain.classifications["h/PARTICLE/kind"].shape == (3, 3)


def test_symmetric_products_have_symmetric_probabilities() -> None:
    found = make_network()(make_sources()).log_probabilities["t"]
    torch.testing.assert_close(found, found.transpose(1, 2))


def test_no_layers_at_all() -> None:
    layers = [name for name in SpanetOptions.model_fields if name.endswith("_layers")]
    network = make_network(**dict.fromkeys(layers, 0))
    assert torch.isfinite(network(make_sources()).log_probabilities["h"]).any()


def test_gate_by_pencil() -> None:
    gate = GruGate(1, 1)
    for parameter in gate.parameters():
        torch.nn.init.ones_(parameter)
    v, r0 = 0.3, -0.7
    reset = 1 / (1 + math.exp(-(v + 1 + r0)))
    update = 1 / (1 + math.exp(-(v + 1 + r0 - 1)))
    new = math.tanh(v + 1 + reset * r0)
    found = float(gate(torch.tensor([[[v]]]), torch.tensor([[[r0]]])).detach())
    assert found == pytest.approx((1 - update) * r0 + update * new, rel=1e-6)


def test_second_half_of_a_residual_block_adds_the_first_after_normalising() -> None:
    options = SMALL.model_copy(update={"linear_block_type": "Resnet", "linear_activation": "ReLU"})
    block = make_block(options, 1, 2, 2, skip=True)
    same = torch.eye(2)[None]
    weights = {"block_1.linear.weight": same, "block_2.linear.weight": same}
    block.load_state_dict(weights, strict=False)
    # (3, 1) normalises to (1, -1), the activation makes (1, 0) of it; that normalises to (1, -1),
    # and (1, 0) is added before the activation.
    found = block(torch.tensor([[[3.0, 1.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[2.0, 0.0]]]), atol=1e-4, rtol=0)


def test_masked_batch_norm_by_pencil() -> None:
    norm = MaskedBatchNorm(1, 1)
    x = torch.tensor([[[1.0], [3.0], [99.0]]])
    mask = torch.tensor([[True], [True], [False]])
    found = norm(x, mask)
    root = math.sqrt(2 + 1e-5)  # mean 2, unbiased variance 2
    torch.testing.assert_close(found, torch.tensor([[[-1 / root], [1 / root], [0.0]]]))
    assert (float(norm.running_mean), float(norm.running_var)) == (2.0, 2.0)
    norm(x + 1, mask)
    assert float(norm.running_mean) == pytest.approx(0.9 * 2 + 0.1 * 3)


def test_split_scores_are_products_of_vectors() -> None:
    y = torch.randn(3, 1, 4, 8)
    scores = symmetrise(joint_product(list(y)), SWAP)[0]
    y = y[:, 0]
    for i, j, k in itertools.product(range(4), repeat=3):
        plain = (y[0][i] * y[1][j] * y[2][k]).sum() + (y[0][j] * y[1][i] * y[2][k]).sum()
        torch.testing.assert_close(scores[i, j, k], plain / 2 / 8**1.5)


def test_full_scores_are_contractions_of_one_tensor() -> None:
    weights, x = torch.randn(8, 8, 8), torch.randn(1, 4, 8)
    scores = symmetrise(contract_weights(weights, x, SWAP), SWAP)
    weights = (weights + weights.transpose(0, 1)) / 2
    expected = torch.einsum("abc,ia,jb,kc->ijk", weights, x[0], x[0], x[0]) / 8**1.5
    torch.testing.assert_close(scores[0], expected)


def test_full_attention_has_no_vectors_of_products() -> None:
    branches = Branches(
        SMALL.model_copy(update={"split_symmetric_attention": False}), TOPOLOGY.particles
    )
    mask = torch.ones(2, 4, dtype=torch.bool)
    rows = AllRows(mask, mask)
    found = branches(Embedded(torch.randn(1, 8, 8), rows, rows, lambda x: x))
    assert [each.shape for each in found.log_probabilities] == [(2, 4, 4, 4), (2, 4, 4)]
    assert found.product_vectors == [[], []]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("masking", ["Filling", "Multiplicative"])
def test_real_rows_alone_give_what_all_rows_give(masking: str, tokens: bool) -> None:
    """Outputs, gradients and running moments: whether padding is computed or not."""
    found = []
    for real in (True, False):
        network = make_network(masking=masking, normalization="MaskedBatchNorm").train()
        network.embedding.pads_with_nothing = real
        sources = make_sources(padding=2)
        generator = torch.Generator().manual_seed(3)
        more = (
            (torch.randn(3, 8, generator=generator), torch.randn(3, 2, 8, generator=generator))
            if tokens
            else ()
        )
        assert isinstance(network.embedding(sources).rows, RealRows if real else AllRows)
        out = network(sources, *more)
        loss = out.sequence.square().sum() + out.extra.sum()
        for value in (*out.vectors.values(), *out.regressions.values()):
            loss = loss + value.sum()
        for value in out.log_probabilities.values():
            loss = loss + value[torch.isfinite(value)].sum()
        loss.backward()
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        buffers = {n: b for n, b in network.named_buffers() if "running" in n}
        found.append({"loss": loss.detach(), **out.log_probabilities, **gradients, **buffers})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[1].items():
        # Gradients of a batch of three events are sums of large terms that cancel: rounding is
        # relative to the largest of a tensor, a row too many or too few changes it by itself.
        largest = float(expected.detach()[torch.isfinite(expected)].abs().max())
        tolerance = {"atol": 0.01 * largest + 1e-3, "rtol": 0.0}
        torch.testing.assert_close(found[0][name], expected, **tolerance, msg=name)


@pytest.mark.parametrize("normalization", ["BatchNorm", "MaskedBatchNorm"])
def test_moments_of_lower_precision_and_of_double(normalization: str) -> None:
    """In mixed precision values are bf16 and running moments float32."""
    network = make_network(normalization=normalization).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(make_sources())
    assert all(torch.isfinite(each).all() for each in out.detections.values())
    running = {n: b for n, b in network.named_buffers() if n.endswith(("running_mean", "_var"))}
    assert running
    assert {b.dtype for b in running.values()} == {torch.float32}
    double = make_network(normalization=normalization).double().train()
    sources = {n: Source(s.values.double(), s.mask) for n, s in make_sources().items()}
    assert all(each.dtype == torch.float64 for each in double(sources).detections.values())


def test_running_moments_of_many_rows_are_those_of_few() -> None:
    """However the products are computed: a batch of many equal events has the same moments."""
    found = []
    for copies in (100, 400):
        network = make_network(normalization="MaskedBatchNorm", num_jet_embedding_layers=1).train()
        sources = {
            name: Source(source.values.repeat(copies, *[1] * (source.values.ndim - 1)), mask)
            for name, source in make_sources().items()
            for mask in [source.mask.repeat(copies, 1)]
        }
        network(sources)
        found.append({n: b for n, b in network.named_buffers() if n.endswith("running_mean")})
    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-2)


def test_the_state_dict_has_spanets_names_and_shapes() -> None:
    state = make_network().state_dict()
    layer = "branch_decoders.1.attention.encoders.0.encoder.layers.0"
    assert state[f"{layer}.attention_gate.linear_U_z.weight"].shape == (8, 8)
    assert state[f"{layer}.attention.in_proj_bias"].shape == (24,)
    assert state[f"{layer}.feed_forward.linear_1.0.weight"].shape == (16, 8)
    assert state["branch_decoders.0.encoder.particle_vector"].shape == (1, 1, 8)
    assert state["regression_decoder.networks.t/q1/pt.mean"].shape == ()
    assert state["classification_decoder.networks.h/PARTICLE/kind.output_layer.weight"].shape == (
        3,
        8,
    )
    number = "branch_decoders.0.detection_classifier.output_norm.num_batches_tracked"
    assert state[number].shape == ()
    assert not any(name.startswith("branches") for name in state)


def test_a_state_dict_comes_back_and_each_part_to_its_place() -> None:
    network = make_network()
    state = {
        name: torch.full_like(value, number)
        for number, (name, value) in enumerate(network.state_dict().items())
    }
    network.load_state_dict(state)
    back = network.state_dict()
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    gate = network.branches.encoders.encoder.layers[0].attention_gate
    name = "branch_decoders.0.attention.encoders.2.encoder.layers.0.attention_gate.linear_W_z.bias"
    assert torch.equal(gate.value_bias[2, 8:16], state[name])


def test_a_state_dict_that_lacks_a_part_is_refused() -> None:
    network = make_network()
    state = network.state_dict()
    del state["encoder.encoder.layers.0.attention_gate.linear_W_z.bias"]
    with pytest.raises(RuntimeError, match="value_bias"):
        network.load_state_dict(state)


def test_gate_has_the_gradient_of_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    gate = GruGate(2, 3).double()
    value, residual = (
        torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    wanted = [value, residual, *gate.parameters()]
    weight = torch.randn(2, 5, 3, dtype=torch.float64)
    own = gate(value, residual)
    gradients = torch.autograd.grad((own * weight).sum(), wanted)
    monkeypatch.setattr("hepset_spanet.network.stacked.is_exporting", lambda: True)
    plain = gate(value, residual)
    torch.testing.assert_close(own, plain)
    torch.testing.assert_close(gradients, torch.autograd.grad((plain * weight).sum(), wanted))


def test_symmetrise_is_the_mean_over_the_group() -> None:
    cyclic = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    x = torch.randn(2, 3, 3, 3)
    found = symmetrise(x, cyclic)
    for i, j, k in itertools.product(range(3), repeat=3):
        expected = (x[:, i, j, k] + x[:, j, k, i] + x[:, k, i, j]) / 3
        torch.testing.assert_close(found[:, i, j, k], expected)


def test_only_tuples_of_different_real_objects_are_possible() -> None:
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    found = tuple_log_probability(torch.zeros(2, 4, 4), mask)
    for i, j in itertools.product(range(4), repeat=2):
        possible = i != j and 2 not in {i, j}
        expected = -math.log(6) if possible else -math.inf
        assert float(found[0, i, j]) == pytest.approx(expected)
    assert torch.isnan(found[1]).all()  # one object is too few for two products


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "LayerNorn"}, "did you mean 'LayerNorm'"),
        ({"normalization": "None"}, "LayerNorm, BatchNorm, MaskedBatchNorm"),
        ({"transformer_type": "Performer"}, "Standard, NormFirst and Gated"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads = 3"),
        ({"split_symmetric_attention": False}, "has none for products"),
    ],
)
def test_options_that_spanet_cannot_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_network(**options)
