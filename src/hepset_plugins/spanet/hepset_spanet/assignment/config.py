"""`AssignmentConfig`: options of the head ``assignment``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from hepset.interfaces.head import HeadConfig

__all__ = ["AssignmentConfig"]


class AssignmentConfig(HeadConfig):
    """Options of the assignment."""

    hidden: PositiveInt = 32
    """Width of what is computed per tuple of objects."""
    mass_features: bool | None = None
    """Whether a tuple's score may see the masses and distances of its members; null = where a
    stream that products come from has a four-momentum. Without them the score cannot sculpt a
    mass peak in backgrounds as directly."""
    particle_queries: bool = False
    """Whether interchangeable particles, which share one network, have an output each, so that
    they can specialise; else they share the output too, at half the cost for two."""
    combination: Literal["min", "softmin", "mean"] = "min"
    """How the permutations of interchangeable particles enter the loss; only with
    `particle_queries` do they differ."""
    partial_products: bool = True
    """Whether a particle with some of its products missing trains, through the probability that
    its known ones are right, whatever the others; false is SPANet's way."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent γ of a factor (1 − p)^γ that turns the loss to difficult events."""
    detection_loss_weight: float = Field(default=0.5, ge=0)
    """Factor of the loss of the probability that a particle is there with all its products; 0 =
    do not predict it."""
    selection: Literal["exact", "greedy"] = "exact"
    """How one assignment is chosen: the jointly most probable one, or the best tuple first."""
    selection_width: PositiveInt = 64
    """Tuples per particle that ``exact`` combines before it has to search; in an exported model
    ``certified`` says whether they were enough."""
    use_detection: bool = False
    """Whether the selection may leave a particle out because it probably is not there; else only
    where no tuple is left."""
    max_tuples: PositiveInt = 6000
    """Most tuples per particle. Where there are more, each product keeps the objects with the
    largest scores of its own, as many as fit, and learns these scores too."""
