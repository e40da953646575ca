"""Transformers of SPANet, and the encoder that prepends a learnt vector to its sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.nn.exporting import is_exporting
from hepset_spanet.network.blocks import GruGate, LinearStack, Masking, make_block
from hepset_spanet.options import SpanetOptions, folded

__all__ = ["StackedEncoder"]


class _Attention(nn.Module):
    """Multi-head self-attention, with its parameters named and packed as torch does it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigurationError(
                f"hidden_dim: {width} is not a multiple of num_attention_heads = {heads}"
            )
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend to the real positions of `x`, shape ``(B, T, D)``; `mask` is ``(B, T)``."""
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (
            torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged = mixed.transpose(1, 2)
        if is_exporting():
            # The exporter replaces the attention by one whose output lies differently in memory.
            merged = merged.clone(memory_format=torch.contiguous_format)
        out: Tensor = self.out_proj(merged.flatten(2))
        return out


class _GatedLayer(nn.Module):
    """Attention on normalised input, mixed in by a GRU gate, and a GRU block (GTrXL)."""

    def __init__(self, options: SpanetOptions) -> None:
        super().__init__()
        width = options.hidden_dim
        self.attention_norm = nn.LayerNorm(width)
        self.attention_gate = GruGate(width)
        self.attention = _Attention(width, options.num_attention_heads, options.dropout)
        gru = options.model_copy(update={"linear_block_type": "GRU"})
        self.feed_forward = make_block(gru, width, width, skip=True)

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> Tensor:
        x = self.attention_gate(self.attention(self.attention_norm(x), mask), x)
        out: Tensor = self.feed_forward(x, filled)
        return out


class _ClassicLayer(nn.Module):
    """Attention and feed-forward network, each with its residual; normalised after or before."""

    def __init__(self, options: SpanetOptions, *, norm_first: bool) -> None:
        super().__init__()
        width = options.hidden_dim
        hidden = round(options.transformer_dim_scale * width)
        self.self_attn = _Attention(width, options.num_attention_heads, options.dropout)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)
        self.activation = _feed_forward_activation(options.transformer_activation)
        self.norm_first = norm_first

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x), mask))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self.dropout(self.self_attn(x, mask)))
        out: Tensor = self.norm2(x + self._feed_forward(x))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        out: Tensor = self.dropout(self.linear2(hidden))
        return out


class _GatedTransformer(nn.Module):
    def __init__(self, options: SpanetOptions, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_GatedLayer(options) for _ in range(count))

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, filled)
        return x


class _Layers(nn.Module):
    """Keeps layers under the name that a stack of torch's own layers has."""

    def __init__(self, options: SpanetOptions, count: int, *, norm_first: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _ClassicLayer(options, norm_first=norm_first) for _ in range(count)
        )


class _ClassicTransformer(nn.Module):
    def __init__(self, options: SpanetOptions, count: int, *, norm_first: bool) -> None:
        super().__init__()
        self.transformer = _Layers(options, count, norm_first=norm_first)
        self.masking = Masking(options.masking)

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> Tensor:
        for layer in self.transformer.layers:
            x = layer(x, mask)
        out: Tensor = self.masking(x, filled)
        return out


class _Identity(nn.Module):
    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> Tensor:
        del mask, filled
        return x


class StackedEncoder(nn.Module):
    """Blocks, then a transformer over the sequence with a learnt vector in front.

    Args:
        options: SPANet's options.
        blocks: Number of blocks before the transformer.
        layers: Number of layers of the transformer; 0 = none.
    """

    def __init__(self, options: SpanetOptions, blocks: int, layers: int) -> None:
        super().__init__()
        self.embedding = LinearStack(
            options, blocks, options.hidden_dim, skip=options.skip_connections
        )
        self.particle_vector = nn.Parameter(torch.randn(1, 1, options.hidden_dim))
        self.encoder = _transformer(options, layers)

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a sequence.

        Args:
            x: ``(B, T, D)``.
            mask: True where attention may look, ``(B, T)``.
            filled: True where blocks compute, ``(B, T)``; usually the same.

        Returns:
            The encoded sequence ``(B, T, D)``, and the summary ``(B, D)`` that the learnt vector
            has become.
        """
        x = self.embedding(x, filled[..., None])
        x = torch.cat([self.particle_vector.expand(x.shape[0], -1, -1), x], 1)
        first = torch.ones_like(mask[:, :1])
        with_first = torch.cat([first, mask], 1)
        x = self.encoder(x, with_first, torch.cat([first, filled], 1)[..., None])
        return x[:, 1:], x[:, 0]


def _transformer(options: SpanetOptions, layers: int) -> nn.Module:
    kind = folded(options.transformer_type)
    if layers == 0:
        return _Identity()
    if kind in {"gated", "gtrxl"}:
        return _GatedTransformer(options, layers)
    if kind in {"standard", "normfirst"}:
        return _ClassicTransformer(options, layers, norm_first=kind == "normfirst")
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
