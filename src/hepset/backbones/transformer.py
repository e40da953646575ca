"""`TransformerBackbone`: self-attention among all objects and globals of an event."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.nn.attention import GivenBias, TransformerEncoder
from hepset.nn.mlp import MLP
from hepset.nn.packed import on_real_objects
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
    condition: tuple[str, ...] = ()
    """Globals that condition every layer: their features scale and shift what the attention and the
    network after it see (adaptive layer norm). Such as the jet whose tracks are the stream."""
    skip_padding: bool = True
    """Whether a CPU computes real objects only. The outputs do not depend on it. A GPU computes all
    slots in any case, and trims nothing that it would have to be waited for."""

    @model_validator(mode="before")
    @classmethod
    def _former_buckets(cls, options: Any) -> Any:  # noqa: ANN401  what a file holds
        """Take ``buckets``, by which padding was computed (0) or left out (any other number)."""
        if isinstance(options, dict) and "buckets" in options:
            options = dict(options)
            options.setdefault("skip_padding", options.pop("buckets") != 0)
        return options


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
    capabilities = frozenset({"condition", "extra_tokens"})
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
            skip_padding=config.skip_padding,
            condition_width=config.width if config.condition else 0,
        )
        self.condition_embedding: MLP | None = None
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
            ConfigurationError: If `pair_bias` is asked for and no stream has a four-momentum, or
                a global of `condition` is not there.
        """
        self.stream_names = tuple(layout.streams)
        self.global_names = tuple(layout.globals)
        for name, width in (*layout.streams.items(), *layout.globals.items()):
            self.embeddings[_key(name)] = _Embedding(width, self.config)
        for name, width in layout.pairs.items():
            heads = self.config.attention_heads
            self.pair_networks[_key(name)] = MLP(width, [32], heads, norm=False)
        if self.config.condition:
            for name in self.config.condition:
                if name not in layout.globals:
                    raise ConfigurationError(
                        f"model.backbone.condition: the event has no global {name!r}"
                        f"{did_you_mean(name, layout.globals)}; it has "
                        f"{', '.join(layout.globals) or 'none'}"
                    )
            given = sum(layout.globals[name] + 1 for name in self.config.condition)
            hidden = self.config.width
            self.condition_embedding = MLP(given, [hidden], hidden, norm=False)
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
        count = tokens.shape[1]
        objects, mask = self._objects(x, tokens)
        if condition is not None:
            tokens, objects = tokens + condition[:, None], objects + condition[:, None]
        encoded = self.encoder(
            objects,
            mask,
            bias=self._bias(x, mask),
            tokens=tokens,
            tokens_mask=present,
            condition=self._condition(x),
        )
        extra = None
        if extra_tokens is not None:
            extra = encoded.tokens[:, count - extra_tokens.shape[1] :]
        return Encoded(
            objects=self._by_stream(x, encoded.objects),
            masks=x.masks,
            event=encoded.tokens[:, 0],
            p4=x.p4,
            extra=extra,
        )

    def _condition(self, x: Inputs) -> Tensor | None:
        """What conditions the layers (B, D): features of globals, and whether they are there."""
        if self.condition_embedding is None:
            return None
        parts = []
        for name in self.config.condition:
            present = x.global_masks[name][:, None]
            parts += [torch.where(present, x.globals[name], 0.0), present.to(x.globals[name].dtype)]
        found: Tensor = self.condition_embedding(torch.cat(parts, 1))
        return found

    def _bias(self, x: Inputs, mask: Tensor) -> _PairwiseBias | None:
        """What steers the attention between objects."""
        if self.pair_bias is None and not self.pair_networks:
            return None
        momenta = known = None
        if self.pair_bias is not None:
            momenta, known = self._momenta(x)
            known = mask & known
            if self.training:
                self.pair_bias.fit(momenta, known)
        given = self._pair_inputs(x)
        return _PairwiseBias(
            self.pair_bias,
            momenta,
            known,
            None if given is None else GivenBias(given.movedim(-1, 1)),
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
        parts = [
            self._embedded(self.embeddings[_key(name)], x.streams[name], x.masks[name])
            for name in self.stream_names
        ]
        masks = [x.masks[name] for name in self.stream_names]
        return (
            (parts[0], masks[0]) if len(parts) == 1 else (torch.cat(parts, 1), torch.cat(masks, 1))
        )

    def _embedded(self, embedding: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        """Embed objects, padded ones only where that is asked for, (B, N, D)."""
        if self.config.skip_padding:
            return on_real_objects(embedding, x, mask)
        out: Tensor = embedding(x)
        return out

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


class _PairwiseBias:
    """Bias of the attention by momenta (B, N, 4), and a given one beside it."""

    def __init__(
        self,
        network: PairBias | None,
        momenta: Tensor | None,
        known: Tensor | None,
        given: GivenBias | None,
    ) -> None:
        self.network = network
        self.momenta = momenta
        self.known = known
        self.given = given

    def everywhere(self) -> Tensor:
        """Return the bias between all slots, (B, head, N, N)."""
        given = None if self.given is None else self.given.everywhere()
        return self._sum(self.momenta, self.known, given)

    def among(self, events: Tensor, slots: Tensor) -> Tensor:
        """Return that between slots (E, L) of events (E,), (E, head, L, L)."""
        where = events[:, None], slots
        momenta = None if self.momenta is None else self.momenta[where]
        known = None if self.known is None else self.known[where]
        given = None if self.given is None else self.given.among(events, slots)
        return self._sum(momenta, known, given)

    def _sum(self, momenta: Tensor | None, known: Tensor | None, given: Tensor | None) -> Tensor:
        if self.network is None:
            assert given is not None
            return given
        found: Tensor = self.network(momenta, known)
        return found if given is None else found + given


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
