"""`AssignmentConfig`: options of the head ``assignment``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from hepset.interfaces.head import HeadConfig

__all__ = ["AssignmentConfig"]


class AssignmentConfig(HeadConfig):
    """Options of the assignment."""

    hidden: PositiveInt = 32
    """Width of what is computed per tuple of objects."""
    mass_features: bool | None = None
    """Whether a tuple's score may see the masses and distances of its members; null = where a
    stream that products come from has a four-momentum. Without them the score cannot sculpt a
    mass peak in backgrounds as directly; a transformer's `pair_bias` still shows those of pairs
    to its attention."""
    likelihood: Literal["joint", "separate"] = "joint"
    """What trains: the probability of all particles' tuples together, among combinations without a
    common object, or that of each particle alone. ``joint`` is for processes of two to four
    particles that may not share objects, from their best 64, 16 or 8 tuples; others are separate
    in any case. Probabilities of the result are of the same kind. Scores learnt jointly need the
    exact selection: for a greedy one, also by others in an exported model, learn ``separate``."""
    particle_queries: bool = False
    """Whether interchangeable particles, which share one network, have an output each, so that
    they can specialise; else they share the output too, at half the cost for two."""
    combination: Literal["min", "softmin", "mean"] = "min"
    """How the permutations of interchangeable particles enter the separate likelihood; only with
    `particle_queries` do they differ. The joint one is a sum over permutations."""
    partial_products: bool = True
    """Whether a particle with some of its products missing trains, through the probability that
    its known ones are right, whatever the others; false is SPANet's way."""
    partial_events: bool = True
    """Whether events in which a particle is missing train."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent γ of a factor (1 − p)^γ that turns the loss to difficult events."""
    detection_loss_weight: float = Field(default=0.5, ge=0)
    """Factor of the loss of the probability that a particle is there with all its products; 0 =
    do not predict it."""
    overlap_loss_weight: float = Field(default=0.0, ge=0)
    """Factor of exp(-J²) for interchangeable particles that both are there, with the
    Jensen-Shannon divergence J of their distributions over tuples: they are to look at different
    objects. Needs `particle_queries`."""
    balance_particles: bool = False
    """Whether events count more the rarer the set of particles is that they have."""
    balance_objects: bool = False
    """Whether events count more the rarer their number of objects is."""
    parity: Literal["none", "spanet"] = "none"
    """``spanet`` scales the losses as SPANet does: sums over a batch are divided by the number of
    events in which the particle is there, those of the detection too; only complete particles
    train; balanced weights have the mean one over kinds of events instead of over events; and the
    penalty of overlaps has no gradient."""
    regressions: tuple[str, ...] = ()
    """Regression targets of particles and products, ``t1/mass`` and ``t1/q1/pt``. They are learnt
    from the true objects and predicted for the chosen ones, in any order of what may be
    interchanged."""
    regression_loss_weight: float = Field(default=1.0, ge=0)
    """Factor of their losses."""
    classifications: tuple[str, ...] = ()
    """Classification targets of particles and products, likewise."""
    classification_loss_weight: float = Field(default=1.0, ge=0)
    """Factor of their losses."""
    selection: Literal["exact", "greedy"] = "exact"
    """How one assignment is chosen: the jointly most probable one, or the best tuple first."""
    selection_width: PositiveInt = 64
    """Tuples per particle that ``exact`` combines before it has to list everything that could be
    better."""
    use_detection: bool = False
    """Whether the selection may leave a particle out because it probably is not there; else only
    where no tuple is left. Needs a `detection_loss_weight`."""
    max_tuples: PositiveInt = 6000
    """Most tuples per particle. Where there are more, each product keeps the objects with the
    largest scores of its own, as many as fit, and learns these scores too."""

    @model_validator(mode="after")
    def _consistent(self) -> AssignmentConfig:
        if self.overlap_loss_weight > 0 and not self.particle_queries:
            raise ValueError(
                "overlap_loss_weight: without particle_queries interchangeable particles share "
                "one distribution, which nothing can drive apart; set particle_queries: true"
            )
        if self.use_detection and self.detection_loss_weight == 0:
            raise ValueError(
                "use_detection: with detection_loss_weight: 0 no detection is learnt; give it a "
                "weight, or leave use_detection out"
            )
        return self
