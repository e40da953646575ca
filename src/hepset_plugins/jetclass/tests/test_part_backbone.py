"""The Particle Transformer as a backbone, and its parts against direct computations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import InputLayout, Inputs
from hepset.nn.pairs import pair_coordinates, pair_features
from hepset.testing import check_backbone
from hepset.testing.backbones import make_inputs
from hepset_jetclass.part.backbone import PartBackbone
from hepset_jetclass.part.dropout import dropout
from hepset_jetclass.part.embedding import PairEmbedding
from hepset_jetclass.part.options import PartConfig
from hepset_jetclass.part.pairs import list_pairs, square_bias
from hepset_jetclass.part.trimming import kept_at_random

LAYOUT = InputLayout(streams={"pf": 5}, p4=("pf",))
SMALL = {
    "embedding": (8, 16),
    "depth": 2,
    "class_depth": 1,
    "attention_heads": 4,
    "mlp_ratio": 2,
    "pair_embedding": (6,),
}


def make(seed: int = 3, **options: object) -> PartBackbone:
    torch.manual_seed(seed)
    backbone = PartBackbone(PartConfig.model_validate({**SMALL, **options}))
    backbone.build(LAYOUT)
    return backbone


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pair_activation": True, "head_layout": "interleaved", "trim": "longest"},
        {"buckets": 0, "dropout": 0.0},
        {"pair_bias": False, "buckets": 1},
    ],
)
def test_it_conforms(options: dict[str, object]) -> None:
    check_backbone(PartBackbone, {**SMALL, **options}, layouts=[LAYOUT])


def test_it_conforms_as_a_graph() -> None:
    check_backbone(PartBackbone, SMALL, layouts=[LAYOUT], onnx=True)


def test_other_inputs_are_refused_with_a_way_out() -> None:
    backbone = PartBackbone(PartConfig())
    with pytest.raises(ConfigurationError, match=r"event has jets, met; set `input: false`"):
        backbone.build(InputLayout(streams={"jets": 3}, globals={"met": 2}, p4=("jets",)))
    with pytest.raises(ConfigurationError, match=r"four-momentum of jets; declare `p4`"):
        backbone.build(InputLayout(streams={"jets": 3}))
    with pytest.raises(ValueError, match="do not divide the width 20"):
        PartConfig(embedding=(20,))


def test_what_is_hidden_from_the_network_is_no_other_input() -> None:
    """A stream or a global whose features all have ``input: false`` is there for figures only."""
    backbone = PartBackbone(PartConfig(**SMALL))
    hidden = InputLayout(
        streams={"truth": 0, "jets": 3}, globals={"jet": 0}, p4=("jets", "truth"), pairs={}
    )
    backbone.build(hidden)
    assert backbone.stream == "jets"


def test_the_numbers_of_parameters_are_the_published_ones() -> None:
    backbone = PartBackbone(PartConfig())
    backbone.build(InputLayout(streams={"pf": 17}, p4=("pf",)))
    own = sum(parameter.numel() for parameter in backbone.parameters())
    sophon_head = (128 * 512 + 512) + (512 * 188 + 188)
    jetclass_head = 128 * 10 + 10
    assert own + sophon_head == 2_304_688
    assert own + jetclass_head == 2_143_486


def test_initial_weights_are_divided_with_the_depth() -> None:
    backbone = make(depth=3)
    width, hidden = 16, 32
    for number, block in enumerate(backbone.blocks, start=1):
        bound = (6 / (width + hidden)) ** 0.5 / (2 * number) ** 0.5
        assert 0.9 * bound < float(block.fc2.weight.detach().abs().max()) <= bound
        parts = block.attn.in_proj.weight.detach().chunk(3)
        bound = (6 / (2 * width)) ** 0.5
        assert all(0.9 * bound < float(part.abs().max()) <= bound for part in parts)
        assert not block.fc1.bias.detach().any()


def by_hand(backbone: PartBackbone, features: Tensor, p4: Tensor) -> tuple[Tensor, Tensor]:
    """One jet without padding, in evaluation, written down from the paper's formulas."""

    def attend(block: torch.nn.Module, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        weight, offset = block.attn.in_proj.weight, block.attn.in_proj.bias
        width = len(weight) // 3
        q = query @ weight[:width].T + offset[:width]
        k = keys @ weight[width : 2 * width].T + offset[width : 2 * width]
        v = keys @ weight[2 * width :].T + offset[2 * width :]
        size = width // block.heads
        found = []
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            logits = q[:, part] @ k[:, part].T / size**0.5 + bias[head]
            found.append(torch.softmax(logits, -1) @ v[:, part])
        projected = block.attn.out_proj(torch.cat(found, -1))
        scaled = projected.unflatten(-1, (block.heads, size)) * block.c_attn[:, None]
        if backbone.config.head_layout == "interleaved":
            scaled = scaled.transpose(-1, -2)
        return scaled.flatten(-2)

    def rest(block: torch.nn.Module, x: Tensor, attended: Tensor) -> Tensor:
        x = x + block.post_attn_norm(attended)
        h = block.post_fc_norm(functional.gelu(block.fc1(block.pre_fc_norm(x))))
        return block.fc2(h) + block.w_resid * x

    x = backbone.embed.embed(backbone.embed.input_bn(features))
    pairs = pair_features(p4[None], torch.ones(1, len(p4), dtype=torch.bool))[0]
    count = len(p4)
    bias = backbone.pair_embed.embed(pairs.flatten(1)[None])[0].unflatten(-1, (count, count))
    for block in backbone.blocks:
        u = block.pre_attn_norm(x)
        x = rest(block, x, attend(block, u, u, bias))
    token = backbone.cls_token[0]
    for block in backbone.cls_blocks:
        u = block.pre_attn_norm(torch.cat([token, x]))
        token = rest(block, token, attend(block, token, u, torch.zeros(block.heads, 1, 1)))
    return x, backbone.norm(token)[0]


@pytest.mark.parametrize("layout", ["grouped", "interleaved"])
@pytest.mark.parametrize("last", [False, True])
def test_the_network_is_that_of_the_paper(layout: str, last: bool) -> None:
    backbone = make(head_layout=layout, pair_activation=last)
    generator = torch.Generator().manual_seed(8)
    for name, value in (*backbone.named_parameters(), *backbone.named_buffers()):
        noise = torch.rand(value.shape, generator=generator)
        if value.is_floating_point():
            value.data = noise + 0.5 if name.endswith("var") else value.data + 0.3 * (noise - 0.5)
    backbone.eval()
    x = make_inputs(LAYOUT)
    with torch.no_grad():
        found = backbone.encode(x)
        for event in range(5):
            mask = x.masks["pf"][event]
            if not mask.any():
                continue
            objects, token = by_hand(
                backbone, x.streams["pf"][event][mask], x.p4["pf"][event][mask]
            )
            torch.testing.assert_close(found.event[event], token, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(
                found.objects["pf"][event][mask], objects, atol=2e-5, rtol=1e-5
            )


def test_a_jet_without_particles_gives_what_the_class_token_alone_gives() -> None:
    backbone = make().eval()
    empty = Inputs(
        streams={"pf": torch.zeros(2, 3, 5)},
        masks={"pf": torch.zeros(2, 3, dtype=torch.bool)},
        p4={"pf": torch.zeros(2, 3, 4)},
    )
    none = Inputs(
        streams={"pf": torch.zeros(2, 0, 5)},
        masks={"pf": torch.zeros(2, 0, dtype=torch.bool)},
        p4={"pf": torch.zeros(2, 0, 4)},
    )
    with torch.no_grad():
        found = backbone.encode(empty).event
        assert torch.isfinite(found).all()
        torch.testing.assert_close(backbone.encode(none).event, found)


def test_pairs_are_listed_once_and_in_order() -> None:
    found = list_pairs(torch.tensor([2, 0, 3]))
    pairs = [(int(i), int(j)) for i, j in zip(found.first, found.second, strict=True)]
    assert pairs == [(0, 0), (1, 0), (1, 1), (2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4)]
    assert found.start.tolist() == [0, 3, 3]


def test_the_square_mirrors_the_pairs_and_its_gradient_adds_both_halves() -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, False]])
    start = list_pairs(mask.sum(1)).start
    values = torch.arange(1.0, 13).reshape(2, 6).double()
    outside = torch.tensor([float("-inf"), 0.0]).double().expand(2, 2)

    def square(values: Tensor) -> Tensor:
        return square_bias(torch.cat([values, outside], 1), start, mask)

    found = square(values)
    low, zero = float("-inf"), 0.0
    expected = [[1, low, 2, 4], [zero, low, zero, zero], [2, low, 3, 5], [4, low, 5, 6]]
    assert found[0, 0].tolist() == expected
    assert not found[1].any()
    real = mask[:, None, :, None] & mask[:, None, None, :]
    values.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: torch.where(real, square(v), 0.0).sin(), (values,), fast_mode=False
    )


