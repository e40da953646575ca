"""Small fully connected networks, and the names of activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor, nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.nn.onednn import Linear

__all__ = ["ACTIVATIONS", "MLP", "make_activation"]

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Activations by the name that configurations use."""


def make_activation(name: str) -> nn.Module:
    """Make the activation of that name.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    if name not in ACTIVATIONS:
        message = (
            f"unknown activation {name!r}{did_you_mean(name, ACTIVATIONS)}; "
            f"known: {', '.join(ACTIVATIONS)}"
        )
        raise ConfigurationError(message)
    return ACTIVATIONS[name]()


class MLP(nn.Module):
    """Hidden layers of [LayerNorm, Linear, activation, dropout], and a last Linear.

    Works on the last axis of a tensor of any shape. Without hidden layers it is one Linear, after
    a LayerNorm if `norm`.

    Args:
        width_in: Features of the input.
        hidden: Width of each hidden layer.
        width_out: Features of the output.
        activation: One of `ACTIVATIONS`.
        norm: Normalise before every Linear. Off for inputs whose scale is the information.
        dropout: Probability of dropout after every activation.
        residual: Add the input to the output; they must have one width.

    Raises:
        ConfigurationError: If `residual` is asked for with different widths, or the activation is
            unknown.
    """

    def __init__(
        self,
        width_in: int,
        hidden: Sequence[int],
        width_out: int,
        *,
        activation: str = "gelu",
        norm: bool = True,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and width_in != width_out:
            message = (
                f"a residual MLP needs equal input and output widths, got {width_in} and "
                f"{width_out}; set residual: false or make the widths equal"
            )
            raise ConfigurationError(message)
        layers: list[nn.Module] = []
        width = width_in
        for next_width in hidden:
            layers += [nn.LayerNorm(width)] if norm else []
            layers += [Linear(width, next_width), make_activation(activation)]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = next_width
        layers += [nn.LayerNorm(width)] if norm else []
        layers += [Linear(width, width_out)]
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., width_in)`` to ``(..., width_out)``."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out
