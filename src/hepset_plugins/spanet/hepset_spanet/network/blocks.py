"""SPANet's linear blocks: GRU, basic, gated and residual ones, and stacks of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from hepset_spanet.network.normalisation import make_normalisation
from hepset_spanet.network.stacked import GruGate, Stacked, StackedLinear
from hepset_spanet.options import SpanetOptions, folded

__all__ = ["Block", "LinearStack", "Masking", "make_block"]


class Masking(nn.Module):
    """Keeps padded positions at zero, as the option ``masking`` says; otherwise does nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = folded(kind)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mask `x`, shape ``(..., width)``; `mask` has the shape ``(..., 1)``."""
        if mask is None:
            return x
        if self.kind == "filling":
            return torch.where(mask, x, 0.0)
        if self.kind == "multiplicative":
            return x * mask
        return x


def make_activation(name: str, copies: int, width: int) -> nn.Module:
    """Return the activation of a name; an unknown one is the identity, as in SPANet."""
    match folded(name):
        case "relu":
            return nn.ReLU()
        case "prelu":
            return _FeatureWisePReLU(copies, width)
        case "elu":
            return nn.ELU()
        case "celu":
            return nn.CELU()
        case "gelu":
            return nn.GELU()
    return nn.Identity()


class _FeatureWisePReLU(Stacked):
    """A leaky rectifier with a learnt slope for each feature."""

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((copies, width), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        return torch.where(x > 0, x, x * self.weight[:, None])


class Block(nn.Module):
    """What every block is: from one width to another, padded positions stay zero."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``.

        Args:
            x: Values.
            mask: True where a row is real, shape ``(rows, 1)``; None = everywhere.
        """
        raise NotImplementedError


class GruBlock(Block):
    """Normalise, widen, narrow, and mix into the residual by a GRU gate."""

    def __init__(
        self, options: SpanetOptions, copies: int, width: int, out: int, *, skip: bool
    ) -> None:
        super().__init__()
        hidden = _hidden(options, width)
        self.normalization = make_normalisation(options.normalization, copies, width)
        self.linear_1 = _layer(options, copies, width, hidden)
        self.linear_2 = _layer(options, copies, hidden, out)
        self.gru = GruGate(copies, out)
        self.residual = _residual(copies, width, out, skip=skip)
        self.masking = Masking(options.masking)
        self.skip = skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        value = self.linear_2(self.linear_1(self.normalization(x, mask)))
        if self.skip:
            value = self.gru(value, self.residual(x))
        masked: Tensor = self.masking(value, mask)
        return masked


class BasicBlock(Block):
    """A linear layer with activation, residual, normalisation and dropout."""

    def __init__(
        self, options: SpanetOptions, copies: int, width: int, out: int, *, skip: bool
    ) -> None:
        super().__init__()
        self.linear = StackedLinear(copies, width, out)
        self.activation = make_activation(options.linear_activation, copies, out)
        self.normalization = make_normalisation(options.normalization, copies, out)
        self.dropout = nn.Dropout(options.dropout)
        self.residual = _residual(copies, width, out, skip=skip)
        self.masking = Masking(options.masking)
        self.skip = skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        value = self.activation(self.linear(x))
        if self.skip:
            value = value + self.residual(x)
        masked: Tensor = self.masking(self.dropout(self.normalization(value, mask)), mask)
        return masked


class GatedBlock(Block):
    """A two-layer network whose output is gated, ``σ(A e) * (C e)``, with a residual."""

    def __init__(
        self, options: SpanetOptions, copies: int, width: int, out: int, *, skip: bool
    ) -> None:
        super().__init__()
        hidden = _hidden(options, width)
        self.linear_2 = StackedLinear(copies, width, hidden)
        self.activation = make_activation(options.linear_activation, copies, hidden)
        self.linear_1 = StackedLinear(copies, hidden, out)
        self.dropout = nn.Dropout(options.dropout)
        self.gate = nn.ModuleDict(
            {
                "linear_1": StackedLinear(copies, out, out),
                "linear_2": StackedLinear(copies, out, out),
            }
        )
        self.normalization = make_normalisation(options.normalization, copies, out)
        self.residual = _residual(copies, width, out, skip=skip)
        self.masking = Masking(options.masking)
        self.skip = skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        value = self.dropout(self.linear_1(self.activation(self.linear_2(x))))
        value = torch.sigmoid(self.gate["linear_1"](value)) * self.gate["linear_2"](value)
        if self.skip:
            value = value + self.residual(x)
        masked: Tensor = self.masking(self.normalization(value, mask), mask)
        return masked


class ResnetBlock(Block):
    """Two normalised linear layers; the second adds the output of the first."""

    def __init__(
        self, options: SpanetOptions, copies: int, width: int, out: int, *, skip: bool
    ) -> None:
        super().__init__()
        self.block_1 = _ResnetPart(options, copies, width, out)
        self.block_2 = _ResnetPart(options, copies, out, out)
        self.dropout = nn.Dropout(options.dropout)
        self.skip = skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        first = self.block_1(x, mask, None)
        second: Tensor = self.block_2(first, mask, first if self.skip else None)
        dropped: Tensor = self.dropout(second)
        return dropped


class _ResnetPart(nn.Module):
    def __init__(self, options: SpanetOptions, copies: int, width: int, out: int) -> None:
        super().__init__()
        self.linear = StackedLinear(copies, width, out, bias=False)
        self.normalization = make_normalisation(options.normalization, copies, out)
        self.activation = make_activation(options.linear_activation, copies, out)
        self.masking = Masking(options.masking)

    def forward(self, x: Tensor, mask: Tensor | None, residual: Tensor | None) -> Tensor:
        value = self.normalization(self.linear(x), mask)
        if residual is not None:
            value = value + residual
        masked: Tensor = self.masking(self.activation(value), mask)
        return masked


class LinearStack(nn.Module):
    """Several blocks of one width."""

    def __init__(
        self, options: SpanetOptions, copies: int, count: int, width: int, *, skip: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            make_block(options, copies, width, width, skip=skip) for _ in range(count)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        return apply_all(self.layers, x, mask)


def apply_all(blocks: Iterable[nn.Module], x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply blocks one after the other."""
    for block in blocks:
        x = block(x, mask)
    return x


def make_block(options: SpanetOptions, copies: int, width: int, out: int, *, skip: bool) -> Block:
    """Return a block of the type that the options name; an unknown one is basic, as in SPANet."""
    match folded(options.linear_block_type):
        case "gru":
            return GruBlock(options, copies, width, out, skip=skip)
        case "gated":
            return GatedBlock(options, copies, width, out, skip=skip)
        case "resnet":
            return ResnetBlock(options, copies, width, out, skip=skip)
    return BasicBlock(options, copies, width, out, skip=skip)


def _hidden(options: SpanetOptions, width: int) -> int:
    return round(options.transformer_dim_scale * width)


def _layer(options: SpanetOptions, copies: int, width: int, out: int) -> nn.Sequential:
    activation = make_activation(options.linear_activation, copies, out)
    return nn.Sequential(StackedLinear(copies, width, out), activation, nn.Dropout(options.dropout))


def _residual(copies: int, width: int, out: int, *, skip: bool) -> nn.Module:
    needed = skip and width != out
    return cast("nn.Module", StackedLinear(copies, width, out) if needed else nn.Identity())