def test_batch_statistics_are_of_real_particles_and_pairs() -> None:
    backbone = make(trim="longest", dropout=0.0).train()
    x = make_inputs(LAYOUT)
    backbone.encode(x)
    mask, momentum = x.masks["pf"], 0.1
    real = x.streams["pf"][mask]
    norm = backbone.embed.input_bn
    torch.testing.assert_close(norm.running_mean, momentum * real.mean(0))
    torch.testing.assert_close(norm.running_var, 1 - momentum + momentum * real.var(0))
    features = pair_features(x.p4["pf"], mask)
    lower = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool).tril()
    both = mask[:, :, None] & mask[:, None, :] & lower
    pairs = features.movedim(1, -1)[both]
    norm = backbone.pair_embed.embed[0]
    torch.testing.assert_close(norm.running_mean, momentum * pairs.mean(0))
    torch.testing.assert_close(norm.running_var, 1 - momentum + momentum * pairs.var(0))
    assert int(norm.num_batches_tracked) == 1


def test_folding_the_normalisations_changes_nothing() -> None:
    torch.manual_seed(1)
    embedding = PairEmbedding((6, 5), 4, last_activation=True)
    for layer in embedding.embed:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    embedding.eval()
    p4 = make_inputs(LAYOUT).p4["pf"][0]
    pairs = list_pairs(torch.tensor([len(p4)]))
    coordinates = pair_coordinates(p4)
    features = pair_features(p4[None], torch.ones(1, len(p4), dtype=torch.bool))[0]
    features = features[:, pairs.first, pairs.second]
    expected = embedding.embed(features[None])[0]
    torch.testing.assert_close(embedding(coordinates, pairs.first, pairs.second), expected)
    with torch.no_grad():
        found = embedding(coordinates, pairs.first, pairs.second)
    torch.testing.assert_close(found, expected)


