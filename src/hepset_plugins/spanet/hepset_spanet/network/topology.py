"""`Topology`: what a SPANet network is built for, as plain data."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from hepset.schema.base import Model
from hepset.schema.event import Target

__all__ = ["InputKind", "Particle", "RegressionKind", "SpanetInput", "Topology", "regression_kind"]

InputKind = Literal["sequential", "relative", "global"]
RegressionKind = Literal["gaussian", "laplacian", "log_gaussian"]


def regression_kind(target: Target) -> RegressionKind:
    """Return SPANet's type of a regression target, see `hepset_spanet.event_file`."""
    if target.residuals == "laplace":
        return "laplacian"
    return "log_gaussian" if "asinh" in target.transform else "gaussian"


class SpanetInput(Model):
    """One input of the network."""

    name: str
    """Name of the stream or global."""
    kind: InputKind
    """``relative`` inputs have features of pairs of objects."""
    features: int = Field(gt=0)
    """Number of features; of a relative input those of objects and those of pairs together."""


class Particle(Model):
    """One particle of the event."""

    name: str
    """Name of the particle."""
    products: tuple[str, ...] = Field(min_length=1)
    """Its decay products in order."""
    group: tuple[tuple[int, ...], ...]
    """Array forms of the permutations that leave the particle as it is, the identity included."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        positions = list(range(len(self.products)))
        if any(sorted(element) != positions for element in self.group) or not self.group:
            raise ValueError(f"{self.name}: group: not permutations of {len(positions)} products")
        return self


class Topology(Model):
    """Inputs, particles and further outputs, in the order of the checkpoint."""

    inputs: tuple[SpanetInput, ...] = Field(min_length=1)
    """In the order in which they are concatenated."""
    particles: tuple[Particle, ...] = ()
    """In the order of the branches."""
    permutations: tuple[tuple[int, ...], ...] = ((),)
    """Array forms of the event's group, in the order of the checkpoint."""
    regressions: dict[str, RegressionKind] = Field(default_factory=dict)
    """SPANet's key → its type, in the order of the heads."""
    classifications: dict[str, int] = Field(default_factory=dict)
    """SPANet's key → number of classes, in the order of the heads."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if all(each.kind == "global" for each in self.inputs):
            raise ValueError("inputs: at least one is sequential or relative")
        positions = list(range(len(self.particles)))
        if any(sorted(element) != positions for element in self.permutations):
            raise ValueError(f"permutations: not permutations of {len(positions)} particles")
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """The inputs whose objects can be assigned, in the order of their positions."""
        return tuple(each.name for each in self.inputs if each.kind != "global")
