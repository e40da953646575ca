"""Packed rows give what padded tensors give."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hepset.nn.packed import Packing, can_pack, packed_attention


def plain_attention(projected: Tensor, packing: Packing, mask: Tensor, heads: int) -> Tensor:
    """The textbook formula, event by event."""
    where = {int(row): number for number, row in enumerate(packing.rows)}
    found = torch.zeros(*projected.shape[:2], projected.shape[2] // 3)
    for copy in range(len(projected)):
        for event in range(len(mask)):
            real = mask[event].nonzero()[:, 0] + event * mask.shape[1]
            numbers = [where[int(position)] for position in real]
            if not numbers:
                continue
            rows = projected[copy, numbers].unflatten(-1, (3, heads, -1))
            query, key, value = rows.unbind(1)
            scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)
            found[copy, numbers] = mixed.flatten(1)
    return found


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    copies=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_attention_is_that_of_each_event_alone(lengths: list[int], copies: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slots = max(lengths) + 2
    order = torch.rand(len(lengths), slots, generator=generator).argsort(1)
    mask = order < torch.tensor(lengths)[:, None]
    rows = mask.flatten().nonzero()[:, 0]
    packing = Packing.of(mask, rows[torch.randperm(len(rows), generator=generator)])
    shape = (copies, len(rows), 12)
    projected = torch.randn(shape, generator=generator, requires_grad=True)
    weight = torch.randn(copies, len(rows), 4, generator=generator)
    found = packed_attention(projected, packing, heads=2)
    expected = plain_attention(projected, packing, mask, heads=2)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    if not len(rows):
        return
    own, plain = (
        torch.autograd.grad((each * weight).sum(), projected)[0] for each in (found, expected)
    )
    torch.testing.assert_close(own, plain, atol=5e-6, rtol=1e-4)


def test_many_events_are_treated_in_parts() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 40, (150,))
    mask = torch.arange(40) < lengths[:, None]
    packing = Packing.of(mask)
    assert len(packing.by_head(2).parts) > 3
    projected = torch.randn(1, len(packing.rows), 12)
    expected = plain_attention(projected, packing, mask, heads=2)
    found = packed_attention(projected, packing, heads=2)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_dropout_scales_the_gradient_as_the_output() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    packing = Packing.of(mask)
    projected = torch.randn(1, 6, 6, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = packed_attention(projected, packing, heads=1, dropout=0.5)
    # The output is linear in the values, so the gradient recovers it.
    (gradient,) = torch.autograd.grad(found.sum(), projected)
    values = projected[..., 4:].detach()
    torch.testing.assert_close((gradient[..., 4:] * values).sum(), found.sum().detach())
    assert not torch.allclose(found, packed_attention(projected, packing, heads=1))


def test_rows_are_taken_and_put_back() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    packing = Packing.of(mask)
    x = torch.randn(3, 3, 2, requires_grad=True)
    taken = packing.take(x)
    assert torch.equal(taken, x[mask])
    assert torch.equal(packing.put(taken[None])[0], torch.where(mask[..., None], x, 0.0))
    (gradient,) = torch.autograd.grad(taken.sum(), x)
    assert torch.equal(gradient, mask[..., None].expand(3, 3, 2).float())


@pytest.mark.parametrize(("events", "slots"), [(0, 4), (3, 0)])
def test_nothing_at_all(events: int, slots: int) -> None:
    packing = Packing.of(torch.ones(events, slots, dtype=torch.bool))
    assert packing.put(torch.zeros(1, 0, 2)).shape == (1, events, slots, 2)
    assert packed_attention(torch.zeros(1, 0, 6), packing, heads=1).shape == (1, 0, 2)


def test_only_plain_numbers_on_a_cpu_are_packed() -> None:
    x = torch.zeros(1)
    assert can_pack(x)
    assert not can_pack(x.double())
    assert not can_pack(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_pack(x)
