"""`MaskedBatchNorm`: torch's layer on the real objects alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hepset.nn.batch_norm import MaskedBatchNorm

MASK = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_it_is_torch_s_layer_on_the_real_objects(momentum: float | None) -> None:
    torch.manual_seed(0)
    own, theirs = (cls(3, momentum=momentum) for cls in (MaskedBatchNorm, nn.BatchNorm1d))
    for layer in (own, theirs):
        layer.load_state_dict(
            layer.state_dict() | {"weight": torch.arange(3.0), "bias": -torch.ones(3)}
        )
    for _ in range(3):
        x = torch.randn(4, 4, 3)
        x[~MASK] = torch.nan
        padded, rows = x.clone().requires_grad_(), x[MASK].requires_grad_()
        found, expected = own(padded, MASK), theirs(rows)
        torch.testing.assert_close(found[MASK], expected, rtol=1e-4, atol=1e-5)
        assert (found[~MASK] == 0).all()
        (found**3).sum().backward()
        (expected**3).sum().backward()
        assert padded.grad is not None
        torch.testing.assert_close(padded.grad[MASK], rows.grad, rtol=1e-3, atol=1e-4)
        assert (padded.grad[~MASK] == 0).all()
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    own.eval()
    theirs.eval()
    rows = torch.randn(5, 3)
    torch.testing.assert_close(own(rows), theirs(rows), rtol=1e-4, atol=1e-5)


def test_packed_rows_need_no_mask() -> None:
    x = torch.randn(4, 4, 3)
    torch.testing.assert_close(
        MaskedBatchNorm(3)(x[MASK]), MaskedBatchNorm(3)(x, MASK)[MASK], rtol=1e-4, atol=1e-5
    )


def test_a_batch_without_objects_moves_nothing() -> None:
    layer = MaskedBatchNorm(3)
    layer(torch.randn(4, 4, 3), MASK)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert (layer(torch.full((2, 4, 3), torch.nan), torch.zeros(2, 4, dtype=torch.bool)) == 0).all()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
