"""The transformer backbone: permutations, padding, empty events, tokens, pairs, export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hepset.backbones.transformer import TransformerBackbone, TransformerConfig
from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded, InputLayout, Inputs
from hepset.nn.attention import EncoderLayer
from hepset.testing.backbones import DEFAULT_LAYOUTS, check_backbone

WIDTH = 16
LAYOUT = InputLayout(
    streams={"jets": 3, "leptons": 2},
    globals={"met": 2, "keys": 1},
    p4=("jets",),
    pairs={"leptons": 2},
)


def backbone(**options: Any) -> TransformerBackbone:
    torch.manual_seed(0)
    config = TransformerConfig(width=WIDTH, depth=2, attention_heads=4, **options)
    made = TransformerBackbone(config)
    made.build(LAYOUT)
    return made.eval()


def inputs(batch: int = 6, jets: int = 5, leptons: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def real(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    masks = {
        "jets": torch.rand(batch, jets, generator=generator) < 0.6,
        "leptons": torch.rand(batch, leptons, generator=generator) < 0.6,
    }
    masks["jets"][0] = False
    masks["leptons"][0] = False
    masks["leptons"][1:2] = False
    momentum = real(batch, jets, 3)
    p4 = torch.cat([momentum, momentum.norm(dim=-1, keepdim=True) + 0.1], -1)
    zero = {name: mask[..., None].float() for name, mask in masks.items()}
    return Inputs(
        streams={
            "jets": real(batch, jets, 3) * zero["jets"],
            "leptons": real(batch, leptons, 2) * zero["leptons"],
        },
        masks=masks,
        globals={"met": real(batch, 2), "keys": real(batch, 1)},
        global_masks={
            "met": torch.ones(batch, dtype=torch.bool),
            "keys": torch.arange(batch) % 2 == 0,
        },
        p4={"jets": p4 * zero["jets"]},
        pairs={"leptons": real(batch, leptons, leptons, 2)},
    )


def close(found: Encoded, expected: Encoded) -> None:
    torch.testing.assert_close(found.event, expected.event, rtol=1e-5, atol=1e-5)
    for name in expected.objects:
        here, there = found.objects[name], expected.objects[name]
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair_bias", [False, True])
def test_permuting_objects_permutes_their_embeddings(pair_bias: bool) -> None:
    model, x = backbone(pair_bias=pair_bias), inputs()
    expected = model(x)
    order = torch.tensor([3, 0, 4, 2, 1])
    x.streams["jets"] = x.streams["jets"][:, order]
    x.masks["jets"] = x.masks["jets"][:, order]
    x.p4["jets"] = x.p4["jets"][:, order]
    turned = torch.tensor([2, 0, 1])
    x.streams["leptons"] = x.streams["leptons"][:, turned]
    x.masks["leptons"] = x.masks["leptons"][:, turned]
    x.pairs["leptons"] = x.pairs["leptons"][:, turned][:, :, turned]
    found = model(x)
    torch.testing.assert_close(found.event, expected.event, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.objects["jets"], expected.objects["jets"][:, order], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        found.objects["leptons"], expected.objects["leptons"][:, turned], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("skip_padding", [False, True])
@pytest.mark.parametrize("pair_bias", [False, True])
def test_padding_changes_nothing(skip_padding: bool, pair_bias: bool) -> None:
    x = inputs()
    expected = backbone(skip_padding=False, pair_bias=pair_bias)(x)
    assert (expected.objects["jets"][~x.masks["jets"]] == 0).all()
    longer = inputs()
    grow = nn.functional.pad
    longer.streams["jets"] = grow(longer.streams["jets"], (0, 0, 0, 4))
    longer.masks["jets"] = grow(longer.masks["jets"], (0, 4))
    longer.p4["jets"] = grow(longer.p4["jets"], (0, 0, 0, 4))
    found = backbone(skip_padding=skip_padding, pair_bias=pair_bias)(longer)
    assert (found.objects["jets"][:, 5:] == 0).all()
    found.objects["jets"] = found.objects["jets"][:, :5]
    close(found, expected)


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
@pytest.mark.parametrize("pairs", [False, True])
def test_rows_of_real_objects_give_what_padded_tensors_give(
    monkeypatch: pytest.MonkeyPatch, feed_forward: str, pairs: bool
) -> None:
    """A CPU computes real objects only: outputs and gradients stay the same."""
    x = inputs(batch=30)
    extra, condition = torch.randn(30, 2, WIDTH), torch.randn(30, WIDTH)
    found = []
    for skip_padding in (True, False):
        torch.manual_seed(0)
        model = TransformerBackbone(
            TransformerConfig(
                width=WIDTH,
                depth=2,
                attention_heads=4,
                skip_padding=skip_padding,
                feed_forward=feed_forward,
                layer_scale=0.3,
                pair_bias=pairs,
            )
        )
        model.build(LAYOUT if pairs else replace(LAYOUT, p4=(), pairs={}))
        monkeypatch.setattr(model.encoder, "_encode" if skip_padding else "within", None)
        tokens = extra.clone().requires_grad_()
        encoded = model(x, condition=condition, extra_tokens=tokens)
        assert encoded.extra is not None
        parts = [encoded.event, encoded.extra, *encoded.objects.values()]
        sum((part**3).sum() for part in parts).backward()
        found.append((parts, [tokens.grad, *(p.grad for p in model.parameters())]))
        assert (encoded.objects["jets"][~x.masks["jets"]] == 0).all()
    for packed, padded in zip(*found, strict=True):
        for here, there in zip(packed, padded, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize(("buckets", "skips"), [(0, False), (1, True), (4, True)])
def test_buckets_of_older_files_say_whether_padding_is_skipped(buckets: int, skips: bool) -> None:
    config = TransformerConfig.parse({"buckets": buckets}, "model.backbone", ConfigurationError)
    assert config.skip_padding is skips
    assert TransformerConfig.model_validate({"skip_padding": skips}).skip_padding is skips
    assert "buckets" not in config.model_dump()


def test_a_gpu_is_not_waited_for() -> None:
    """Tensors without data stand for a GPU: whatever asks for a number of theirs fails."""
    model = backbone(pair_bias=True).train()
    # The first batch is read, to standardise.
    model(inputs(batch=60))
    x = Inputs(
        **{
            part: {name: value.to("meta") for name, value in getattr(inputs(), part).items()}
            for part in ("streams", "masks", "globals", "global_masks", "p4", "pairs")
        }
    )
    encoded = model.to("meta")(x, condition=torch.randn(6, WIDTH, device="meta"))
    sum(part.sum() for part in (encoded.event, *encoded.objects.values())).backward()
    assert encoded.event.shape == (6, WIDTH)


def test_an_empty_event_is_finite_and_disturbs_nobody() -> None:
    model, x = backbone(pair_bias=True), inputs()
    everything = model(x)
    assert torch.isfinite(everything.event).all()
    rest = Inputs(
        **{
            part: {name: value[1:] for name, value in getattr(x, part).items()}
            for part in ("streams", "masks", "globals", "global_masks", "p4", "pairs")
        }
    )
    alone = model(rest)
    torch.testing.assert_close(everything.event[1:], alone.event, rtol=1e-5, atol=1e-5)


def test_every_input_matters_and_an_absent_global_does_not() -> None:
    model, x = backbone(pair_bias=True), inputs()
    before = model(x).event

    def moved(change: Inputs) -> Tensor:
        return (model(change).event - before).abs().amax(1) > 1e-6

    for part, name in (("streams", "jets"), ("streams", "leptons"), ("globals", "met")):
        changed = inputs()
        block = getattr(changed, part)
        block[name] = block[name] + 0.5
        assert moved(changed)[2:].all(), name
    changed = inputs()
    changed.p4["jets"] = changed.p4["jets"] * 3
    jets = changed.masks["jets"].sum(1)
    assert (moved(changed) == (jets > 1)).all()
    changed = inputs()
    changed.pairs["leptons"] = changed.pairs["leptons"] + 1.0
    assert moved(changed)[x.masks["leptons"].sum(1) > 0].any()
    changed = inputs()
    changed.globals["keys"] = changed.globals["keys"] + 1.0
    assert moved(changed).tolist() == changed.global_masks["keys"].tolist()


def test_extra_tokens_come_back_and_a_condition_is_felt() -> None:
    model, x = backbone(), inputs()
    extra = torch.randn(6, 2, WIDTH)
    encoded = model(x, extra_tokens=extra)
    assert encoded.extra is not None
    assert encoded.extra.shape == (6, 2, WIDTH)
    swapped = model(x, extra_tokens=extra.flip(1))
    assert swapped.extra is not None
    torch.testing.assert_close(swapped.extra, encoded.extra.flip(1), rtol=1e-5, atol=1e-5)
    conditioned = model(x, condition=torch.randn(6, WIDTH))
    assert ((conditioned.event - model(x).event).abs().amax(1) > 1e-3).all()
    assert model(x).extra is None


def test_without_streams_or_without_features() -> None:
    only_globals = TransformerBackbone(TransformerConfig(width=WIDTH, depth=1))
    only_globals.build(InputLayout(streams={}, globals={"met": 2}))
    x = inputs()
    part = Inputs({}, {}, {"met": x.globals["met"]}, {"met": x.global_masks["met"]})
    assert torch.isfinite(only_globals(part).event).all()
    bare = TransformerBackbone(TransformerConfig(width=WIDTH, depth=1))
    bare.build(InputLayout(streams={"leptons": 0}, pairs={"leptons": 2}))
    part = Inputs(
        {"leptons": x.streams["leptons"][..., :0]},
        {"leptons": x.masks["leptons"]},
        pairs={"leptons": x.pairs["leptons"]},
    )
    assert bare(part).objects["leptons"].shape == (6, 3, WIDTH)


def test_gradients_reach_every_parameter() -> None:
    model, x = backbone(pair_bias=True).train(), inputs()
    encoded = model(x)
    (
        encoded.event.square().sum() + sum(o.square().sum() for o in encoded.objects.values())
    ).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="5 attention heads do not divide the width 64"):
        TransformerBackbone(TransformerConfig(attention_heads=5))
    made = TransformerBackbone(TransformerConfig(pair_bias=True))
    with pytest.raises(ConfigurationError, match="declare `p4`"):
        made.build(InputLayout(streams={"jets": 3}))


class Flat(nn.Module):
    """The backbone with tensors for arguments, as an exporter wants it."""

    def __init__(self, model: TransformerBackbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        jets, jets_mask, leptons, leptons_mask, pairs, p4, met, keys, keys_mask = tensors
        present = torch.ones_like(keys_mask)
        x = Inputs(
            {"jets": jets, "leptons": leptons},
            {"jets": jets_mask, "leptons": leptons_mask},
            {"met": met, "keys": keys},
            {"met": present, "keys": keys_mask},
            {"jets": p4},
            {"leptons": pairs},
        )
        encoded = self.model(x)
        return encoded.event, encoded.objects["jets"], encoded.objects["leptons"]


def arguments(x: Inputs) -> tuple[Tensor, ...]:
    return (
        x.streams["jets"],
        x.masks["jets"],
        x.streams["leptons"],
        x.masks["leptons"],
        x.pairs["leptons"],
        x.p4["jets"],
        x.globals["met"],
        x.globals["keys"],
        x.global_masks["keys"],
    )


@pytest.mark.slow
def test_it_exports_with_dynamic_events_and_slots(tmp_path: Path) -> None:
    model = Flat(backbone(pair_bias=True)).eval()
    batch = jets = leptons = torch.export.Dim.DYNAMIC
    shapes = (
        {0: batch, 1: jets},
        {0: batch, 1: jets},
        {0: batch, 1: leptons},
        {0: batch, 1: leptons},
        {0: batch, 1: leptons, 2: leptons},
        {0: batch, 1: jets},
        {0: batch},
        {0: batch},
        {0: batch},
    )
    path = tmp_path / "backbone.onnx"
    program = torch.onnx.export(
        model,
        arguments(inputs()),
        dynamo=True,
        dynamic_shapes=(shapes,),
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for size in ((6, 5, 3), (1, 9, 2), (4, 2, 4)):
        given = arguments(inputs(*size))
        found = session.run(None, {n: t.numpy() for n, t in zip(names, given, strict=True)})
        with torch.no_grad():
            expected = model(*given)
        for here, there in zip(found, expected, strict=True):
            np.testing.assert_allclose(here, there.numpy(), atol=2e-5)


def moved(**options: Any) -> TransformerBackbone:
    """A backbone whose modulations are not 0 as at the start."""
    made = backbone(**options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "modulation" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def test_a_condition_begins_without_effect_and_concerns_its_own_event() -> None:
    x = inputs()
    plain = backbone().state_dict()
    conditioned = backbone(condition=("met",))
    conditioned.load_state_dict(plain, strict=False)
    other = backbone()
    torch.testing.assert_close(conditioned.encode(x).event, other.encode(x).event)
    made = moved(condition=("met",))
    before = made.encode(x)
    changed = x.globals["met"].clone()
    changed[2] += 1.0
    after = made.encode(replace(x, globals={**x.globals, "met": changed}))
    differs = (after.objects["jets"] - before.objects["jets"]).abs().amax((1, 2)) > 1e-3
    assert differs.tolist() == [row == 2 and bool(x.masks["jets"][2].any()) for row in range(6)]


@pytest.mark.parametrize("pair_bias", [False, True])
def test_a_condition_acts_alike_with_and_without_padding(pair_bias: bool) -> None:
    x = inputs()
    made = [
        moved(condition=("met", "keys"), pair_bias=pair_bias, skip_padding=skip)
        for skip in (True, False)
    ]
    packed, padded = (each.encode(x) for each in made)
    torch.testing.assert_close(packed.event, padded.event, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.objects["jets"], padded.objects["jets"], rtol=1e-4, atol=1e-5)


def test_a_layer_modulates_what_follows_its_norms() -> None:
    """γ = 2 and β = 1 on the first norm alone are those of a norm with weight 3 and bias 1."""
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, condition_width=1).eval()
    with torch.no_grad():
        layer.modulation.bias[:8] = 2.0  # type: ignore[union-attr]
        layer.modulation.bias[8:16] = 1.0  # type: ignore[union-attr]
    x, mask = torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    found = layer(x, mask, None, layer.modulation(torch.zeros(3, 1))[:, None])  # type: ignore[misc]
    with torch.no_grad():
        layer.attention_norm.weight.fill_(3.0)
        layer.attention_norm.bias.fill_(1.0)
    torch.testing.assert_close(found, layer(x, mask), rtol=1e-4, atol=1e-5)


def test_a_conditioned_backbone_conforms() -> None:
    options = {"width": 8, "depth": 1, "attention_heads": 2, "condition": ["met", "shape"]}
    check_backbone(TransformerBackbone, options, layouts=DEFAULT_LAYOUTS[1:], onnx=True)
    with pytest.raises(
        ConfigurationError, match=r"condition: the event has no global 'mat'.*'met'"
    ):
        backbone(condition=("mat",))
