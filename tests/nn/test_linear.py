"""Linear layers by oneDNN: what torch's own give, with gradients of every order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn import linear as module
from hepset.nn.linear import linear

LARGE, SMALL = (5, 70, 64), (2, 3, 64)
"""Shapes of inputs that are and are not worth a call of oneDNN, with 256 outputs."""


def layer(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    sizes = (shape, (256, shape[-1]), (256,))
    return tuple(torch.randn(size, generator=generator, dtype=dtype) / 8 for size in sizes)


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    y = x.double() @ weight.double().t()
    y = y if bias is None else y + bias.double()
    return y * 0.5 * (1 + torch.erf(y / 2**0.5)) if gelu else y


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_values(shape: tuple[int, ...], gelu: bool, biased: bool) -> None:
    x, weight, bias = layer(shape)
    offset = bias if biased else None
    wanted = exact(x, weight, offset, gelu=gelu)
    torch.testing.assert_close(
        linear(x, weight, offset, gelu=gelu).double(), wanted, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("gelu", [False, True])
def test_gradients_of_both_orders(shape: tuple[int, ...], gelu: bool) -> None:
    x, weight, bias = (part.requires_grad_() for part in layer(shape))
    given = torch.randn(*shape[:-1], 256, generator=torch.Generator().manual_seed(4))

    def gradients(y: Tensor) -> list[Tensor]:
        first = torch.autograd.grad((y * given).sum(), (x, weight, bias), create_graph=True)
        second = torch.autograd.grad((first[0] ** 2).sum() + (y**2).sum(), (x, weight, bias))
        return [*first, *second]

    plain = functional.linear(x, weight, bias)
    wanted = gradients(functional.gelu(plain) if gelu else plain)
    for found, expected in zip(gradients(linear(x, weight, bias, gelu=gelu)), wanted, strict=True):
        scale = float(expected.detach().std())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_other_types_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Tensor, **__: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(module, "_product", refuse)
    assert linear(*layer(LARGE, torch.float64)).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(*layer(LARGE)).dtype == torch.bfloat16
    linear(*layer(SMALL))
    with pytest.raises(AssertionError):
        linear(*layer(LARGE))


def test_only_what_learns_gets_a_gradient() -> None:
    x, weight, bias = layer(LARGE)
    assert not linear(x, weight, bias).requires_grad
    y = linear(x, weight.requires_grad_(), bias)
    (found,) = torch.autograd.grad(y.sum(), weight)
    assert found.shape == weight.shape
