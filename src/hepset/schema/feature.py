"""`Feature`: one number of an object or an event, its unit, its role and its transform."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    FiniteFloat,
    field_validator,
    model_validator,
)

from hepset.schema.base import Model

TransformName = Literal["log1p", "log", "asinh", "standardise", "circular"]
"""Steps from physical to model space, applied in the order given.

``log1p``: ln(1 + x), x > −1. ``log``: ln x, x > 0. ``asinh``: asinh(x / 2), any x, a logarithm
with sign. ``standardise``: (x − mean) / width of the training split. ``circular``: an angle in rad
becomes (cos x, sin x) and stands alone.
"""

_LOGARITHMS: Final[dict[str, float]] = {"log1p": -1.0, "log": 0.0, "asinh": -math.inf}
"""Exclusive lower bound of the values that a logarithm takes."""

Role = Literal[
    "pt", "eta", "phi", "mass", "energy", "px", "py", "pz", "sin_phi", "cos_phi", "rapidity"
]
"""What a number is to kinematics, so that rotations and reflections turn it correctly."""

ROLES: tuple[Role, ...] = (
    "sin_phi",
    "cos_phi",
    "pt",
    "eta",
    "phi",
    "mass",
    "energy",
    "px",
    "py",
    "pz",
    "rapidity",
)

_ALIASES: dict[str, Role] = {
    "e": "energy",
    "m": "mass",
    "sinphi": "sin_phi",
    "cosphi": "cos_phi",
    "met": "pt",
    "y": "rapidity",
}

P4_SYSTEMS: tuple[tuple[Role, ...], ...] = (
    ("pt", "eta", "phi", "mass"),
    ("pt", "eta", "phi", "energy"),
    ("px", "py", "pz", "energy"),
    ("pt", "eta", "sin_phi", "cos_phi", "mass"),
    ("pt", "eta", "sin_phi", "cos_phi", "energy"),
)
"""The sets of roles that make a four-momentum."""


def guess_role(name: str) -> tuple[str, Role] | None:
    """Split a name such as ``neutrino_px`` into its stem and its kinematic role.

    Returns:
        ``("neutrino", "px")``, or ``("", "pt")`` for a bare ``pt``; None where the name does not
        end in a role.
    """
    folded = name.casefold().rsplit("/", 1)[-1]
    if folded in _ALIASES:
        return "", _ALIASES[folded]
    for role in ROLES:
        if folded == role:
            return "", role
        if folded.endswith("_" + role):
            return folded[: -len(role) - 1], role
    return None


class Affine(Model):
    """A shift and a scale."""

    subtract: FiniteFloat = 0.0
    """What is subtracted, in the unit of the values at this place."""
    multiply: FiniteFloat = 1.0
    """What the difference is multiplied by; not 0."""

    @field_validator("multiply")
    @classmethod
    def _invertible(cls, value: float) -> float:
        if value == 0:
            raise ValueError("a multiplication by 0 leaves nothing to learn from")
        return value


class AffineStep(Model):
    """``{affine: {subtract: 1.7, multiply: 0.7}}``: (x − subtract) · multiply, in float32."""

    affine: Affine | Literal["auto"]
    """The shift and the scale; ``auto`` takes them from the training events: the median, and one
    over the larger distance from it to the percentiles 16 and 84."""

    def __str__(self) -> str:
        """Return the step as a formula."""
        if self.affine == "auto":
            return "(x - median) / width"
        return f"(x - {self.affine.subtract:g}) * {self.affine.multiply:g}"


class ClipStep(Model):
    """``{clip: [-5, 5]}``: values outside become the nearest bound; null leaves a side open."""

    clip: tuple[float | None, float | None]
    """Lowest and highest value; the inverse leaves values as they are."""

    def __str__(self) -> str:
        """Return the step as a function."""
        low, high = ("–" if bound is None else f"{bound:g}" for bound in self.clip)
        return f"clip({low}, {high})"

    @field_validator("clip")
    @classmethod
    def _ordered(
        cls, value: tuple[float | None, float | None]
    ) -> tuple[float | None, float | None]:
        if any(bound is not None and math.isnan(bound) for bound in value):
            raise ValueError("a bound is not a number; write null for none")
        low, high = (
            bound if bound is not None and math.isfinite(bound) else None for bound in value
        )
        if low is None and high is None:
            raise ValueError("at least one bound is a number")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"the lower bound {low:g} is not below the upper bound {high:g}")
        return low, high


TransformStep = TransformName | AffineStep | ClipStep
"""One step of a transform."""


def _one_or_many(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Mapping | Model) else value


Transform = Annotated[
    tuple[TransformStep, ...],
    BeforeValidator(
        _one_or_many, json_schema_input_type=TransformStep | list[TransformStep] | None
    ),
]
"""Steps from physical to model space; in a file one step, a list of them, or null for none."""


class TransformParts(NamedTuple):
    """The steps of a transform by what they need, in the order in which they act."""

    before: tuple[AffineStep | ClipStep, ...]
    """Fixed steps on the physical value."""
    shape: Literal["plain", "log1p", "log", "asinh", "circular"]
    """The one step that is not linear."""
    between: tuple[AffineStep | ClipStep, ...]
    """Fixed steps before the standardisation."""
    standardise: bool
    """Whether the mean and width of the training split are taken out."""
    after: tuple[AffineStep | ClipStep, ...]
    """Fixed steps at the end."""


def transform_parts(steps: Sequence[TransformStep]) -> TransformParts:
    """Divide the steps of a valid transform by what they need."""
    fixed: list[list[AffineStep | ClipStep]] = [[], [], []]
    shape: Any = "plain"
    place = 0
    for step in steps:
        if not isinstance(step, str):
            fixed[place].append(step)
        elif step == "standardise":
            place = 2
        else:
            shape, place = step, 1
    # Where there is no step between them, it does not matter that fixed steps come first.
    if shape == "plain":
        fixed[0], fixed[1] = [], fixed[0] + fixed[1]
    before, between, after = (tuple(part) for part in fixed)
    return TransformParts(before, shape, between, "standardise" in steps, after)


def transform_domain(steps: Sequence[TransformStep]) -> tuple[str, float] | None:
    """Return which logarithm bounds the physical values, and the exclusive lower bound.

    None where every value is allowed, as after a clip above the bound.

    Raises:
        ValueError: If a clip leaves nothing above the bound.
    """
    parts = transform_parts(steps)
    bound = _LOGARITHMS.get(parts.shape, -math.inf)
    for step in reversed(parts.before):
        if isinstance(step, AffineStep):
            assert step.affine != "auto"
            bound = bound / step.affine.multiply + step.affine.subtract
            continue
        low, high = step.clip
        if high is not None and high <= bound:
            raise ValueError(f"the clip at {high:g} leaves no value that {parts.shape} can take")
        if low is not None and low > bound:
            return None
    return None if bound == -math.inf else (parts.shape, bound)


def check_transform(steps: Sequence[TransformStep]) -> None:
    """Refuse steps that do not fit together."""
    shown = [step if isinstance(step, str) else step.model_dump() for step in steps]
    named = [step for step in steps if isinstance(step, str)]
    if len(set(named)) != len(named):
        raise ValueError(f"transform {shown!r} names a step twice")
    if "circular" in named and len(steps) > 1:
        raise ValueError("transform 'circular' stands alone: it already gives (cos, sin)")
    if "standardise" in named[:-1]:
        raise ValueError("transform 'standardise' comes last; only affine and clip may follow")
    if len([step for step in named if step != "standardise"]) > 1:
        raise ValueError(f"transform {shown!r}: one of log1p, log, asinh is enough")
    automatic = [s for s in steps if isinstance(s, AffineStep) and s.affine == "auto"]
    if len(automatic) > 1 or (automatic and "standardise" in named):
        raise ValueError(f"transform {shown!r}: one step that takes its scale from data is enough")
    for step in transform_parts(steps).before:
        if not isinstance(step, AffineStep):
            continue
        if step.affine == "auto":
            raise ValueError(f"transform {shown!r}: affine: auto comes after the logarithm")
        if step.affine.multiply < 0:
            raise ValueError(
                f"transform {shown!r}: a negative factor before a logarithm turns its domain "
                "around; derive the feature with the other sign"
            )
    transform_domain(steps)


class Feature(Model):
    """One number of an object, of a pair of objects, or of the event."""

    unit: str | None = None
    """Unit of the values, such as ``GeV``, ``mm`` or ``rad``; null where the file states none."""
    transform: Transform = ()
    """Steps from the physical value to model space, in order: a name, ``{affine: …}``, ``{clip:
    …}``, or a list of them."""
    role: Role | None = None
    """What the number is to kinematics; guessed from the name where null."""
    input: bool = True
    """Whether the backbone sees it. If not, it is kept in the dataset, for the four-momentum, the
    order of objects and figures."""

    def with_affine(self, constants: Affine) -> Feature:
        """Return the feature with constants in the place of ``affine: auto``."""
        steps = tuple(
            AffineStep(affine=constants)
            if isinstance(step, AffineStep) and step.affine == "auto"
            else step
            for step in self.transform
        )
        return self.model_copy(update={"transform": steps})

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        check_transform(self.transform)
        return self
