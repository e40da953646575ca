"""The steps of a transform, from physical values to model space: each formula in one place.

A *curve* is a step that is not linear and has no constants: ``log1p``, ``log``, ``asinh``, or one
of a plugin. `AffineStep` and `ClipStep` are fixed steps with constants. ``standardise`` takes its
constants from the training split and ``circular`` makes two columns of one; both are known by
name.

Formulas take the namespace of the array library as `xp` (numpy or torch), so that the statistics of
a dataset, the layers of a model and the exported graph share them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, FiniteFloat, field_validator

from hepset.errors import PluginError, UnknownComponentError
from hepset.plugins import registry
from hepset.schema.base import Model

__all__ = [
    "Affine",
    "AffineStep",
    "ClipStep",
    "Curve",
    "FixedStep",
    "Transform",
    "TransformParts",
    "TransformStep",
    "apply_steps",
    "check_transform",
    "curve",
    "steps_before_scaling",
    "transform_domain",
    "transform_parts",
]

_EXPONENT_LIMIT: Final = 80.0
"""Largest exponent of an inverse logarithm: exp(80) = 5.5e34 is still finite in float32."""


class Curve(ABC):
    """A step that is not linear: strictly rising, without constants, and invertible.

    A plugin adds one as a component of the kind ``transform_steps``; its short name is what event
    files write. Methods take and return arrays of any shape of the library `xp`.
    """

    above: ClassVar[float] = -math.inf
    """Exclusive lower bound of the values it takes."""
    floor: ClassVar[float] = -math.inf
    """What a model takes instead of anything smaller, so that it stays finite; above `above`."""
    advice: ClassVar[str] = "use the transform asinh"
    """What a user with values at or below the bound can do."""

    @abstractmethod
    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401  arrays of any library
        """Return the value in model space; NaN or −∞ at and below the bound."""

    @abstractmethod
    def inverse(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return the physical value of a value in model space, finite in float32."""

    @abstractmethod
    def slope(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return the derivative of the inverse at a value in model space."""


def _exponent(y: Any, xp: Any) -> Any:  # noqa: ANN401
    return xp.clip(y, -_EXPONENT_LIMIT, _EXPONENT_LIMIT)


class Log1p(Curve):
    """ln(1 + x), x > −1."""

    above = -1.0
    floor = -1 + 2.0**-23
    """The smallest x above −1 that float32 distinguishes: log1p is −15.9 there."""

    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return ln(1 + x)."""
        return xp.log1p(x)

    def inverse(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return exp(y) − 1."""
        return xp.expm1(_exponent(y, xp))

    def slope(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return exp(y)."""
        return xp.exp(_exponent(y, xp))


class Log(Curve):
    """ln x, x > 0."""

    above = 0.0
    floor = 1e-30
    """ln is −69.1 there."""
    advice = "use the transform log1p or asinh"

    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return ln x."""
        return xp.log(x)

    def inverse(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return exp(y)."""
        return xp.exp(_exponent(y, xp))

    slope = inverse


class Asinh(Curve):
    """asinh(x / 2), any x: a logarithm with sign."""

    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return asinh(x / 2)."""
        return xp.asinh(x / 2)

    def inverse(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return 2 sinh(y)."""
        return 2 * xp.sinh(_exponent(y, xp))

    def slope(self, y: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return 2 cosh(y)."""
        return 2 * xp.cosh(_exponent(y, xp))


CURVES: Final[Mapping[str, Curve]] = {"log1p": Log1p(), "log": Log(), "asinh": Asinh()}
"""The core's curves by name; plugins are asked for others only."""


def curve(name: str) -> Curve:
    """Return a curve by the name that event files write.

    Raises:
        UnknownComponentError: If neither the core nor a plugin provides it.
    """
    if name in CURVES:
        return CURVES[name]
    found: Curve = registry().load("transform_steps", name)()
    return found


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

    @property
    def constants(self) -> Affine:
        """The shift and the scale.

        Raises:
            ValueError: If they are still to be taken from the training events.
        """
        if self.affine == "auto":
            raise ValueError(
                "affine: auto takes its constants from the training events: a model is built with "
                "the event and the contract of a dataset"
            )
        return self.affine

    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return (x − subtract) · multiply, in the type of `x`."""
        del xp
        return (x - self.constants.subtract) * self.constants.multiply

    def before(self, bound: float) -> float:
        """Return the value before the step that gives `bound` after it."""
        return bound / self.constants.multiply + self.constants.subtract


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

    def forward(self, x: Any, xp: Any) -> Any:  # noqa: ANN401
        """Return the values with the nearest bound in place of those outside; NaN stays NaN."""
        return xp.clip(x, *self.clip)


FixedStep = AffineStep | ClipStep
"""A step with constants."""


def _known(name: str) -> str:
    if name not in {"standardise", "circular"}:
        try:
            curve(name)
        except (PluginError, UnknownComponentError) as problem:
            raise ValueError(str(problem)) from problem
    return name


TransformName = Annotated[str, AfterValidator(_known)]
"""A step known by its name, a curve or ``standardise``, ``circular``.

``log1p``: ln(1 + x), x > −1. ``log``: ln x, x > 0. ``asinh``: asinh(x / 2), any x, a logarithm
with sign. ``standardise``: (x − mean) / width of the training split. ``circular``: an angle in rad
becomes (cos x, sin x) and stands alone.
"""

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

    before: tuple[FixedStep, ...]
    """Fixed steps on the physical value."""
    shape: str
    """The one step that is not linear: a curve, ``circular``, or ``plain`` for none."""
    between: tuple[FixedStep, ...]
    """Fixed steps before the standardisation."""
    standardise: bool
    """Whether the mean and width of the training split are taken out."""
    after: tuple[FixedStep, ...]
    """Fixed steps at the end."""

    @property
    def curve(self) -> Curve | None:
        """The curve, None for ``plain`` and ``circular``."""
        return None if self.shape in {"plain", "circular"} else curve(self.shape)


def transform_parts(steps: Sequence[TransformStep]) -> TransformParts:
    """Divide the steps of a valid transform by what they need."""
    fixed: list[list[FixedStep]] = [[], [], []]
    shape = "plain"
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


def steps_before_scaling(steps: Sequence[TransformStep]) -> tuple[TransformStep, ...]:
    """Return the steps before ``standardise``, where the mean and the width are taken.

    Fixed steps at the end of a transform without ``standardise`` act before it would; none of an
    angle, which is not standardised.
    """
    if "circular" in steps:
        return ()
    parts = transform_parts(steps)
    middle = () if parts.curve is None else (parts.shape,)
    return (*parts.before, *middle, *parts.between)


def apply_steps(x: Any, steps: Iterable[TransformStep], xp: Any) -> Any:  # noqa: ANN401
    """Apply curves and fixed steps one after the other, in the type of `x`.

    Args:
        x: Values of any shape.
        steps: Steps without ``standardise`` and ``circular``.
        xp: Namespace of the array library of `x`.

    Raises:
        ValueError: If the constants of a step are not known yet.
    """
    for step in steps:
        x = curve(step).forward(x, xp) if isinstance(step, str) else step.forward(x, xp)
    return x


def transform_domain(steps: Sequence[TransformStep]) -> tuple[str, float] | None:
    """Return which curve bounds the physical values, and the exclusive lower bound.

    None where every value is allowed, as after a clip above the bound.

    Raises:
        ValueError: If a clip leaves nothing above the bound.
    """
    parts = transform_parts(steps)
    bound = -math.inf if parts.curve is None else parts.curve.above
    for step in reversed(parts.before):
        if isinstance(step, AffineStep):
            bound = step.before(bound)
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
