"""Attention between the particles of a jet, and of a class token to them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset.nn.onednn import linear
from hepset_jetclass.part.dropout import dropout

__all__ = ["Projections", "attend", "attend_by_head", "read_tokens"]


FEWEST_KEYS = 16
"""Keys below which torch's softmax takes ten times as long on a CPU."""


class Projections(NamedTuple):
    """The linear layers before and after an attention.

    Attributes:
        weight: To queries, which are divided by the root of their size, keys and values, shape
            ``(3, head, size, width)``.
        offset: Shape ``(3, head, size)``.
        out_weight: Shape ``(width, width)``.
        out_offset: Shape ``(width,)``.
    """

    weight: Tensor
    offset: Tensor
    out_weight: Tensor
    out_offset: Tensor

    def leave(self, attended: Tensor) -> Tensor:
        """Project what was attended, ``(jet, token, width)``."""
        return linear(attended, self.out_weight, self.out_offset)


def attend(x: Tensor, bias: Tensor, around: Projections, dropped: float) -> Tensor:
    """Let tokens attend to each other by torch's own attention.

    Args:
        x: Tokens, shape ``(jet, token, width)``.
        bias: Added to the logits, or True where a key is let in; broadcasts to ``(jet, head, token,
            token)``.
        around: The projections.
        dropped: Probability of dropout of the weights.

    Returns:
        Shape ``(jet, token, width)``.
    """
    packed = linear(x, around.weight.flatten(0, 2), around.offset.flatten())
    q, k, v = torch.unflatten(packed, -1, around.offset.shape).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=dropped, scale=1.0
    )
    merged = attended.transpose(1, 2)
    if is_exporting():
        # The exporter replaces the attention by one whose output lies differently in memory.
        merged = merged.clone(memory_format=torch.contiguous_format)
    return merged.flatten(2)


def attend_by_head(x: Tensor, bias: Tensor, around: Projections, dropped: float) -> Tensor:
    """Do the same, step by step, with the heads first: the fastest on a CPU for short sets.

    Args:
        x: See `attend`.
        bias: Added to the logits, shape ``(jet, head, token, token)``, best with the heads first
            in memory.
        around: The projections.
        dropped: Probability of dropout of the weights.
    """
    jets, tokens, _ = x.shape
    heads = around.offset.shape[1]
    packed = linear(x, around.weight.flatten(0, 2), around.offset.flatten())
    parts = torch.unflatten(packed, -1, around.offset.shape).permute(2, 3, 0, 1, 4)
    q, k, v = parts.flatten(1, 2)
    if tokens < FEWEST_KEYS:
        missing = FEWEST_KEYS - tokens
        k, v = (functional.pad(part, (0, 0, 0, missing)) for part in (k, v))
        bias = functional.pad(bias, (0, missing), value=float("-inf"))
    logits = torch.bmm(q, k.transpose(1, 2))
    bias = bias.expand(jets, heads, *bias.shape[2:])
    logits = logits.add_(bias.transpose(0, 1).reshape(logits.shape))
    weights = dropout(torch.softmax(logits, -1), dropped, training=dropped > 0)
    attended = torch.unflatten(torch.bmm(weights, v), 0, (heads, jets))
    return attended.permute(1, 2, 0, 3).flatten(2)


def read_tokens(
    query: Tensor, own: Tensor, others: Tensor, present: Tensor, around: Projections
) -> Tensor:
    """Let one token per jet attend to itself and to others.

    No keys and values are made: the projection to keys acts on the one query, that to values on
    the mean of the tokens, which is the same and takes a hundredth of the operations.

    Args:
        query: What the query is made of, shape ``(jet, 1, width)``.
        own: What the token itself is read as.
        others: The other tokens, shape ``(jet, token, width)``.
        present: True where another token is real, shape ``(jet, token)``.
        around: The projections.

    Returns:
        Shape ``(jet, 1, width)``.
    """
    to_query, to_key, to_value = around.weight
    of_query, _, of_value = around.offset
    q = functional.linear(query[:, 0], to_query.flatten(0, 1), of_query.flatten())
    q = torch.unflatten(q, 1, of_query.shape).transpose(0, 1)
    reading = torch.bmm(q, to_key).transpose(0, 1)
    logits = torch.bmm(reading, others.transpose(1, 2))
    logits = torch.where(present[:, None], logits, float("-inf"))
    weights = torch.softmax(torch.cat([torch.bmm(reading, own.transpose(1, 2)), logits], -1), -1)
    mean = torch.bmm(weights[..., 1:], others) + weights[..., :1] * own
    values = torch.bmm(mean.transpose(0, 1), to_value.transpose(1, 2)) + of_value[:, None]
    merged: Tensor = values.transpose(0, 1).flatten(1)[:, None]
    return merged
