"""The blocks of the Particle Transformer: NormFormer-like, with factors that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepset.nn.export_mode import is_exporting
from hepset.nn.onednn import linear
from hepset_jetclass.part.attention import Projections, attend, attend_by_head, read_tokens
from hepset_jetclass.part.dropout import dropout
from hepset_jetclass.part.options import HeadLayout

__all__ = ["Block"]


class _Linear(nn.Module):
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
        self.attn = _Linear(width)
        self.post_attn_norm = nn.LayerNorm(width)
        self.c_attn = nn.Parameter(torch.ones(heads))
        self.pre_fc_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.post_fc_norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.w_resid = nn.Parameter(torch.ones(width))

    def projections(self) -> Projections:
        """Return the linear layers around the attention, with the factors that belong to them."""
        inward, outward = self.attn.in_proj, self.attn.out_proj
        width = inward.in_features
        size = width // self.heads
        factors = inward.weight.new_ones(3)
        factors[0] = size**-0.5
        weight = torch.unflatten(inward.weight, 0, (3, self.heads, size)) * factors.view(3, 1, 1, 1)
        offset = torch.unflatten(inward.bias, 0, (3, self.heads, size)) * factors.view(3, 1, 1)
        scale = self.c_attn[:, None]
        out_weight = torch.unflatten(outward.weight, 0, (self.heads, -1)) * scale[..., None]
        out_offset = torch.unflatten(outward.bias, 0, (self.heads, -1)) * scale
        if self.layout == "interleaved":
            out_weight, out_offset = out_weight.transpose(0, 1), out_offset.transpose(0, 1)
        return Projections(weight, offset, out_weight.flatten(0, 1), out_offset.flatten())

    def forward(self, x: Tensor, bias: Tensor, around: Projections) -> Tensor:
        """Let tokens ``(jet, token, width)`` attend to each other.

        Args:
            x: The tokens.
            bias: Added to the logits, −inf for padded keys, broadcasts to ``(jet, head, token,
                token)``; or True where a key is let in.
            around: `projections` of this block, which are the same for all jets.
        """
        u = self.pre_attn_norm(x)
        dropped = self.dropout if self.training else 0.0
        if u.is_cpu and bias.is_floating_point() and not is_exporting():
            attended = attend_by_head(u, bias, around, dropped)
        else:
            attended = attend(u, bias, around, dropped)
        return self._finish(x, around.leave(attended))

    def pool(self, token: Tensor, x: Tensor, present: Tensor, around: Projections) -> Tensor:
        """Let a class token ``(jet, 1, width)`` attend to itself and to the tokens.

        Args:
            token: The class token; enters its attention without a norm.
            x: The tokens, shape ``(jet, token, width)``.
            present: True where a token is real, shape ``(jet, token)``.
            around: `projections` of this block.
        """
        own, others = self.pre_attn_norm(token), self.pre_attn_norm(x)
        return self._finish(token, around.leave(read_tokens(token, own, others, present, around)))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._drop(self.post_attn_norm(attended))
        h = linear(self.pre_fc_norm(x), self.fc1.weight, self.fc1.bias, gelu=True)
        h = self.post_fc_norm(self._drop(h))
        h = self._drop(linear(h, self.fc2.weight, self.fc2.bias))
        return torch.addcmul(h, x, self.w_resid)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)
