"""Packed rows give what padded tensors give."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hepset.nn.packed import PackedRows, can_pack, on_real_objects, packed_attention


def plain_attention(projected: Tensor, packed: PackedRows, mask: Tensor, heads: int) -> Tensor:
    """The textbook formula, event by event."""
    where = {int(row): number for number, row in enumerate(packed.rows)}
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
    packed = PackedRows.of(mask, rows[torch.randperm(len(rows), generator=generator)])
    shape = (copies, len(rows), 12)
    projected = torch.randn(shape, generator=generator, requires_grad=True)
    weight = torch.randn(copies, len(rows), 4, generator=generator)
    found = packed_attention(projected, packed, heads=2)
    expected = plain_attention(projected, packed, mask, heads=2)
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
    packed = PackedRows.of(mask)
    assert len(packed.by_head(2).parts) > 3
    projected = torch.randn(1, len(packed.rows), 12)
    expected = plain_attention(projected, packed, mask, heads=2)
    found = packed_attention(projected, packed, heads=2)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_dropout_scales_the_gradient_as_the_output() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    packed = PackedRows.of(mask)
    projected = torch.randn(1, 6, 6, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = packed_attention(projected, packed, heads=1, dropout=0.5)
    # The output is linear in the values, so the gradient recovers it.
    (gradient,) = torch.autograd.grad(found.sum(), projected)
    values = projected[..., 4:].detach()
    torch.testing.assert_close((gradient[..., 4:] * values).sum(), found.sum().detach())
    assert not torch.allclose(found, packed_attention(projected, packed, heads=1))


def test_rows_are_taken_and_put_back() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    packed = PackedRows.of(mask)
    x = torch.randn(3, 3, 2, requires_grad=True)
    taken = packed.take(x)
    # Events of one length are beside each other, shorter ones first.
    assert torch.equal(taken, x[mask])
    assert torch.equal(packed.put(taken), torch.where(mask[..., None], x, 0.0))
    (gradient,) = torch.autograd.grad(taken.sum(), x)
    assert torch.equal(gradient, mask[..., None].expand(3, 3, 2).float())


@pytest.mark.parametrize(("events", "slots"), [(0, 4), (3, 0)])
def test_nothing_at_all(events: int, slots: int) -> None:
    packed = PackedRows.of(torch.ones(events, slots, dtype=torch.bool))
    assert packed.put(torch.zeros(0, 2)).shape == (events, slots, 2)
    assert packed_attention(torch.zeros(1, 0, 6), packed, heads=1).shape == (1, 0, 2)


def test_only_plain_numbers_on_a_cpu_are_packed() -> None:
    x = torch.zeros(1)
    assert can_pack(x)
    assert not can_pack(x.double())
    assert not can_pack(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_pack(x)


MASK = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)


def test_rows_are_reduced_over_the_objects_of_each_event() -> None:
    packed = PackedRows.of(MASK)
    assert packed.events.tolist() == [2, 0, 0, 0, 3, 3, 3]
    x = torch.tensor([[5.0, -1.0], [1, 2], [3, -2], [2, 9], [-4, -1], [-2, -3], [-3, -2]])
    x.requires_grad_()
    assert packed.sum(x).tolist() == [[6, 9], [0, 0], [5, -1], [-9, -6]]
    assert packed.mean(x).tolist() == [[2, 3], [0, 0], [5, -1], [-3, -2]]
    largest = packed.max(x)
    assert largest.tolist() == [[3, 9], [0, 0], [5, -1], [-2, -1]]
    (gradient,) = torch.autograd.grad(largest.sum(), x)
    assert gradient.tolist() == [[1, 1], [0, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 0]]
    event = torch.arange(4.0)[:, None]
    assert packed.spread(event)[:, 0].tolist() == [2, 0, 0, 0, 3, 3, 3]


def test_groups_hold_the_events_of_each_length() -> None:
    packed = PackedRows.of(MASK)
    (single, triple) = packed.groups
    assert (single.events.tolist(), single.rows.tolist()) == ([2], [[0]])
    assert (triple.events.tolist(), triple.rows.tolist()) == ([0, 3], [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("longest", [5, 70])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_bias_and_long_events_take_torch_s_own_attention(longest: int, copies: int) -> None:
    torch.manual_seed(longest)
    mask = torch.rand(7, longest) < 0.8
    mask[0] = False
    mask[1] = True
    packed = PackedRows.of(mask)
    projected = torch.randn(copies, len(packed.rows), 12, requires_grad=True)
    weight = torch.randn(copies, len(packed.rows), 4)
    expected = plain_attention(projected, packed, mask, heads=2)
    zeros = [torch.zeros(copies * len(g.events), 1, *[g.rows.shape[1]] * 2) for g in packed.groups]
    for bias in (None, zeros):
        found = packed_attention(projected, packed, 2, bias=bias)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        own, plain = (
            torch.autograd.grad((each * weight).sum(), projected, retain_graph=True)[0]
            for each in (found, expected)
        )
        torch.testing.assert_close(own, plain, atol=5e-6, rtol=1e-4)
    # A bias that lets every object see itself alone makes the attention the identity.
    alone = [torch.eye(z.shape[-1]).expand_as(z) * 1e4 - 1e4 for z in zeros]
    found = packed_attention(projected, packed, 2, bias=alone)
    torch.testing.assert_close(found, projected[..., 8:], atol=2e-6, rtol=1e-5)


def test_a_function_of_single_objects_sees_real_ones_only() -> None:
    x = torch.randn(4, 4, 2)
    seen: list[torch.Size] = []

    def double(rows: Tensor) -> Tensor:
        seen.append(rows.shape)
        return 2 * rows

    found = on_real_objects(double, x, MASK)
    assert torch.equal(found, torch.where(MASK[..., None], 2 * x, 0.0))
    assert on_real_objects(double, x.double(), MASK).shape == x.shape
    assert seen == [(7, 2), (4, 4, 2)]
