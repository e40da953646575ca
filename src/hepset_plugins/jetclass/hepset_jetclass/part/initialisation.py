"""Initial weights of the Particle Transformer."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hepset_jetclass.part.blocks import Block

__all__ = ["initialise"]


def initialise(network: nn.Module, blocks: nn.ModuleList, class_token: Tensor) -> None:
    """Give a network the initial weights of weaver 0.5.

    Linear layers are Xavier-uniform without bias, queries, keys and values each for itself;
    convolutions and norms as torch makes them. The projections that end a branch of the block l,
    counted from 1, are divided by sqrt(2 l).

    Args:
        network: All of it.
        blocks: The blocks whose branches are divided.
        class_token: Normal with width 0.02, cut at 2.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if name.endswith("in_proj") else 1
            for weight in module.weight.chunk(parts):
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(class_token, std=0.02)
    for number, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        for linear in (block.attn.out_proj, block.fc2):
            linear.weight.data /= math.sqrt(2 * number)
