"""The transformer on padded sets: masks, empty events, permutations, tokens, export."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.nn.attention import (
    AttentionPool,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    TransformerEncoder,
    attention_logit_bias,
)
from hepset.nn.pairs import PairBias

WIDTH, HEADS = 16, 4


def _events(batch: int, objects: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, objects, WIDTH, generator=generator)
    mask = torch.rand(batch, objects, generator=generator) < 0.5
    mask[0] = False
    return x, mask


def _encoder(seed: int = 0, **options: object) -> TransformerEncoder:
    torch.manual_seed(seed)
    return TransformerEncoder(WIDTH, 2, HEADS, **options).eval()  # type: ignore[arg-type]


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(WIDTH, HEADS)
    x, mask = _events(3, 5)
    bias = torch.randn(3, HEADS, 5, 5)
    q = attention.query(x)
    k, v = attention.key_value(x).chunk(2, -1)
    found = attention(x, x, mask, bias)
    for event in (1, 2):
        expected = []
        for head in range(HEADS):
            channels = slice(head * 4, head * 4 + 4)
            logits = q[event, :, channels] @ k[event, :, channels].T / math.sqrt(4)
            logits = (logits + bias[event, head]).exp() * mask[event]
            expected.append(logits / logits.sum(-1, keepdim=True) @ v[event, :, channels])
        torch.testing.assert_close(found[event], attention.out(torch.cat(expected, -1)))


def test_padding_is_zero_and_harmless() -> None:
    encoder = _encoder()
    x, mask = _events(6, 9)
    clean = encoder(x, mask).objects
    dirty = encoder(torch.where(mask[..., None], x, torch.nan), mask).objects
    longer = encoder(
        torch.cat([x, torch.full((6, 4, WIDTH), 1e30)], 1), nn.functional.pad(mask, (0, 4))
    ).objects
    assert not clean[~mask].any()
    assert torch.equal(clean, dirty)
    assert not longer[:, 9:].any()
    torch.testing.assert_close(longer[:, :9], clean)


def test_empty_events_are_zero_and_change_no_other() -> None:
    encoder, pool = _encoder(), AttentionPool(WIDTH, HEADS).eval()
    x, mask = _events(4, 6)
    x.requires_grad_()
    encoded = encoder(x, mask).objects
    assert not encoded[0].any()
    torch.testing.assert_close(encoder(x[1:], mask[1:]).objects, encoded[1:])
    pooled = pool(encoded, mask)
    assert torch.isfinite(pooled).all()
    (pooled.sum() + encoded.sum()).backward()
    parameters = [*encoder.parameters(), *pool.parameters()]
    assert all(torch.isfinite(p.grad).all() for p in [x, *parameters] if p.grad is not None)
    nothing = encoder(x[:, :0], mask[:, :0]).objects
    assert nothing.shape == (4, 0, WIDTH)
    torch.testing.assert_close(pool(nothing, mask[:, :0]), pooled[:1].expand(4, -1))


def test_no_softmax_runs_over_nothing() -> None:
    """Some runtimes give NaN there, so an event without objects lets all keys in."""
    mask = torch.tensor([[False, False], [True, False]])
    assert attention_logit_bias(mask)[:, 0, 0].tolist() == [[True, True], [True, False]]
    bias = attention_logit_bias(mask, torch.ones(2, 1, 1, 2))[:, 0, 0]
    assert bias.tolist() == [[1.0, 1.0], [1.0, -math.inf]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    encoder = _encoder()
    x, mask = _events(4, 6)
    bias = torch.randn(4, HEADS, 6, 6)
    tokens = torch.randn(4, 1, WIDTH)
    with torch.autocast("cpu", dtype):
        found = encoder(x, mask, bias=bias, tokens=tokens).objects
    expected = encoder(x, mask, bias=bias, tokens=tokens).objects
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
    assert not found[~mask].any()


def test_all_events_empty() -> None:
    encoder = _encoder()
    x = torch.full((2, 3, WIDTH), torch.nan, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    bias = PairBias(HEADS)(torch.full((2, 3, 4), torch.nan), mask)
    encoded = encoder(x, mask, bias=bias).objects
    encoded.sum().backward()
    assert not encoded.any()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_permuting_objects_permutes_outputs(seed: int) -> None:
    encoder, pool = _encoder(), AttentionPool(WIDTH, HEADS).eval()
    x, mask = _events(3, 7, seed)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    encoded = encoder(x, mask).objects
    permuted = encoder(x[:, order], mask[:, order]).objects
    torch.testing.assert_close(permuted, encoded[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        pool(permuted, mask[:, order]), pool(encoded, mask), rtol=1e-4, atol=1e-5
    )


def test_bias_acts_between_real_objects() -> None:
    encoder = _encoder()
    x, mask = _events(4, 6)
    plain = encoder(x, mask).objects
    torch.testing.assert_close(encoder(x, mask, bias=torch.zeros(4, 1, 6, 6)).objects, plain)
    bias = torch.randn(4, HEADS, 6, 6, requires_grad=True)
    biased = encoder(x, mask, bias=bias).objects
    assert (biased - plain)[mask].abs().max() > 1e-3
    biased.sum().backward()
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(bias)
    assert torch.isfinite(bias.grad).all()
    assert not bias.grad[~pairs].any()


def test_tokens_take_part_and_come_back() -> None:
    encoder = _encoder()
    x, mask = _events(4, 6)
    tokens = torch.randn(4, 2, WIDTH)
    encoded = encoder(x, mask, tokens=tokens)
    assert encoded.tokens.shape == (4, 2, WIDTH)
    assert encoded.tokens[0].any()
    # A token is an object that is told apart only by where it comes back.
    joint = encoder(
        torch.cat([x, tokens], 1), torch.cat([mask, torch.ones(4, 2, dtype=torch.bool)], 1)
    ).objects
    torch.testing.assert_close(encoded.objects, joint[:, :6])
    torch.testing.assert_close(encoded.tokens, joint[:, 6:])
    absent = encoder(x, mask, tokens=tokens, tokens_mask=torch.zeros(4, 2, dtype=torch.bool))
    torch.testing.assert_close(absent.objects, encoder(x, mask).objects)
    assert not absent.tokens.any()
    with_bias = encoder(x, mask, tokens=tokens, bias=torch.zeros(4, HEADS, 6, 6))
    torch.testing.assert_close(with_bias.objects, encoded.objects)
    assert encoder(x, mask).tokens.shape == (4, 0, WIDTH)


def test_pool_feels_the_number_of_objects_and_the_context() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(WIDTH, HEADS).eval()
    one = torch.randn(1, 1, WIDTH)
    full = torch.ones(1, 3, dtype=torch.bool)
    assert not torch.allclose(pool(one, full[:, :1]), pool(one.expand(1, 3, -1), full))
    context = torch.randn(1, WIDTH)
    assert not torch.allclose(pool(one, full[:, :1], context), pool(one, full[:, :1]))


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
def test_options_train(feed_forward: str) -> None:
    encoder = _encoder(feed_forward=feed_forward, layer_scale=0.1, dropout=0.2).train()
    x, mask = _events(4, 6)
    first = encoder(x, mask).objects
    assert not torch.allclose(first, encoder(x, mask).objects)
    assert not first[~mask].any()
    (first**3).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_what_is_compiled_still_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of exported graphs drops nothing, so a compiled training may not take it."""
    encoder = TransformerEncoder(8, 1, 2, dropout=0.9).train()
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    first, second = encoder(x, mask).objects, encoder(x, mask).objects
    assert not torch.allclose(first, second)
    encoder.eval()
    assert torch.equal(encoder(x, mask).objects, encoder(x, mask).objects)


