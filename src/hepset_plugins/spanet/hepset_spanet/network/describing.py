"""The topology of a network that is to be trained, from the event and what heads want of it."""

from __future__ import annotations

from collections.abc import Mapping

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import InputLayout
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo, Process
from hepset.schema.tensors import Labels
from hepset_spanet.names import spanet_key
from hepset_spanet.network.topology import (
    InputKind,
    Particle,
    RegressionKind,
    SpanetInput,
    Topology,
    regression_kind,
)

__all__ = ["describe_particles", "describe_topology", "sources_of"]


def describe_topology(layout: InputLayout) -> Topology:
    """Return what a network is for: all inputs and particles, and the targets that heads require.

    Args:
        layout: Widths of the inputs, and the event where it is known.

    Raises:
        ConfigurationError: If there are several processes, or SPANet has no place for a target.
    """
    inputs = []
    for name, width in layout.streams.items():
        kind: InputKind = "relative" if name in layout.pairs else "sequential"
        features = width + layout.pairs.get(name, 0)
        inputs.append(SpanetInput(name=name, kind=kind, features=features))
    for name, width in layout.globals.items():
        inputs.append(SpanetInput(name=name, kind="global", features=width))
    if layout.event is None:
        return Topology(inputs=tuple(inputs))
    particles, permutations = describe_particles(layout.event, "model.backbone")
    regressions: dict[str, RegressionKind] = {}
    classifications: dict[str, int] = {}
    contract = layout.contract or Contract(tensors={})
    for name, target in layout.event.targets.items():
        tensor = f"target/{name}"
        if tensor not in contract or not contract[tensor].required:
            continue
        key = spanet_key(name, [each.name for each in particles])
        if key is None or target.stream is not None:
            continue
        if target.kind == "regression":
            regressions[key] = regression_kind(target)
        else:
            classes = _classes(contract, tensor)
            if classes is None:
                raise ConfigurationError(
                    f"model.backbone: the number of classes of {tensor} is unknown; name them in "
                    f"the event file (targets.{name}.classes) or prepare the dataset, which "
                    "counts them"
                )
            classifications[key] = classes
    return Topology(
        inputs=tuple(inputs),
        particles=particles,
        permutations=permutations,
        regressions=regressions,
        classifications=classifications,
    )


def describe_particles(
    event: EventInfo, where: str
) -> tuple[tuple[Particle, ...], tuple[tuple[int, ...], ...]]:
    """Return the particles and the permutations of them that change nothing.

    Raises:
        ConfigurationError: If there are several processes.
    """
    if len(event.processes) > 1:
        raise ConfigurationError(
            f"{where}: SPANet knows one topology, the event has the processes "
            f"{', '.join(event.processes)}; the head 'assignment' takes several"
        )
    process = next(iter(event.processes.values()), Process(particles={}))
    particles = tuple(
        Particle(name=name, products=tuple(products), group=process.product_group(name).elements)
        for name, products in process.particles.items()
    )
    return particles, process.event_group.elements


def sources_of(event: EventInfo) -> Mapping[str, tuple[str | None, ...]]:
    """Return the stream of each product, by particle."""
    return {each.particle: tuple(each.products.values()) for each in event.assignments()}


def _classes(contract: Contract, tensor: str) -> int | None:
    found = [rule.classes for rule in contract[tensor].rules if isinstance(rule, Labels)]
    return next((count for count in found if count is not None), None)
