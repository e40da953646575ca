"""The data configuration of weaver-core 0.4 and 0.5, as typed models.

Unknown keys and values of the wrong form are refused by name; weaver itself ignores unknown keys
below the top level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from hepset.errors import EventInfoError
from hepset.schema.base import Model


class VariableScale(Model):
    """How one input variable is standardised, clipped and padded."""

    length: PositiveInt | None = None
    """Length of its group; null = one value per event."""
    pad_mode: Literal["constant", "wrap"] = "constant"
    """What follows the last object: a constant, or the objects again from the first."""
    center: float | Literal["auto"] | None = None
    """What is subtracted; null = no subtraction, no scale and no clipping; auto = the median."""
    scale: float = 1.0
    """What the difference is multiplied by."""
    min: float | None = -5.0
    """Lower clip, after the scale."""
    max: float | None = 5.0
    """Upper clip, after the scale."""
    pad_value: float = 0.0
    """Value behind the last object, in the scaled variable."""

    @model_validator(mode="after")
    def _bounds(self) -> VariableScale:
        if self.min is not None and self.max is not None and not self.min < self.max:
            raise ValueError(f"clip_min {self.min:g} is not below clip_max {self.max:g}")
        return self


class Preprocess(Model):
    """How variables are standardised."""

    method: str = "manual"
    """``manual``, or a string that begins with ``auto``."""
    data_fraction: float = Field(default=0.1, gt=0, le=1)
    """Part of each file, from its beginning, that ``auto`` looks at."""
    params: dict[str, VariableScale] | None = None
    """Variable → its scale; replaces what the inputs say."""

    @property
    def automatic(self) -> bool:
        """Whether variables without a stated centre are standardised by their percentiles."""
        return self.method.lower().startswith("auto")


class Variable(Model):
    """One line of ``vars``."""

    name: str
    """Column or new variable."""
    stated: tuple[float | Literal["auto"] | None, ...] = ()
    """Subtract, multiply, lower clip, upper clip, pad value, as far as they are given."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, list | tuple):
            if not 1 <= len(value) <= 6:
                raise ValueError(
                    "a variable is [name, subtract_by, multiply_by, clip_min, clip_max, "
                    f"pad_value], found {len(value)} entries"
                )
            return {"name": value[0], "stated": tuple(value[1:])}
        return value


