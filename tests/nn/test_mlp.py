"""Shapes, names and the residual option of the small networks."""

from __future__ import annotations

import pytest
import torch

from hepset.errors import ConfigurationError
from hepset.nn.mlp import ACTIVATIONS, MLP, make_activation


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [True, False])
def test_maps_the_last_axis(activation: str, norm: bool) -> None:
    mlp = MLP(3, [8, 5], 2, activation=activation, norm=norm, dropout=0.1)
    out = mlp(torch.randn(4, 6, 3))
    assert out.shape == (4, 6, 2)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in mlp.parameters())


def test_parameters_are_as_counted() -> None:
    # Two Linears 3 -> 8 -> 2 with bias, and LayerNorms of 3 and 8 with weight and bias.
    assert sum(p.numel() for p in MLP(3, [8], 2).parameters()) == 32 + 18 + 6 + 16
    assert sum(p.numel() for p in MLP(3, [], 2, norm=False).parameters()) == 8


def test_residual_adds_the_input() -> None:
    mlp = MLP(3, [8], 3, residual=True)
    torch.nn.init.zeros_(mlp.layers[-1].weight)
    torch.nn.init.zeros_(mlp.layers[-1].bias)
    x = torch.randn(2, 3)
    torch.testing.assert_close(mlp(x), x)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 3 and 2"):
        MLP(3, [], 2, residual=True)
    with pytest.raises(ConfigurationError, match="did you mean 'relu'"):
        make_activation("relo")