def test_layer_scale_of_zero_is_the_identity() -> None:
    layer = EncoderLayer(WIDTH, HEADS, layer_scale=0.0)
    x, mask = _events(4, 6)
    x = x * mask[..., None]
    assert torch.equal(layer(x, mask), x)


def test_feed_forward_kinds_have_about_equal_size() -> None:
    sizes = [
        sum(p.numel() for p in EncoderLayer(96, 4, feed_forward=kind).parameters())  # type: ignore[arg-type]
        for kind in ("gelu", "swiglu")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="3 attention heads do not divide the width 16"):
        MultiHeadAttention(16, 3)
    with pytest.raises(ConfigurationError, match="'relu'; known: gelu, swiglu"):
        FeedForward(4, 4, kind="relu")  # type: ignore[arg-type]


class _Whole(nn.Module):
    """Objects with pair bias and an extra token, encoded and pooled; and encoded alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.bias = PairBias(HEADS, hidden=(8,))
        self.joint = TransformerEncoder(WIDTH, 1, HEADS, feed_forward="swiglu", layer_scale=0.5)
        self.alone = TransformerEncoder(WIDTH, 1, HEADS)
        self.pool = AttentionPool(WIDTH, HEADS)

    def forward(self, x: Tensor, p4: Tensor, mask: Tensor, token: Tensor) -> tuple[Tensor, ...]:
        joint = self.joint(x, mask, bias=self.bias(p4, mask), tokens=token)
        alone = self.alone(x, mask).objects
        return joint.objects, joint.tokens, alone, self.pool(joint.objects, mask)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_gives_the_same_for_other_sizes(tmp_path: Path) -> None:
    def inputs(batch: int, objects: int) -> dict[str, Tensor]:
        x, mask = _events(batch, objects, seed=batch)
        p4 = torch.randn(batch, objects, 4, generator=torch.Generator().manual_seed(objects))
        p4[..., 3] = p4.norm(dim=-1)
        return {"x": x, "p4": p4, "mask": mask, "token": x.new_ones(batch, 1, WIDTH)}

    model = _Whole().eval()
    example = inputs(3, 5)
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        model, tuple(example.values()), path, dynamo=True, opset_version=18, verbose=False,
        input_names=list(example),
        dynamic_shapes={name: dims if name != "token" else {0: dims[0]} for name in example},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    for batch, objects in ((3, 5), (7, 2), (1, 1), (2, 12)):
        feed = inputs(batch, objects)
        found = session.run(None, {name: value.numpy() for name, value in feed.items()})
        expected = model(*feed.values())
        for have, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(have, want.detach(), rtol=1e-4, atol=1e-5)
        # The first event has no object.
        assert not found[0][0].any()
        assert not found[2][0].any()