def test_buckets_change_no_gradient() -> None:
    x = make_inputs(LAYOUT, 9)
    gradients = []
    for buckets in (0, 3):
        backbone = make(buckets=buckets, dropout=0.0, trim="longest").train()
        encoded = backbone.encode(x)
        (encoded.event.sin().sum() + encoded.objects["pf"].cos().sum()).backward()
        gradients.append([p.grad for p in backbone.parameters()])
    # Offsets before a normalisation by the batch have a gradient of rounding errors only.
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_trimming_takes_random_particles_off_the_longest_jets() -> None:
    torch.manual_seed(5)
    lengths = torch.arange(1, 101)
    mask = torch.arange(100) < lengths[:, None]
    longest, dropped_first = [], 0
    for _ in range(60):
        kept = kept_at_random(mask)
        assert not (kept & ~mask).any()
        length = int(kept.sum(1).max())
        assert torch.equal(kept.sum(1), lengths.clamp(max=length))
        longest.append(length)
        dropped_first += int(not kept[-1, 0])
    # The 90 % quantile of 1..100 is 90.1; one draw in six keeps everything.
    assert min(longest) >= 90
    assert 3 <= longest.count(100) <= 20
    assert len(set(longest)) > 5
    assert 0 < dropped_first < 30


def test_trimmed_particles_are_gone() -> None:
    backbone = make(dropout=0.0).train()
    x = make_inputs(LAYOUT, 40, slots=(30,))
    torch.manual_seed(11)
    kept = kept_at_random(x.masks["pf"])
    assert int(kept.sum()) < int(x.masks["pf"].sum())
    torch.manual_seed(11)
    found = backbone.encode(x)
    assert torch.equal(found.objects["pf"].any(-1), kept)


def test_dropout_has_the_stated_probability_and_keeps_the_mean() -> None:
    torch.manual_seed(2)
    x = torch.ones(1001, 999, requires_grad=True)
    found = dropout(x, 0.1, training=True)
    share = float((found == 0).float().mean())
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / x.numel()) ** 0.5
    assert abs(float(found.detach().mean()) - 1) < 2e-3
    found.sum().backward()
    assert torch.equal(x.grad == 0, found == 0)
    assert dropout(x, 0.1, training=False) is x
    torch.manual_seed(2)
    assert torch.equal(dropout(x, 0.1, training=True), found)
    rows = (found == 0).float()
    assert abs(float((rows[1:] * rows[:-1]).mean()) - 0.01) < 1e-3


def test_it_learns_in_half_precision() -> None:
    backbone = make().train()
    x = make_inputs(LAYOUT, 9)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = backbone.encode(x)
        loss = encoded.event.float().sin().sum() + encoded.objects["pf"].float().sin().sum()
    loss.backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    backbone.eval()
    with torch.no_grad():
        exact = backbone.encode(x).event
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = backbone.encode(x).event
    assert float((exact - rounded.float()).abs().max()) < 0.1
