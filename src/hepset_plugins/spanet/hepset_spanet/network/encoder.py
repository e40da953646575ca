"""Transformers of SPANet, and the encoder that prepends a learnt vector to its sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset_spanet.network.blocks import LinearStack, Masking, make_block
from hepset_spanet.network.rows import Rows
from hepset_spanet.network.stacked import (
    GruGate,
    Stacked,
    StackedLayerNorm,
    StackedLinear,
    stacked_linear,
)
from hepset_spanet.options import SpanetOptions, folded

__all__ = ["StackedEncoder"]


class _Attention(Stacked):
    """Multi-head self-attention, with its parameters named and packed as torch does it."""

    def __init__(self, copies: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigurationError(
                f"hidden_dim: {width} is not a multiple of num_attention_heads = {heads}"
            )
        self.heads = heads
        self.dropout = dropout
        bound = math.sqrt(6 / (4 * width))
        weight = torch.empty(copies, 3 * width, width).uniform_(-bound, bound)
        self.in_proj_weight = nn.Parameter(weight)
        self.in_proj_bias = nn.Parameter(torch.zeros(copies, 3 * width))
        self.out_proj = StackedLinear(copies, width, width)
        nn.init.zeros_(self.out_proj.get_parameter("bias"))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Attend to the real positions of `x`, shape ``(copies, rows, D)``."""
        projected = stacked_linear(x, self.in_proj_weight, self.in_proj_bias)
        dropout = self.dropout if self.training else 0.0
        out: Tensor = self.out_proj(rows.attend(projected, self.heads, dropout))
        return out


class _GatedLayer(nn.Module):
    """Attention on normalised input, mixed in by a GRU gate, and a GRU block (GTrXL)."""

    def __init__(self, options: SpanetOptions, copies: int) -> None:
        super().__init__()
        width = options.hidden_dim
        self.attention_norm = StackedLayerNorm(copies, width)
        self.attention_gate = GruGate(copies, width)
        self.attention = _Attention(copies, width, options.num_attention_heads, options.dropout)
        gru = options.model_copy(update={"linear_block_type": "GRU"})
        self.feed_forward = make_block(gru, copies, width, width, skip=True)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        x = self.attention_gate(self.attention(self.attention_norm(x), rows), x)
        out: Tensor = self.feed_forward(x, rows.row_mask)
        return out


class _ClassicLayer(nn.Module):
    """Attention and feed-forward network, each with its residual; normalised after or before."""

    def __init__(self, options: SpanetOptions, copies: int, *, norm_first: bool) -> None:
        super().__init__()
        width = options.hidden_dim
        hidden = round(options.transformer_dim_scale * width)
        self.self_attn = _Attention(copies, width, options.num_attention_heads, options.dropout)
        self.linear1 = StackedLinear(copies, width, hidden)
        self.linear2 = StackedLinear(copies, hidden, width)
        self.norm1 = StackedLayerNorm(copies, width)
        self.norm2 = StackedLayerNorm(copies, width)
        self.dropout = nn.Dropout(options.dropout)
        self.activation = _feed_forward_activation(options.transformer_activation)
        self.norm_first = norm_first

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x), rows))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self.dropout(self.self_attn(x, rows)))
        out: Tensor = self.norm2(x + self._feed_forward(x))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        out: Tensor = self.dropout(self.linear2(hidden))
        return out


class _GatedTransformer(nn.Module):
    def __init__(self, options: SpanetOptions, copies: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_GatedLayer(options, copies) for _ in range(count))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        for layer in self.layers:
            x = layer(x, rows)
        return x


class _Layers(nn.Module):
    """Keeps layers under the name that a stack of torch's own layers has."""

    def __init__(
        self, options: SpanetOptions, copies: int, count: int, *, norm_first: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _ClassicLayer(options, copies, norm_first=norm_first) for _ in range(count)
        )


class _ClassicTransformer(nn.Module):
    def __init__(
        self, options: SpanetOptions, copies: int, count: int, *, norm_first: bool
    ) -> None:
        super().__init__()
        self.transformer = _Layers(options, copies, count, norm_first=norm_first)
        self.masking = Masking(options.masking)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        for layer in self.transformer.layers:
            x = layer(x, rows)
        out: Tensor = self.masking(x, rows.row_mask)
        return out


class _Identity(nn.Module):
    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        del rows
        return x


class StackedEncoder(Stacked):
    """Blocks, then a transformer over the sequence with a learnt vector in front.

    Args:
        options: SPANet's options.
        copies: Number of encoders that are computed at once.
        blocks: Number of blocks before the transformer.
        layers: Number of layers of the transformer; 0 = none.
    """

    def __init__(self, options: SpanetOptions, copies: int, blocks: int, layers: int) -> None:
        super().__init__()
        self.embedding = LinearStack(
            options, copies, blocks, options.hidden_dim, skip=options.skip_connections
        )
        self.particle_vector = nn.Parameter(torch.randn(copies, 1, 1, options.hidden_dim))
        self.encoder = _transformer(options, copies, layers)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Encode a sequence.

        Args:
            x: ``(copies, rows, D)``.
            rows: What the rows are.

        Returns:
            The encoded sequence ``(copies, rows, D)``, and the summaries ``(copies, B, D)`` that
            the learnt vectors have become.
        """
        x = rows.begin(self.embedding(x, rows.row_mask), self.particle_vector)
        return rows.separate(self.encoder(x, rows.longer))


def _transformer(options: SpanetOptions, copies: int, layers: int) -> nn.Module:
    kind = folded(options.transformer_type)
    if layers == 0:
        return _Identity()
    if kind in {"gated", "gtrxl"}:
        return _GatedTransformer(options, copies, layers)
    if kind in {"standard", "normfirst"}:
        return _ClassicTransformer(options, copies, layers, norm_first=kind == "normfirst")
    raise ConfigurationError(
        f"transformer_type {options.transformer_type!r}: SPANet has Standard, NormFirst and Gated; "
        "with any other name it leaves its transformers out, so set all numbers of encoder layers "
        "to 0 instead"
    )


def _feed_forward_activation(name: str) -> nn.Module:
    match folded(name):
        case "gelu":
            return nn.GELU()
        case "relu":
            return nn.ReLU()
    raise ConfigurationError(f"transformer_activation {name!r}: gelu or relu")
