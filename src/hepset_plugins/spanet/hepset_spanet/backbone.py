"""`SpanetBackbone`: the whole of SPANet's network as a backbone that its own heads read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.schema.statistics import Statistics
from hepset_spanet.names import target_name
from hepset_spanet.network.describing import describe_topology
from hepset_spanet.network.embedding import Source
from hepset_spanet.network.network import SpanetNetwork, SpanetOutputs
from hepset_spanet.network.topology import Topology
from hepset_spanet.options import SpanetOptions

__all__ = ["SpanetBackbone", "SpanetBackboneConfig", "SpanetEncoded", "read_network"]


class SpanetBackboneConfig(BackboneConfig):
    """Options of SPANet's network."""

    options: SpanetOptions = SpanetOptions()
    """SPANet's own options, of which those of the architecture are used."""
    topology: Topology | None = None
    """Inputs, particles and further outputs, as an imported checkpoint has them; null takes those
    of the event, and the targets that heads ask for. A regression learns the absolute error where
    the event says ``residuals: laplace`` (SPANet's ``laplacian``)."""
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
    """SPANet's embedding, central encoder and branches.

    An imported network takes inputs after the logarithm and standardises them itself, by the
    moments that the checkpoint holds; a new one takes them as the event's transforms leave them.

    Args:
        config: Options.

    Attributes:
        network: The network.
        topology: What it is for.
    """

    Config: ClassVar[type[BackboneConfig]] = SpanetBackboneConfig
    capabilities = frozenset({"condition", "extra_tokens"})
    config: SpanetBackboneConfig
    network: SpanetNetwork
    topology: Topology

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
        self.topology = self.config.topology or describe_topology(layout)
        expected = {each.name: each.features for each in self.topology.inputs}
        if found != expected:
            raise ConfigurationError(
                f"model.backbone: SPANet's network takes {expected} (input: features), the event "
                f"gives {found}"
            )
        tables = {name: torch.tensor(values) for name, values in self.config.tables.items()}
        self.network = SpanetNetwork(self.config.options, self.topology, tables)
        if layout.statistics is not None:
            self._set_moments(layout.statistics)

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> SpanetEncoded:
        """Encode events, see `Backbone.encode`."""
        outputs = self.network(_sources(x, self.topology), condition, extra_tokens)
        objects, start = {}, 0
        for each in self.topology.inputs:
            length = 1 if each.kind == "global" else x.masks[each.name].shape[1]
            if each.kind != "global":
                part = outputs.sequence[:, start : start + length]
                objects[each.name] = torch.where(x.masks[each.name][..., None], part, 0.0)
            start = start + length
        event = outputs.vectors["EVENT"]
        extra = None if extra_tokens is None else outputs.extra
        return SpanetEncoded(
            objects, x.masks, event, x.p4, extra, network=self.network, outputs=outputs
        )

    def _set_moments(self, statistics: Statistics) -> None:
        """Start regressions from the moments of their targets; loaded weights overwrite them."""
        for key, kind in self.topology.regressions.items():
            known = statistics.tensors.get(f"target/{target_name(key)}")
            if known is None:
                continue
            column = (known.transformed if kind == "log_gaussian" else known.columns).get("")
            if column is None or not column.count:
                continue
            self.network.regression_decoder.set_moments(key, column.mean, column.width)


def read_network(head: str, encoded: Encoded) -> tuple[SpanetNetwork, SpanetOutputs]:
    """Return SPANet's network and its outputs, for a head.

    Args:
        head: Name of the head, for messages.
        encoded: What the backbone gave.

    Raises:
        ConfigurationError: If the backbone is another one.
    """
    if not isinstance(encoded, SpanetEncoded) or encoded.network is None:
        raise ConfigurationError(
            f"model.heads.{head}: this head reads SPANet's network; it needs "
            "model.backbone.name: spanet"
        )
    return encoded.network, encoded.outputs


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
