"""`PartBackbone`: the Particle Transformer on the one stream of an event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.nn.attention import attention_logit_bias
from hepset.nn.export_mode import is_exporting
from hepset.nn.pairs import pair_coordinates, pair_features
from hepset_jetclass.part.attention import Projections
from hepset_jetclass.part.blocks import Block
from hepset_jetclass.part.buckets import run_in_buckets
from hepset_jetclass.part.embedding import PairEmbedding, ParticleEmbedding
from hepset_jetclass.part.initialisation import initialise
from hepset_jetclass.part.options import PartConfig
from hepset_jetclass.part.pairs import list_pairs, square_bias
from hepset_jetclass.part.trimming import kept_at_random

__all__ = ["PartBackbone"]

PARTICLES = 1536
"""Particles of a sub-batch on a CPU: few enough for its caches, enough for large products."""
OTHER_BUCKETS = 4
"""Sub-batches on other devices, which want few large operations."""


class PartBackbone(Backbone):
    """Particles attend to each other, steered by their pairs; a class token then reads them.

    Takes one stream with a four-momentum and nothing else. `Encoded.event` is the class token
    after the last norm, `Encoded.objects` the particles after the last block. The parameters have
    the names of weaver 0.5.

    Only real particles and pairs of real ones are computed, and every pair once; the statistics of
    the batch normalisations are of these. In evaluation the normalisations are part of the linear
    layers beside them. A condition is added to the embedding of every particle and to the class
    token; extra tokens join the particles with a bias of 0.

    Args:
        config: Options.
    """

    Config: ClassVar[type[BackboneConfig]] = PartConfig
    capabilities = frozenset({"condition", "extra_tokens"})
    config: PartConfig

    def __init__(self, config: PartConfig) -> None:
        super().__init__(config)
        self.stream = ""

    @property
    def width(self) -> int:
        """Width D of the embeddings."""
        return self.config.width

    def build(self, layout: InputLayout) -> None:
        """Make the layers.

        Raises:
            ConfigurationError: If there is not exactly one stream, or it has no four-momentum.
        """
        seen = {name: width for name, width in layout.streams.items() if width}
        others = [name for name, width in layout.globals.items() if width]
        if len(seen) != 1 or others or layout.pairs:
            found = [*seen, *others, *(f"{name}.pairs" for name in layout.pairs)]
            raise ConfigurationError(
                "model.backbone: part takes one stream and no globals or pair inputs, the event "
                f"has {', '.join(found) or 'none'}; set `input: false` on what the network is not "
                "to see, or take the backbone transformer"
            )
        ((self.stream, features),) = seen.items()
        if self.config.pair_bias and self.stream not in layout.p4:
            raise ConfigurationError(
                f"model.backbone: part needs the four-momentum of {self.stream}; declare `p4` in "
                "the event file, or set pair_bias: false"
            )
        options = self.config
        self.cls_token = nn.Parameter(torch.empty(1, 1, options.width))
        self.embed = ParticleEmbedding(features, options.embedding)
        self.pair_embed = (
            PairEmbedding(
                options.pair_embedding,
                options.attention_heads,
                last_activation=options.pair_activation,
            )
            if options.pair_bias
            else None
        )
        self.blocks = nn.ModuleList(self._block(options.dropout) for _ in range(options.depth))
        self.cls_blocks = nn.ModuleList(self._block(0.0) for _ in range(options.class_depth))
        self.norm = nn.LayerNorm(options.width)
        initialise(self, self.blocks, self.cls_token)

    def _block(self, dropout: float) -> Block:
        options = self.config
        return Block(
            options.width,
            options.attention_heads,
            options.mlp_ratio * options.width,
            dropout=dropout,
            layout=options.head_layout,
        )

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        """Encode events; see `Backbone.encode`."""
        features, mask = x.streams[self.stream], x.masks[self.stream]
        p4 = x.p4.get(self.stream)
        if self.training and self.config.trim == "random":
            mask = kept_at_random(mask)
        whole = is_exporting() or mask.numel() == 0
        normed = self._normalised(features, mask, whole=whole)
        token = self.cls_token.expand(mask.shape[0], 1, -1)
        shift = token[:, :0] if condition is None else condition[:, None]
        extra = token[:, :0] if extra_tokens is None else extra_tokens
        blocks = [*_listed(self.blocks), *_listed(self.cls_blocks)]
        around = [block.projections() for block in blocks]
        if whole:
            bias = self._whole_bias(p4, mask)
            objects, *others = self._blocks(mask, normed, bias, token, shift, extra, around)
            objects = torch.where(mask[..., None], objects, 0.0)
        else:
            values, start = self._pair_values(p4, mask)

            def run(
                mask: Tensor,
                normed: Tensor,
                start: Tensor,
                token: Tensor,
                shift: Tensor,
                extra: Tensor,
            ) -> tuple[Tensor, ...]:
                if values is None:
                    bias = attention_logit_bias(mask)
                else:
                    bias = square_bias(values, start, mask)
                return self._blocks(mask, normed, bias, token, shift, extra, around)

            fixed = self.config.buckets
            objects, *others = run_in_buckets(
                run,
                mask,
                (normed,),
                events=(start, token, shift, extra),
                buckets=OTHER_BUCKETS if fixed is None else fixed,
                slots=PARTICLES if fixed is None and mask.is_cpu else None,
            )
        event, encoded_extra = others
        return Encoded(
            objects={self.stream: objects},
            masks=x.masks,
            event=event,
            p4=x.p4,
            extra=None if extra_tokens is None else encoded_extra,
        )

    def _normalised(self, features: Tensor, mask: Tensor, *, whole: bool) -> Tensor:
        """Features of the particles (B, N, F) as the embedding takes them, 0 in padded slots."""
        if whole:
            return torch.where(mask[..., None], self.embed.normalise(features), 0.0)
        slots = mask.flatten().nonzero()[:, 0]
        real = self.embed.normalise(features.flatten(0, 1).index_select(0, slots))
        empty = real.new_zeros((mask.numel(), real.shape[1]))
        return torch.unflatten(empty.index_copy_(0, slots, real), 0, mask.shape)

    def _pair_values(self, p4: Tensor | None, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Numbers of all real pairs for `square_bias`, and where those of each jet start."""
        counts = mask.sum(1)
        if self.pair_embed is None:
            return None, counts
        assert p4 is not None
        slots = mask.flatten().nonzero()[:, 0]
        device = p4.device.type
        with torch.autocast(device, enabled=False):
            momenta = p4.flatten(0, 1).index_select(0, slots)
            coordinates = pair_coordinates(momenta.float())
        pairs = list_pairs(counts)
        values = self.pair_embed(coordinates, pairs.first, pairs.second)
        outside = values.new_tensor([float("-inf"), 0.0]).expand(len(values), 2)
        return torch.cat([values, outside], 1), pairs.start

    def _whole_bias(self, p4: Tensor | None, mask: Tensor) -> Tensor:
        """Bias of all pairs of slots, for graphs whose sizes are not known yet."""
        if self.pair_embed is None:
            return attention_logit_bias(mask)
        assert p4 is not None
        features = pair_features(p4, mask).movedim(1, -1)
        bias = self.pair_embed.of_features(features).movedim(-1, 1)
        return attention_logit_bias(mask, bias)

    def _blocks(
        self,
        mask: Tensor,
        normed: Tensor,
        bias: Tensor,
        token: Tensor,
        shift: Tensor,
        extra: Tensor,
        around: Sequence[Projections],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Particles, class token and extra tokens after all blocks."""
        x = torch.where(mask[..., None], self.embed(normed), 0.0)
        if shift.shape[1]:
            x, token = x + shift, token + shift
        count = extra.shape[1]
        if count:
            x = torch.cat([extra, x], 1)
            mask = functional.pad(mask, (count, 0), value=True)
            if bias.is_floating_point():
                bias = attention_logit_bias(mask, functional.pad(bias, (count, 0, count, 0)))
            else:
                bias = attention_logit_bias(mask)
        blocks, readers = _listed(self.blocks), _listed(self.cls_blocks)
        for block, projections in zip(blocks, around, strict=False):
            x = block(x, bias, projections)
        for block, projections in zip(readers, around[len(blocks) :], strict=True):
            token = block.pool(token, x, mask, projections)
        return x[:, count:], self.norm(token)[:, 0], x[:, :count]


def _listed(modules: nn.ModuleList) -> list[Block]:
    return [block for block in modules if isinstance(block, Block)]
