"""`PartConfig`: options of the Particle Transformer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hepset.interfaces.backbone import BackboneConfig

__all__ = ["HeadLayout", "PartConfig"]

HeadLayout = Literal["grouped", "interleaved"]
"""Order of the channels that leave an attention: all of head 0 first, or channel 0 of all heads
first."""


class PartConfig(BackboneConfig):
    """Options of the Particle Transformer; the defaults are Sophon's."""

    embedding: tuple[PositiveInt, ...] = Field(default=(128, 512, 128), min_length=1)
    """Widths of the layers that embed the features of a particle; the last is the width of the
    embeddings, a multiple of `attention_heads`."""
    depth: NonNegativeInt = 8
    """Blocks in which particles attend to each other."""
    class_depth: PositiveInt = 2
    """Blocks in which the class token attends to the particles."""
    attention_heads: PositiveInt = 8
    """Heads of every attention."""
    mlp_ratio: PositiveInt = 4
    """Hidden width of the network after each attention, in units of the width."""
    pair_bias: bool = True
    """Whether ln kT, ln z, ln Δ and ln m² of every pair of particles steer the attention."""
    pair_embedding: tuple[PositiveInt, ...] = Field(default=(64, 64, 64), min_length=1)
    """Widths of the hidden layers that embed the features of a pair."""
    pair_activation: bool = False
    """Whether a GELU ends the embedding of the pairs: false for Sophon, true for the networks
    published with JetClass."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability of dropout of attention weights, hidden layers and branches, in training; the
    class blocks have none."""
    trim: Literal["random", "longest"] = "random"
    """Which particles a training batch keeps. ``random``: a length is drawn between the 90 %
    quantile and the longest jet of the batch, and longer jets lose random particles; their
    embeddings are 0. ``longest``: all. Evaluation keeps all."""
    head_layout: HeadLayout = "grouped"
    """Order of the channels after an attention: ``grouped`` since weaver 0.5, ``interleaved``
    before. Weights of one are wrong in the other."""
    buckets: NonNegativeInt | None = None
    """Sub-batches of jets of similar length, which saves computing padding; 1 = trim the batch at
    its longest jet, 0 = compute all padding, null = as many as suit the device. The outputs do not
    depend on it."""

    @model_validator(mode="after")
    def _divides(self) -> PartConfig:
        if self.embedding[-1] % self.attention_heads:
            raise ValueError(
                f"attention_heads {self.attention_heads} do not divide the width "
                f"{self.embedding[-1]}, the last of embedding"
            )
        return self

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self.embedding[-1]
