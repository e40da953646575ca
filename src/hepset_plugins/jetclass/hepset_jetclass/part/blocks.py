"""The blocks of the Particle Transformer: NormFormer-like, with factors that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.nn.exporting import is_exporting
from hepset_jetclass.part.dropout import dropout
from hepset_jetclass.part.options import HeadLayout

__all__ = ["Block"]


class _Projections(nn.Module):
    """The packed projection to queries, keys and values, and the one after the attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)


class Block(nn.Module):
    """Attention and a network, each between two norms.

    With ``u = LN(x)``: ``x ← x + dropout(LN(c ⊙ attend(u)))``, one factor c per head after the
    projection; then ``x ← w ⊙ x + dropout(fc2(LN(dropout(GELU(fc1(LN(x)))))))``, one factor w per
    channel.

    Args:
        width: Width of the tokens.
        heads: Attention heads.
        hidden: Width of the hidden layer of the network.
        dropout: Probability of dropout, in training.
        layout: Order of the channels after the attention.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, dropout: float, layout: HeadLayout
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.layout: HeadLayout = layout
        self.pre_attn_norm = nn.LayerNorm(width)
        self.attn = _Projections(width)
        self.post_attn_norm = nn.LayerNorm(width)
        self.c_attn = nn.Parameter(torch.ones(heads))
        self.pre_fc_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.post_fc_norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.w_resid = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Let tokens ``(jet, token, width)`` attend to each other.

        Args:
            x: The tokens.
            bias: Added to the logits, −inf for padded keys, broadcasts to ``(jet, head, token,
                token)``; or True where a key is let in.
        """
        q, k, v = self._project(self.pre_attn_norm(x), 0, 3)
        return self._finish(x, self._attend(q, k, v, bias))

    def pool(self, token: Tensor, x: Tensor, present: Tensor) -> Tensor:
        """Let a class token ``(jet, 1, width)`` attend to itself and to the tokens.

        Args:
            token: The class token; enters its attention without a norm.
            x: The tokens, shape ``(jet, token, width)``.
            present: True for the class token and where a token is real, broadcasts to ``(jet, head,
                1, 1 + token)``.
        """
        keys = self.pre_attn_norm(torch.cat([token, x], 1))
        (q,) = self._project(token, 0, 1)
        k, v = self._project(keys, 1, 2)
        return self._finish(token, self._attend(q, k, v, present))

    def _project(self, x: Tensor, first: int, count: int) -> list[Tensor]:
        """Parts of the packed projection, each (jet, head, token, width / heads)."""
        width = x.shape[-1]
        rows = slice(first * width, (first + count) * width)
        linear = self.attn.in_proj
        projected = functional.linear(x, linear.weight[rows], linear.bias[rows])
        return [
            torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2)
            for part in projected.chunk(count, -1)
        ]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if self.training and self.dropout and bias.dtype == q.dtype and not q.is_cuda:
            merged = self._attend_with_dropout(q, k, v, bias)
        else:
            attended = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
            )
            merged = attended.transpose(1, 2)
        if is_exporting():
            # The exporter replaces the attention by one whose output lies differently in memory.
            merged = merged.clone(memory_format=torch.contiguous_format)
        return functional.linear(merged.flatten(2), *self._out())

    def _attend_with_dropout(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention step by step: the one of torch has no fast dropout on a CPU."""
        jets, heads, tokens, size = q.shape
        # Heads come first, as in the bias, which then need not be copied.
        q, k, v = (part.transpose(0, 1).flatten(0, 1) for part in (q, k, v))
        bias = bias.transpose(0, 1).reshape(heads * jets, tokens, -1)
        logits = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=size**-0.5)
        weights = dropout(torch.softmax(logits, -1), self.dropout, training=True)
        attended = torch.bmm(weights, v)
        return torch.unflatten(attended, 0, (heads, jets)).permute(1, 2, 0, 3)

    def _out(self) -> tuple[Tensor, Tensor]:
        """The projection after the attention, with the factors of the heads and their order."""
        linear = self.attn.out_proj
        scale = self.c_attn[:, None]
        weight = torch.unflatten(linear.weight, 0, (self.heads, -1)) * scale[..., None]
        bias = torch.unflatten(linear.bias, 0, (self.heads, -1)) * scale
        if self.layout == "interleaved":
            weight, bias = weight.transpose(0, 1), bias.transpose(0, 1)
        return weight.flatten(0, 1), bias.flatten()

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._drop(self.post_attn_norm(attended))
        h = self._drop(functional.gelu(self.fc1(self.pre_fc_norm(x))))
        h = self._drop(self.fc2(self.post_fc_norm(h)))
        return torch.addcmul(h, x, self.w_resid)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)
