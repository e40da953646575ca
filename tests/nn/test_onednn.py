"""`hepset.nn.onednn`: products by oneDNN are those of torch, with gradients of every order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from hepset.nn import onednn as linear_module
from hepset.nn.onednn import Linear, linear

WIDE = linear_module._has_wide_vectors()
needs_wide = pytest.mark.skipif(not WIDE, reason="nothing better on this CPU, or in this torch")


def given(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the products that oneDNN is asked for."""
    seen: list[tuple[int, ...]] = []
    product = linear_module._product

    def watched(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False
    ) -> Tensor:
        assert x.is_contiguous() or x.t().is_contiguous()
        assert weight.is_contiguous() or weight.t().is_contiguous()
        seen.append((*x.shape, len(weight)))
        return product(x, weight, bias, gelu=gelu)

    monkeypatch.setattr(linear_module, "_product", watched)
    return seen


def outcome(x: Tensor, weight: Tensor, bias: Tensor | None, single: bool) -> list[Tensor]:
    """Output and gradients of a weighted sum of it, in single precision by `linear` or exact."""
    kind = torch.float32 if single else torch.float64
    leaves = [part.to(kind).requires_grad_() for part in (x, weight, bias) if part is not None]
    function = linear if single else functional.linear
    out = function(*leaves)
    (out * given(*out.shape, seed=9).to(kind)).sum().backward()
    gradients = [leaf.grad for leaf in leaves]
    return [out, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(7000, 64), (350, 20, 64)])
def test_output_and_gradients_are_those_in_double_precision(
    shape: tuple[int, ...], with_bias: bool
) -> None:
    x, weight = given(*shape), given(96, 64, seed=1)
    bias = given(96, seed=2) if with_bias else None
    for found, expected in zip(
        outcome(x, weight, bias, True), outcome(x, weight, bias, False), strict=True
    ):
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-4)


@needs_wide
def test_all_three_products_are_large_and_contiguous(products: list[tuple[int, ...]]) -> None:
    whole = given(96, 70, seed=1).float().requires_grad_()
    x = given(7000, 70).float().requires_grad_()
    linear(x[:, 3:67], whole[:, 3:67]).sum().backward()  # the gradient is an expanded number
    assert products == [(7000, 64, 96), (7000, 96, 64), (96, 7000, 64)]
    assert whole.grad is not None
    expected = x.detach()[:, 3:67].sum(0).expand(96, -1)
    torch.testing.assert_close(whole.grad[:, 3:67], expected, rtol=1e-4, atol=1e-3)
    assert not whole.grad[:, :3].any()


@needs_wide
def test_only_asked_gradients_are_computed(products: list[tuple[int, ...]]) -> None:
    layer = Linear(64, 96)
    layer(given(7000, 64).float()).sum().backward()
    assert len(products) == 2
    with torch.no_grad():
        layer(given(7000, 64).float())
    assert products[2:] == [(7000, 64, 96)]


@needs_wide
@pytest.mark.parametrize(
    ("rows", "width", "out", "kind"),
    [
        (70, 64, 96, torch.float32),
        (70_000, 64, 8, torch.float32),
        (7000, 64, 96, torch.float64),
        (0, 64, 96, torch.float32),
    ],
    ids=["few", "narrow", "double", "none"],
)
def test_others_are_torchs_own(
    products: list[tuple[int, ...]], rows: int, width: int, out: int, kind: torch.dtype
) -> None:
    x, weight = given(rows, width).to(kind), given(out, width, seed=1).to(kind)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    assert not products


@needs_wide
def test_mixed_precision_and_switched_off_libraries_are_respected(
    products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = given(7000, 64).float(), given(96, 64).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    linear(x, weight)
    assert not products


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_transformed_functions_have_torchs_derivatives() -> None:
    x, weight, bias = layer(LARGE)
    tangent = layer(LARGE, seed=5)[0]

    def ours(x: Tensor) -> Tensor:
        return linear(x, weight, bias)

    forward = functional.linear(tangent, weight)
    torch.testing.assert_close(torch.func.jvp(ours, (x,), (tangent,))[1], forward)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, tangent)))
    torch.testing.assert_close(dual.tangent, forward)
    gradient = torch.func.grad(lambda x: ours(x).sum())(x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(x.shape), rtol=1e-4, atol=1e-5)
    both = torch.func.vmap(ours)(torch.stack([x, tangent]))
    torch.testing.assert_close(both[1], functional.linear(tangent, weight, bias))


def test_one_row_without_an_axis_is_taken() -> None:
    x, weight = torch.ones(1 << 16), torch.ones(256, 1 << 16)
    assert torch.equal(linear(x, weight), torch.full((256,), 65536.0))


def test_the_layer_is_torchs_layer() -> None:
    ours, theirs = Linear(64, 96), nn.Linear(64, 96)
    theirs.load_state_dict(ours.state_dict())
    x = given(7000, 64).float()
    torch.testing.assert_close(ours(x), theirs(x))


LARGE, SMALL = (5, 300, 64), (2, 3, 64)
"""Shapes of inputs that are and are not worth a call of oneDNN, with 256 outputs."""


def layer(shape: tuple[int, ...], seed: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (shape, (256, shape[-1]), (256,))
    return tuple(torch.randn(size, generator=generator) / 8 for size in sizes)


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


def test_only_what_learns_gets_a_gradient() -> None:
    x, weight, bias = layer(LARGE)
    assert not linear(x, weight, bias).requires_grad
    y = linear(x, weight.requires_grad_(), bias)
    (found,) = torch.autograd.grad(y.sum(), weight)
    assert found.shape == weight.shape
