"""`TransformerBackbone`: self-attention among all objects and globals of an event."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.nn.attention import TransformerEncoder
from hepset.nn.buckets import run_in_buckets
from hepset.nn.mlp import MLP
from hepset.nn.packed import MOST_KEYS, Packing, can_pack
from hepset.nn.pairs import PairBias

__all__ = ["TransformerBackbone", "TransformerConfig"]


class TransformerConfig(BackboneConfig):
    """Options of the transformer."""

    width: PositiveInt = 64
    """Width of the embeddings; a multiple of `attention_heads`."""
    depth: NonNegativeInt = 4
    """Number of layers."""
    attention_heads: PositiveInt = 4
    """Heads of every attention."""
    mlp_ratio: float = Field(default=2.0, gt=0)
    """Hidden width of the network after each attention, in units of `width`."""
    feed_forward: Literal["gelu", "swiglu"] = "gelu"
    """The network after each attention: plain, or gated (half as many parameters again)."""
    embedding_layers: NonNegativeInt = 1
    """Hidden layers of the network that embeds the features of an object."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout, in training."""
    layer_scale: float | None = Field(default=None, gt=0)
    """Start value of a learned factor on every branch, for deep stacks; null = none."""
    pair_bias: bool = False
    """Whether ln kT, ln z, ln ΔR and ln m² of every pair of objects steer the attention; for
    streams with a four-momentum. The first batch that is trained on standardises them. Costs about
    one layer at 18 objects, more at 100."""
    buckets: NonNegativeInt = 4
    """Sub-batches of events of similar length, which saves computing padding; 1 = trim the batch
    at its longest event, 0 = compute all padding. On a CPU and without pairs, any but 0 computes
    real objects only. The outputs do not depend on it."""