class InputGroup(Model):
    """One input tensor of the network."""

    length: PositiveInt | None
    """Objects per event; null = one value per event."""
    vars: tuple[Variable, ...] = Field(min_length=1)
    """Its variables, in order."""
    pad_mode: Literal["constant", "wrap"] = "constant"
    """What follows the last object."""

    @field_validator("pad_mode", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class Labels(Model):
    """What is learnt."""

    type: Literal["simple", "custom"]
    """``simple``: a list of columns of which exactly one is 1. ``custom``: name → expression."""
    value: list[str] | dict[str, str]
    """The columns, or the expressions."""
    names: list[str] | None = None
    """Names of the classes of labels per object."""

    @model_validator(mode="after")
    def _consistent(self) -> Labels:
        if self.type == "simple" and not isinstance(self.value, list):
            raise ValueError("type 'simple' takes a list of columns as value")
        if self.type == "custom" and not isinstance(self.value, dict):
            raise ValueError("type 'custom' takes a mapping, label → expression, as value")
        if not self.value:
            raise ValueError("value names no label")
        if self.type == "simple" and len(self.value) < 2:
            raise ValueError(
                f"type 'simple' needs at least two columns to distinguish, found {self.value}; for "
                "one column that is 0 or 1 write type: custom, value: {label: <column>}"
            )
        if isinstance(self.value, list) and len(set(self.value)) < len(self.value):
            raise ValueError(f"value names a column twice: {self.value}")
        return self


class Weights(Model):
    """How often events are shown: resampling, not weights of the loss."""

    use_precomputed_weights: bool
    """Whether the probabilities are the product of columns."""
    weight_branches: list[str] | None = None
    """These columns."""
    reweight_method: Literal["flat", "ref"] | None = None
    """Flat in the variables, or with the spectrum of the first class."""
    reweight_vars: dict[str, list[float]] | None = None
    """Two variables with the edges of their bins."""
    reweight_classes: list[str] | None = None
    """Columns or new variables that are 1 for the events of a class."""
    class_weights: list[float] | None = None
    """Share of each class; null = equal."""
    reweight_threshold: float = Field(default=10.0, ge=0, le=100)
    """Percentile of the rare bins."""
    reweight_discard_under_overflow: bool = True
    """Whether events outside the bins are dropped."""
    reweight_basewgt: str | None = None
    """Expression of a further factor."""
    reweight_hists: dict[str, list[list[float]]] | None = None
    """Result of an earlier making of weights."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: object) -> object:
        return _without_null(value)

    @model_validator(mode="after")
    def _complete(self) -> Weights:
        if self.use_precomputed_weights:
            if not self.weight_branches:
                raise ValueError("use_precomputed_weights needs weight_branches")
            return self
        for key in ("reweight_method", "reweight_vars", "reweight_classes"):
            if not getattr(self, key):
                raise ValueError(f"{key} is required, or use_precomputed_weights: true")
        variables, classes = self.reweight_vars or {}, self.reweight_classes or []
        if len(variables) != 2:
            raise ValueError(f"reweight_vars takes exactly two variables, found {len(variables)}")
        if self.class_weights is not None and len(self.class_weights) != len(classes):
            raise ValueError(
                f"{len(classes)} reweight_classes, but {len(self.class_weights)} class_weights"
            )
        return self


class Bucketing(Model):
    """Batches of events of like length."""

    var: str
    """Variable that the events are sorted by."""
    bins: int | list[float]
    """Edges, or the number of equally filled bins."""


class WeaverConfig(Model):
    """A data configuration of weaver."""

    treename: str | None = None
    """Tree of ROOT files; null = the only one."""
    branch_magic: dict[str, str] = Field(default_factory=dict)
    """String → string: what a branch is called in the files."""
    file_magic: dict[str, dict[str, float]] = Field(default_factory=dict)
    """New variable → regular expression of the file's path → value; 0 where none fits."""
    selection: str | None = None
    """Which events are trained on and validated."""
    test_time_selection: str | None = None
    """Which events are predicted; null = the same."""
    preprocess: Preprocess = Preprocess()
    """How variables are standardised."""
    new_variables: dict[str, str] = Field(default_factory=dict)
    """New variable → expression."""
    inputs: dict[str, InputGroup] = Field(min_length=1)
    """Input tensors of the network."""
    labels: Labels
    """What is learnt."""
    observers: list[str] = Field(default_factory=list)
    """Columns that predictions carry along."""
    monitor_variables: list[str] = Field(default_factory=list)
    """Columns that training steps see."""
    weights: Weights | None = None
    """How often events are shown."""
    bucketing: Bucketing | None = None
    """Batches of events of like length."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, value: object) -> object:
        document = _without_null(value)
        if isinstance(document, dict) and isinstance(document.get("preprocess"), Mapping):
            document["preprocess"] = _without_null(document["preprocess"])
        return document

    @field_validator("new_variables", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        """Take a number for the text it was written as."""
        if not isinstance(value, Mapping):
            return value
        return {k: str(v) if isinstance(v, int | float) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> WeaverConfig:
        if self.observers and self.monitor_variables:
            raise ValueError("observers and monitor_variables exclude each other")
        for name, group in self.inputs.items():
            if name.endswith("_mask") and group.pad_mode != "constant":
                raise ValueError(f"inputs.{name}: the pad_mode of a mask is constant")
        self.scales  # noqa: B018  raises where groups contradict each other
        return self

    @property
    def scales(self) -> dict[str, VariableScale]:
        """How each input variable is scaled, complete.

        Raises:
            ValueError: If two groups scale one variable differently, or ``params`` lacks one.
        """
        if self.preprocess.params is not None:
            for name, group in self.inputs.items():
                for variable in group.vars:
                    if variable.name not in self.preprocess.params:
                        raise ValueError(
                            f"inputs.{name}: preprocess.params does not list {variable.name!r}"
                        )
            return self.preprocess.params
        found: dict[str, VariableScale] = {}
        default = "auto" if self.preprocess.automatic else None
        keys = ("center", "scale", "min", "max", "pad_value")
        for name, group in self.inputs.items():
            for variable in group.vars:
                stated: dict[str, Any] = dict(zip(keys, variable.stated, strict=False))
                stated.setdefault("center", default)
                if stated.get("scale", 1.0) is None:
                    stated["scale"] = 1.0
                try:
                    scale = VariableScale(length=group.length, pad_mode=group.pad_mode, **stated)
                except ValidationError as problem:
                    first = problem.errors()[0]
                    place = "".join(f"{key}: " for key in first["loc"])
                    reason = first["msg"].removeprefix("Value error, ")
                    raise ValueError(
                        f"inputs.{name}.vars: {variable.name!r}: {place}{reason}"
                    ) from None
                if scale.center == "auto" and variable.name.endswith("_mask"):
                    scale = scale.model_copy(update={"center": None})
                known = found.setdefault(variable.name, scale)
                if known != scale:
                    raise ValueError(
                        f"inputs.{name}: {variable.name!r} is scaled or padded differently in "
                        f"another group: {_difference(known, scale)}"
                    )
        return found


def parse_weaver(document: Mapping[str, Any], where: str) -> WeaverConfig:
    """Validate a data configuration.

    Raises:
        EventInfoError: Listing every key that does not fit.
    """
    return WeaverConfig.parse(document, where, EventInfoError)


def _without_null(value: object) -> Any:  # noqa: ANN401  YAML content
    if not isinstance(value, Mapping):
        return value
    return {key: part for key, part in value.items() if part is not None}


def _difference(one: VariableScale, other: VariableScale) -> str:
    mine, theirs = one.model_dump(), other.model_dump()
    return "; ".join(
        f"{key} {mine[key]!r} there, {theirs[key]!r} here"
        for key in mine
        if mine[key] != theirs[key]
    )
