"""`SpanetBackbone`: the whole of SPANet's network as a backbone that its own heads read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset_spanet.network.embedding import Source
from hepset_spanet.network.network import SpanetNetwork, SpanetOutputs
from hepset_spanet.network.topology import Topology
from hepset_spanet.options import SpanetOptions

__all__ = ["SpanetBackbone", "SpanetBackboneConfig", "SpanetEncoded"]


class SpanetBackboneConfig(BackboneConfig):
    """Options of SPANet's network; an imported checkpoint writes them."""

    options: SpanetOptions
    """SPANet's own options, of which those of the architecture are used."""
    topology: Topology
    """Inputs, particles and further outputs."""
    tables: dict[str, tuple[int, ...] | tuple[float, ...]] = Field(default_factory=dict)
    """Constants of the balanced losses that the checkpoint holds, by SPANet's name."""


@dataclass
class SpanetEncoded(Encoded):
    """Embeddings of SPANet's central encoder, and what the whole network gives.

    Attributes:
        network: The network.
        outputs: Its outputs for the batch.
    """

    network: SpanetNetwork | None = None
    outputs: SpanetOutputs = field(default_factory=lambda: SpanetOutputs(torch.empty(0)))


class SpanetBackbone(Backbone):
    """SPANet's embedding, central encoder and branches, as they were trained.

    It takes inputs after the logarithm and standardises them itself, by the moments that the
    checkpoint holds.

    Args:
        config: Options.
    """

    Config: ClassVar[type[BackboneConfig]] = SpanetBackboneConfig
    config: SpanetBackboneConfig
    network: SpanetNetwork

    @property
    def width(self) -> int:
        """Width D of the embeddings."""
        return self.config.options.hidden_dim

    def build(self, layout: InputLayout) -> None:
        """Make the layers.

        Raises:
            ConfigurationError: If the inputs are not those of the topology.
        """
        found = {
            **{n: width + layout.pairs.get(n, 0) for n, width in layout.streams.items()},
            **layout.globals,
        }
        expected = {each.name: each.features for each in self.config.topology.inputs}
        if found != expected:
            raise ConfigurationError(
                f"model.backbone: SPANet's network takes {expected} (input: features), the event "
                f"gives {found}"
            )
        tables = {name: torch.tensor(values) for name, values in self.config.tables.items()}
        self.network = SpanetNetwork(self.config.options, self.config.topology, tables)

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> SpanetEncoded:
        """Encode events, see `Backbone.encode`.

        Raises:
            ConfigurationError: If a head gives a condition or further tokens, which SPANet's
                network has no place for.
        """
        if condition is not None or extra_tokens is not None:
            raise ConfigurationError(
                "model.backbone: SPANet's network takes no condition and no further tokens, but a "
                "head asks for them; choose another backbone, such as transformer"
            )
        outputs = self.network(_sources(x, self.config.topology))
        objects, start = {}, 0
        for each in self.config.topology.inputs:
            length = 1 if each.kind == "global" else x.masks[each.name].shape[1]
            if each.kind != "global":
                part = outputs.sequence[:, start : start + length]
                objects[each.name] = torch.where(x.masks[each.name][..., None], part, 0.0)
            start = start + length
        event = outputs.vectors["EVENT"]
        return SpanetEncoded(objects, x.masks, event, x.p4, None, self.network, outputs)


def _sources(x: Inputs, topology: Topology) -> dict[str, Source]:
    """Bring a batch into the form of the network's inputs."""
    found = {}
    for each in topology.inputs:
        name = each.name
        if each.kind == "global":
            found[name] = Source(x.globals[name][:, None], x.global_masks[name][:, None])
        elif each.kind == "relative":
            found[name] = Source(_pairwise(x, name), x.masks[name])
        else:
            found[name] = Source(x.streams[name], x.masks[name])
    return found


def _pairwise(x: Inputs, name: str) -> Tensor:
    """Features of object c, then those of the pair (r, c), at ``[:, r, c]``."""
    objects = x.streams[name]
    columns = objects[:, None].expand(-1, objects.shape[1], -1, -1)
    pairs = x.pairs.get(name)
    return columns if pairs is None else torch.cat([columns, pairs], -1)