class TransformerBackbone(Backbone):
    """Embed every object and global, let all attend to all, read the event off its own token.

    The tokens of an event are the event token, one per global, the extra tokens that a head gave,
    and the objects of all streams. Every one is marked by the input it comes from and nothing
    else, so permuting objects permutes their embeddings. Objects and extra tokens see each other.
    Pair inputs and four-momenta enter as a bias of the attention.

    Args:
        config: Options.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    Config: ClassVar[type[BackboneConfig]] = TransformerConfig
    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.encoder = TransformerEncoder(
            config.width,
            config.depth,
            config.attention_heads,
            hidden=max(1, round(config.mlp_ratio * config.width)),
            feed_forward=config.feed_forward,
            layer_scale=config.layer_scale,
            dropout=config.dropout,
        )
        self.event_token = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.event_token, std=0.02)
        self.embeddings = nn.ModuleDict()
        self.pair_networks = nn.ModuleDict()
        self.pair_bias: PairBias | None = None
        self.stream_names: tuple[str, ...] = ()
        self.global_names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width D of the embeddings."""
        return self.config.width

    def build(self, layout: InputLayout) -> None:
        """Make the embeddings of these inputs.

        Raises:
            ConfigurationError: If `pair_bias` is asked for and no stream has a four-momentum.
        """
        self.stream_names = tuple(layout.streams)
        self.global_names = tuple(layout.globals)
        for name, width in (*layout.streams.items(), *layout.globals.items()):
            self.embeddings[_key(name)] = _Embedding(width, self.config)
        for name, width in layout.pairs.items():
            heads = self.config.attention_heads
            self.pair_networks[_key(name)] = MLP(width, [32], heads, norm=False)
        if self.config.pair_bias:
            if not layout.p4:
                raise ConfigurationError(
                    "model.backbone.pair_bias: no stream has a four-momentum; declare `p4` in the "
                    "event file, or set pair_bias: false"
                )
            self.pair_bias = PairBias(self.config.attention_heads)

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        """Encode events; see `Backbone.encode`."""
        tokens, present = self._tokens(x, extra_tokens)
        if self._packs(x, tokens, present):
            return self._encode_rows(x, tokens, present, condition, extra_tokens)
        count = tokens.shape[1]
        objects, mask = self._objects(x, tokens)
        if condition is not None:
            tokens, objects = tokens + condition[:, None], objects + condition[:, None]
        per_object = [objects]
        if self.pair_bias is not None:
            momenta, known = self._momenta(x)
            per_object += [momenta, known]
            if self.training:
                self.pair_bias.fit(momenta, mask & known)
        pairs = self._pair_inputs(x)

        def run(mask: Tensor, objects: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            rest = list(others)
            bias: Tensor | None = None
            if self.pair_bias is not None:
                p4, has_p4 = rest.pop(0), rest.pop(0)
                bias = self.pair_bias(p4, mask & has_p4)
            if pairs is not None:
                given = rest.pop(0).movedim(-1, 1)
                bias = given if bias is None else bias + given
            tokens, present = rest
            encoded = self.encoder(objects, mask, bias=bias, tokens=tokens, tokens_mask=present)
            return encoded.objects, encoded.tokens

        encoded, encoded_tokens = run_in_buckets(
            run,
            mask,
            per_object,
            pairs=() if pairs is None else (pairs,),
            events=(tokens, present),
            buckets=self.config.buckets,
        )
        extra = None
        if extra_tokens is not None:
            extra = encoded_tokens[:, count - extra_tokens.shape[1] :]
        return Encoded(
            objects=self._by_stream(x, encoded),
            masks=x.masks,
            event=encoded_tokens[:, 0],
            p4=x.p4,
            extra=extra,
        )

    def _packs(self, x: Inputs, tokens: Tensor, present: Tensor) -> bool:
        """Tell whether only real objects are computed, without padding: on a CPU."""
        plain = self.config.buckets > 0 and self.pair_bias is None and not self.pair_networks
        if not plain or not can_pack(tokens) or not tokens.numel():
            return False
        masks = [present, *(x.masks[name] for name in self.stream_names)]
        return int(torch.cat(masks, 1).sum(1).max()) <= MOST_KEYS

    def _encode_rows(
        self,
        x: Inputs,
        tokens: Tensor,
        present: Tensor,
        condition: Tensor | None,
        extra_tokens: Tensor | None,
    ) -> Encoded:
        """Encode what is real as one list of rows: tokens first, then stream by stream."""
        masks = [present, *(x.masks[name] for name in self.stream_names)]
        mask = torch.cat(masks, 1)
        parts, places, numbers, events, before = [], [], [], [], 0
        for source, own in zip((None, *self.stream_names), masks, strict=True):
            slots = own.shape[1]
            place = own.flatten().nonzero()[:, 0]
            event = torch.div(place, max(slots, 1), rounding_mode="floor")
            if source is None:
                part = tokens.flatten(0, 1).index_select(0, place)
            else:
                part = x.streams[source].flatten(0, 1).index_select(0, place)
                part = self.embeddings[_key(source)](part)
            if condition is not None:
                part = part + condition.index_select(0, event)
            parts.append(part)
            places.append(place)
            events.append(event)
            numbers.append(event * (mask.shape[1] - slots) + before + place)
            before += slots
        number, length = torch.cat(numbers), mask.sum(1).index_select(0, torch.cat(events))
        # Events of one length beside each other, as the attention takes them.
        order = torch.argsort(length * mask.numel() + number)
        packing = Packing.of(mask, number.index_select(0, order))
        rows = self.encoder.within(torch.cat(parts).index_select(0, order), packing)
        rows = rows.index_select(0, torch.argsort(order))
        back = [
            torch.unflatten(
                part.new_zeros((own.numel(), part.shape[1])).index_copy(0, place, part),
                0,
                own.shape,
            )
            for part, place, own in zip(
                rows.split([len(place) for place in places]), places, masks, strict=True
            )
        ]
        extra = None
        if extra_tokens is not None:
            extra = back[0][:, tokens.shape[1] - extra_tokens.shape[1] :]
        return Encoded(
            objects=dict(zip(self.stream_names, back[1:], strict=True)),
            masks=x.masks,
            event=back[0][:, 0],
            p4=x.p4,
            extra=extra,
        )

    def _tokens(self, x: Inputs, extra_tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens beside the objects (B, T, D), and which are present (B, T)."""
        some = next(iter((*x.masks.values(), *x.global_masks.values())))
        batch = some.shape[0]
        always = torch.ones((batch, 1), dtype=torch.bool, device=some.device)
        tokens, present = [self.event_token.expand(batch, 1, -1)], [always]
        for name in self.global_names:
            tokens.append(self.embeddings[_key(name)](x.globals[name])[:, None])
            present.append(x.global_masks[name][:, None])
        if extra_tokens is not None:
            tokens.append(extra_tokens)
            present.append(always.expand(batch, extra_tokens.shape[1]))
        return torch.cat(tokens, 1), torch.cat(present, 1)

    def _objects(self, x: Inputs, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All objects (B, N, D) and their mask (B, N), streams one after the other."""
        if not self.stream_names:
            return tokens[:, :0], tokens[:, :0, 0] > 0
        parts = [self.embeddings[_key(name)](x.streams[name]) for name in self.stream_names]
        masks = [x.masks[name] for name in self.stream_names]
        return (
            (parts[0], masks[0]) if len(parts) == 1 else (torch.cat(parts, 1), torch.cat(masks, 1))
        )

    def _momenta(self, x: Inputs) -> list[Tensor]:
        """Four-momenta (B, N, 4) of all objects, and where there are any (B, N)."""
        momenta, known = [], []
        for name in self.stream_names:
            mask = x.masks[name]
            if name in x.p4:
                momenta.append(x.p4[name])
                known.append(torch.ones_like(mask))
            else:
                momenta.append(x.streams[name].new_zeros((*mask.shape, 4)))
                known.append(torch.zeros_like(mask))
        return [torch.cat(momenta, 1), torch.cat(known, 1)]

    def _pair_inputs(self, x: Inputs) -> Tensor | None:
        """Bias (B, N, N, head) made of the pair features of the streams that have them."""
        bias: Tensor | None = None
        if not self.pair_networks:
            return None
        before, total = 0, sum(x.masks[name].shape[1] for name in self.stream_names)
        for name in self.stream_names:
            here = x.masks[name].shape[1]
            if _key(name) in self.pair_networks:
                part = self.pair_networks[_key(name)](x.pairs[name])
                sides = (before, total - before - here)
                part = functional.pad(part, (0, 0, *sides, *sides))
                bias = part if bias is None else bias + part
            before += here
        return bias

    def _by_stream(self, x: Inputs, objects: Tensor) -> dict[str, Tensor]:
        if len(self.stream_names) == 1:
            return {self.stream_names[0]: objects}
        parts, start = {}, 0
        for name in self.stream_names:
            stop = start + x.masks[name].shape[1]
            parts[name] = objects[:, start:stop]
            start = stop
        return parts


class _Embedding(nn.Module):
    """Features of one input to a token, plus a learned mark of the input."""

    def __init__(self, features: int, config: TransformerConfig) -> None:
        super().__init__()
        self.mark = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.mark, std=0.02)
        self.features: MLP | None = None
        if features:
            hidden = [config.width] * config.embedding_layers
            self.features = MLP(features, hidden, config.width, norm=False, dropout=config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.features is None:
            return self.mark.expand(*x.shape[:-1], -1)
        out: Tensor = self.features(x) + self.mark
        return out


def _key(name: str) -> str:
    """Name of a submodule, which must not be one that torch's modules have already."""
    return f"{name}_input"
