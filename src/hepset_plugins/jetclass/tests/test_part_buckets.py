"""Bucketed runs equal padded ones: outputs, gradients, any mask, any number of buckets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.nn.attention import AttentionPool, TransformerEncoder
from hepset.nn.export_mode import is_exporting
from hepset.nn.pairs import PairBias
from hepset_jetclass.part.buckets import run_in_buckets

WIDTH = 8


class _Model(nn.Module):
    """An encoder with tokens, biases from momenta and from given pairs, and a pooled output."""

    def __init__(self, buckets: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = TransformerEncoder(WIDTH, 2, 2)
        self.pool = AttentionPool(WIDTH, 2)
        self.bias = PairBias(2, hidden=(4,))
        self.buckets = buckets
        self.calls: list[tuple[int, ...]] = []

    def forward(
        self, x: Tensor, p4: Tensor, mask: Tensor, pairs: Tensor, token: Tensor
    ) -> tuple[Tensor, ...]:
        return run_in_buckets(
            self._encode, mask, [x, p4], pairs=[pairs], events=[token], buckets=self.buckets
        )

    def _encode(
        self, mask: Tensor, x: Tensor, p4: Tensor, pairs: Tensor, token: Tensor
    ) -> tuple[Tensor, ...]:
        self.calls.append(tuple(mask.shape))
        bias = self.bias(p4, mask) + pairs[:, None]
        encoded = self.encoder(x, mask, bias=bias, tokens=token[:, None])
        return encoded.objects, encoded.tokens, self.pool(encoded.objects, mask)


def _events(batch: int, objects: int, seed: int, *, prefix: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(batch, 1, generator=generator)
    mask = torch.rand(batch, objects, generator=generator) < share
    mask[0] = False
    if prefix:
        mask = mask.sort(1, descending=True).values
    x = torch.randn(batch, objects, WIDTH, generator=generator, dtype=torch.float64)
    p4 = torch.randn(batch, objects, 4, generator=generator, dtype=torch.float64)
    p4[..., 3] = 2 * p4.norm(dim=-1)
    return {
        "x": x,
        "p4": p4,
        "mask": mask,
        "pairs": torch.randn(batch, objects, objects, generator=generator, dtype=torch.float64),
        "token": torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64),
    }


def _run(buckets: int, events: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], _Model]:
    """Outputs, and gradients of parameters and inputs, of one training step."""
    model = _Model(buckets).double()
    leaves = {
        name: value.clone().requires_grad_() if name != "mask" else value
        for name, value in events.items()
    }
    outputs = model(**leaves)
    loss = sum((output**3).sum() for output in outputs)
    loss.backward()
    watched = [*model.parameters(), leaves["x"], leaves["pairs"], leaves["token"]]
    return list(outputs), [leaf.grad for leaf in watched], model


@given(
    seed=st.integers(0, 2**31 - 1),
    batch=st.integers(1, 9),
    objects=st.integers(1, 7),
    buckets=st.integers(1, 5),
    prefix=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_equals_padded(seed: int, batch: int, objects: int, buckets: int, prefix: bool) -> None:
    events = _events(batch, objects, seed, prefix=prefix)
    expected, expected_gradients, _ = _run(0, events)
    found, gradients, _ = _run(buckets, events)
    for have, want in zip(found, expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)
    for have, want in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-8, atol=1e-10)
    assert not found[0][~events["mask"]].any()


def test_equals_padded_in_single_precision() -> None:
    events = _events(64, 20, 1, prefix=False)
    single = {k: v.float() if v.is_floating_point() else v for k, v in events.items()}
    padded, bucketed = _Model(0), _Model(4)
    with torch.no_grad():
        for have, want in zip(bucketed(**single), padded(**single), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=2e-6)


def test_mixed_precision() -> None:
    events = _events(16, 10, 1, prefix=False)
    single = {k: v.float() if v.is_floating_point() else v for k, v in events.items()}
    with torch.autocast("cpu", torch.bfloat16):
        for have, want in zip(_Model(4)(**single), _Model(0)(**single), strict=True):
            assert have.dtype == want.dtype
            torch.testing.assert_close(have, want, rtol=0.1, atol=0.1)


def test_permutation_equivariance() -> None:
    events = _events(6, 7, 3, prefix=False)
    model = _Model(3).double()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    permuted = {
        name: value[:, order] if name in {"x", "p4", "mask"} else value
        for name, value in events.items()
    }
    permuted["pairs"] = events["pairs"][:, order][:, :, order]
    plain, moved = model(**events), model(**permuted)
    torch.testing.assert_close(moved[0], plain[0][:, order])
    torch.testing.assert_close(moved[1:], plain[1:])


def test_shapes_of_the_sub_batches() -> None:
    mask = torch.arange(8) < torch.tensor([3, 8, 0, 1, 3, 2, 7, 0])[:, None]
    seen: list[Tensor] = []

    def count(part: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(part)
        return part.float(), event * 10 + part.sum(1)

    objects, events = run_in_buckets(count, mask, [], events=[torch.arange(8)], buckets=4)
    # Lengths in order 0 0 | 1 2 | 3 3 | 7 8; an empty sub-batch keeps one slot.
    assert [tuple(part.shape) for part in seen] == [(2, 1), (2, 2), (2, 3), (2, 8)]
    assert torch.equal(objects, mask.float())
    assert events.tolist() == [3, 18, 20, 31, 43, 52, 67, 70]
    seen.clear()
    run_in_buckets(count, mask[:, :3], [], events=[torch.arange(8)], buckets=2)
    assert [tuple(part.shape) for part in seen] == [(4, 2), (4, 3)]
    seen.clear()
    run_in_buckets(count, mask[[0, 4, 5]], [], events=[torch.arange(3)], buckets=1)
    assert [tuple(part.shape) for part in seen] == [(3, 3)]


def test_sub_batches_of_about_equal_numbers_of_objects() -> None:
    mask = torch.arange(8) < torch.tensor([3, 8, 0, 1, 3, 2, 7, 0])[:, None]
    seen: list[tuple[int, ...]] = []

    def count(part: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(part.shape))
        return part.float(), event * 10 + part.sum(1)

    objects, events = run_in_buckets(count, mask, [], events=[torch.arange(8)], slots=6)
    # Lengths in order 0 0 1 2 3 | 3 7 | 8; an empty event takes one slot. Those before each sum up
    # to 0 1 2 3 5 | 8 11 | 18.
    assert seen == [(5, 3), (2, 7), (1, 8)]
    assert torch.equal(objects, mask.float())
    assert events.tolist() == [3, 18, 20, 31, 43, 52, 67, 70]
    seen.clear()
    run_in_buckets(count, mask[[1, 1, 1]], [], events=[torch.arange(3)], slots=16)
    assert seen == [(2, 8), (1, 8)]


def test_equal_lengths_are_one_call() -> None:
    model = _Model(4).double()
    events = _events(8, 5, 0, prefix=True)
    events["mask"] = torch.ones(8, 5, dtype=torch.bool)
    model(**events)
    assert model.calls == [(8, 5)]


def test_off_when_exporting() -> None:
    model = _Model(4).double().eval()
    events = _events(4, 5, 0, prefix=False)
    assert not is_exporting()
    program = torch.export.export(model, tuple(events.values()))
    others = _events(4, 5, 1, prefix=True)
    for have, want in zip(program.module()(*others.values()), model(**others), strict=True):
        torch.testing.assert_close(have, want)


def test_no_events_and_no_slots() -> None:
    model = _Model(4).double()
    events = _events(3, 4, 0, prefix=True)
    outputs = model(**{name: value[:0] for name, value in events.items()})
    assert [tuple(output.shape) for output in outputs] == [(0, 4, 8), (0, 1, 8), (0, 8)]
    cut = {name: value[:, :0] if name != "token" else value for name, value in events.items()}
    cut["pairs"] = cut["pairs"][:, :, :0]
    assert model(**cut)[0].shape == (3, 0, 8)


def test_negative_buckets_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got -1"):
        run_in_buckets(lambda mask: (mask,), torch.ones(1, 1, dtype=torch.bool), [], buckets=-1)
