"""`TensorSpec`: what one named array looks like and what it must obey."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from hepset.arrays import missing_value
from hepset.schema.base import Model
from hepset.schema.feature import Feature

TensorKind = Literal[
    "stream", "mask", "pairs", "global", "target", "index", "weight", "process", "prediction"
]
"""``stream`` (event, object, feature), ``mask``, ``pairs`` (event, object, object, feature),
``global`` (event, feature), ``target`` a label or number, ``index`` an assignment target,
``weight``, ``process``, ``prediction`` what a head puts out."""


class Finite(Model):
    """Real slots hold finite numbers."""

    rule: Literal["finite"] = "finite"
    allow_nan: bool = False
    """Whether NaN means "missing" (regression targets); infinity is refused either way."""


class Domain(Model):
    """Values of real slots lie where the declared logarithm exists."""

    rule: Literal["domain"] = "domain"
    feature: str
    """Column the rule is about; empty for a tensor without features."""
    above: float
    """Exclusive lower bound: −1 for ``log1p``, 0 for ``log``, moved by fixed steps before it."""
    transform: str
    """The transform that asks for it."""


MOST_CLASSES: Final = 10_000
"""Classes that are counted where the event names none: more are identifiers (``kind: index``)."""


class Labels(Model):
    """Integers are a class, 0 to classes − 1, or −1 = missing."""

    rule: Literal["labels"] = "labels"
    classes: int | None = None
    """Number of classes, null until resolved from the data."""


class Index(Model):
    """Integers point at real objects, or are −1 = missing; no object twice in one row."""

    rule: Literal["index"] = "index"
    products: tuple[str, ...]
    """Names of the columns."""
    streams: tuple[str | None, ...]
    """Stream each product counts in; null = through `order`'s slots one after the other."""
    order: tuple[str, ...]
    """The declared streams in file order."""


class OneHot(Model):
    """Exactly one entry of the last axis is one, the others are zero."""

    rule: Literal["one_hot"] = "one_hot"


class NonNegative(Model):
    """No value is below zero."""

    rule: Literal["non_negative"] = "non_negative"


Rule = Annotated[
    Finite | Domain | Labels | Index | OneHot | NonNegative, Field(discriminator="rule")
]


class TensorSpec(Model):
    """One named array: axes, dtype, features with units, mask, fill value and rules."""

    name: str
    """Name in batches, datasets and graphs: ``jets``, ``jets.mask``, ``target/signal``."""
    kind: TensorKind
    """What the tensor is for."""
    dims: tuple[str, ...]
    """Names of the axes; ``event`` first."""
    shape: tuple[int | None, ...]
    """Sizes of the axes; null for ``event`` and for what is resolved from the data."""
    dtype: Literal["float32", "float64", "int64", "int16", "bool"]
    """Element type in batches. Files may be narrower; a lossy conversion is a violation."""
    features: dict[str, Feature] = Field(default_factory=dict)
    """Columns of the last axis, or the one key ``""`` for a single number with unit/transform."""
    mask: str | None = None
    """Tensor that says which slots are real."""
    required: bool = False
    """Whether a batch without it is refused (targets: only for training)."""
    wanted_by: tuple[str, ...] = ()
    """Who asked for it: the event, or the names of heads."""
    rules: tuple[Rule, ...] = ()
    """What the values must obey."""

    @property
    def columns(self) -> list[str]:
        """Feature names of the last axis; empty for a tensor without a feature axis."""
        return [name for name in self.features if name]

    @property
    def is_table(self) -> bool:
        """Whether it is a target with axes of its own, such as (event, segment, jets).

        Such a one is stored with all slots, and rearranged along every axis that is a stream's.
        """
        return self.kind == "target" and len(self.dims) > 1 and self.mask is None

    @property
    def fill(self) -> float:
        """Value of padded or missing entries: 1 of weights, 0 of inputs, else `missing_value`."""
        if self.kind == "weight":
            return 1.0
        missing = self.kind in {"index", "process", "target"}
        return float(missing_value(self.dtype)) if missing else 0.0

    @property
    def event_shape(self) -> tuple[int | None, ...]:
        """Shape of one event, without the ``event`` axis."""
        return self.shape[1:]

    def describe(self) -> str:
        """Return one line: name, axes with sizes, dtype."""
        axes = ", ".join(
            dim if size is None else f"{dim}: {size}"
            for dim, size in zip(self.dims, self.shape, strict=True)
        )
        return f"{self.name} ({axes}) {self.dtype}"
