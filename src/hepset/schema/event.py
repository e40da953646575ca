"""`EventInfo`: what an event is made of.

Streams (sets of like objects) and globals with their features, the decay topology with its
symmetries for one or many processes, and the targets. The model mirrors the event file
``format: hepset-event/1``; other dialects are translated into it (`hepset.dialects`).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from pydantic import (
    Field,
    FiniteFloat,
    GetJsonSchemaHandler,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hepset.errors import did_you_mean
from hepset.schema.base import IDENTIFIER, Model, accept_null
from hepset.schema.symmetry import PermutationGroup, parse_permutations

EVENT_FORMAT: Final = "hepset-event/1"

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

_TransformInput = TransformStep | list[TransformStep] | None


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


def _check_transform(steps: Sequence[TransformStep]) -> None:
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
    transform: tuple[TransformStep, ...] = ()
    """Steps from the physical value to model space, in order: a name, ``{affine: …}``, ``{clip:
    …}``, or a list of them."""
    role: Role | None = None
    """What the number is to kinematics; guessed from the name where null."""
    input: bool = True
    """Whether the backbone sees it. If not, it is kept in the dataset, for the four-momentum, the
    order of objects and figures."""

    @field_validator("transform", mode="before", json_schema_input_type=_TransformInput)
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, str | Mapping | Model) else value

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
        _check_transform(self.transform)
        return self


def _features(value: object) -> object:
    """Accept ``[pt, eta]`` and ``{pt: null}`` beside the full form; φ is circular by default."""
    if isinstance(value, list | tuple):
        value = _named(value, "feature")
    if not isinstance(value, Mapping):
        return value
    completed: dict[object, object] = {}
    for name, feature in value.items():
        full: Any = feature if feature is not None else {}
        if isinstance(full, Mapping) and "transform" not in full:
            guessed = guess_role(str(name))
            if full.get("role", guessed[1] if guessed else None) == "phi":
                full = {**full, "transform": "circular"}
        completed[name] = full
    return completed


_FeaturesInput = dict[str, Feature | None] | list[str]


def _named(names: Sequence[object], what: str) -> dict[object, None]:
    """Return a list of names as a mapping; refuse one that is given twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r}: this {what} is named twice")
    return dict.fromkeys(names)


class Stream(Model):
    """A set of like objects of an event: jets, tracks, constituents."""

    slots: PositiveInt | Literal["auto"] = "auto"
    """Number of padded slots; ``auto`` takes the longest event, found in a counting pass."""
    order: str | None = None
    """Sort objects by this feature before cutting, ``-pt`` for descending; null keeps the order of
    the file."""
    p4: dict[Role, str] | None = None
    """Which features make the four-momentum: role → feature; guessed from names where null."""
    features: dict[str, Feature]
    """Features of one object, in the order of the tensor's last axis."""
    pairs: dict[str, Feature] = Field(default_factory=dict)
    """Features of an ordered pair of objects (SPANet's relative inputs), usually none."""

    _complete = field_validator(
        "features", "pairs", mode="before", json_schema_input_type=_FeaturesInput
    )(_features)

    @model_validator(mode="after")
    def _consistent(self) -> Stream:
        _check_names("feature", [*self.features, *self.pairs])
        if not self.features and not self.pairs:
            raise ValueError("a stream needs at least one feature")
        if self.order is not None and self.order.removeprefix("-") not in self.features:
            name = self.order.removeprefix("-")
            raise ValueError(f"order: no feature {name!r}{did_you_mean(name, self.features)}")
        for role, name in (self.p4 or {}).items():
            if name not in self.features:
                hint = did_you_mean(name, self.features)
                raise ValueError(f"p4.{role}: no feature {name!r}{hint}")
        if self.p4 is not None and not any(set(self.p4) == set(s) for s in P4_SYSTEMS):
            known = "; ".join(", ".join(system) for system in P4_SYSTEMS)
            raise ValueError(f"p4: {sorted(self.p4)} is not a four-momentum; known: {known}")
        return self

    @cached_property
    def momentum(self) -> dict[Role, str] | None:
        """Role → feature of the four-momentum, declared or guessed; None where there is none."""
        if self.p4 is not None:
            return self.p4
        roles = self.roles
        by_role = {role: name for name, (stem, role) in roles.items() if stem == ""}
        for system in P4_SYSTEMS:
            if all(role in by_role for role in system):
                return {role: by_role[role] for role in system}
        return None

    @cached_property
    def roles(self) -> dict[str, tuple[str, Role]]:
        """Feature → (stem, role) of every feature that has a kinematic meaning."""
        return _roles(self.features)


class GlobalInput(Model):
    """One object that an event has once: missing momentum, event-level numbers."""

    features: dict[str, Feature]
    """Features in the order of the tensor's last axis."""

    _complete = field_validator("features", mode="before", json_schema_input_type=_FeaturesInput)(
        _features
    )

    @model_validator(mode="after")
    def _consistent(self) -> GlobalInput:
        _check_names("feature", self.features)
        if not self.features:
            raise ValueError("a global needs at least one feature")
        return self

    @cached_property
    def roles(self) -> dict[str, tuple[str, Role]]:
        """Feature → (stem, role) of every feature that has a kinematic meaning."""
        return _roles(self.features)


class Process(Model):
    """A decay topology: particles, their products, and what may be interchanged."""

    particles: dict[str, dict[str, str | None]]
    """Particle → product → stream the product is found in; null = any stream, counted through."""
    symmetries: dict[str, list[Any]] = Field(default_factory=dict)
    """``event`` or a particle → interchangeable names, ``[[q1, q2]]``; a list of lists in an entry
    is one permutation in disjoint cycles, as in SPANet."""

    @field_validator(
        "particles",
        mode="before",
        json_schema_input_type=dict[str, dict[str, str | None] | list[str]],
    )
    @classmethod
    def _lists_of_products(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {
            name: _named(products, "product") if isinstance(products, list | tuple) else products
            for name, products in value.items()
        }

    @model_validator(mode="after")
    def _consistent(self) -> Process:
        for particle, products in self.particles.items():
            for name in (particle, *products):
                if "/" in name or not name:
                    raise ValueError(f"{name!r}: a particle or product is text without '/'")
            if not products:
                raise ValueError(f"particle {particle!r} has no products")
        for name in self.symmetries:
            if name != "event" and name not in self.particles:
                known = ["event", *self.particles]
                raise ValueError(f"symmetries: no particle {name!r}{did_you_mean(name, known)}")
        self.event_group  # noqa: B018  the groups raise where an entry is not a permutation
        for particle in self.particles:
            self.product_group(particle)
        self._check_interchangeable()
        return self

    def _check_interchangeable(self) -> None:
        """Refuse to interchange particles whose products do not correspond one to one."""
        for first, *others in self.event_group.orbit_names:
            mine = self.particles[first]
            for other in others:
                theirs = self.particles[other]
                shuffled = mine.keys() == theirs.keys() and list(mine) != list(theirs)
                streams = zip(mine.values(), theirs.values(), strict=False)
                apart = any(a is not None and b is not None and a != b for a, b in streams)
                if len(mine) != len(theirs) or shuffled or apart:
                    raise ValueError(
                        f"symmetries.event: {first!r} with the products "
                        f"{_products(mine)} and {other!r} with "
                        f"{_products(theirs)} cannot be interchanged: their "
                        "products correspond in order, each pair in the same stream"
                    )

    @cached_property
    def event_group(self) -> PermutationGroup:
        """The group of interchangeable particles."""
        entries = self.symmetries.get("event", [])
        return parse_permutations(entries, list(self.particles), where="symmetries.event")

    def product_group(self, particle: str) -> PermutationGroup:
        """The group of interchangeable products of one particle."""
        entries = self.symmetries.get(particle, [])
        where = f"symmetries.{particle}"
        return parse_permutations(entries, list(self.particles[particle]), where=where)


def _products(products: Mapping[str, str | None]) -> str:
    return ", ".join(name + (f" ({stream})" if stream else "") for name, stream in products.items())


class Target(Model):
    """Something to be learnt that the files state: a class or a number."""

    kind: Literal["classification", "regression"]
    """``classification``: an integer label, −1 = none. ``regression``: a number, NaN = none."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the labels; null = resolved from the data."""
    unit: str | None = None
    """Unit of a regression target."""
    transform: tuple[TransformStep, ...] = ()
    """Steps from the physical value to model space, for regression."""
    stream: str | None = None
    """The stream of a target that every object has; null = one per event."""
    role: Role | None = None
    """What the number is to kinematics; guessed from the name where null."""

    _one_or_many = field_validator(
        "transform", mode="before", json_schema_input_type=_TransformInput
    )(Feature._one_or_many.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if self.kind == "classification":
            if self.transform or self.unit:
                raise ValueError("a classification target has no unit and no transform")
            if self.classes is not None and len(set(self.classes)) != len(self.classes):
                raise ValueError(f"classes {list(self.classes)!r}: a name is given twice")
            if self.classes is not None and len(self.classes) < 2:
                raise ValueError("a classification needs at least two classes")
        else:
            if self.classes is not None:
                raise ValueError("a regression target has no classes")
            _check_transform(self.transform)
            if any(
                isinstance(step, AffineStep) and step.affine == "auto" for step in self.transform
            ):
                raise ValueError("a target is standardised anyway; affine: auto is for inputs")
        return self


class Assignment(NamedTuple):
    """One particle of one process, as a target of the batch."""

    tensor: str
    """Name of the target tensor, ``target/assignment/[<process>/]<particle>``."""
    process: str
    particle: str
    products: dict[str, str | None]


class EventInfo(Model):
    """What an event has: streams, globals, processes with their symmetries, targets."""

    format: Literal["hepset-event/1"] = EVENT_FORMAT
    """Format of the event file; a newer one is refused."""
    streams: dict[str, Stream] = Field(default_factory=dict)
    """Sets of objects, in file order."""
    globals: dict[str, GlobalInput] = Field(default_factory=dict)
    """Objects an event has once."""
    processes: dict[str, Process] = Field(default_factory=dict)
    """Topology by process; a single unnamed process has the name ``""``."""
    targets: dict[str, Target] = Field(default_factory=dict)
    """Targets by name, ``signal`` or ``t1/mass``."""
    shared_objects: bool = False
    """Whether two particles may share an object, as in boosted topologies."""
    columns: dict[str, str | None] = Field(default_factory=dict)
    """Further columns of the files that expressions use by their own names: column → the stream
    whose objects they belong to, if they hold lists. They are not kept in the dataset."""

    @field_validator(
        "columns", mode="before", json_schema_input_type=dict[str, str | None] | list[str]
    )
    @classmethod
    def _list_of_columns(cls, value: object) -> object:
        return _named(value, "column") if isinstance(value, list | tuple) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the file as it may be written: with the single process at the top."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        single = Process.model_json_schema()["properties"]
        for key in ("particles", "symmetries"):
            schema["properties"][key] = single[key]
        accept_null(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _single_process(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        document = {key: part for key, part in value.items() if part is not None}
        found = document.get("format", EVENT_FORMAT)
        if found != EVENT_FORMAT and str(found).startswith("hepset-event/"):
            raise ValueError(f"format {found!r} is newer than this hepset reads ({EVENT_FORMAT})")
        if "particles" in document:
            if "processes" in document:
                raise ValueError("give either 'particles' (one process) or 'processes', not both")
            process = {"particles": document.pop("particles")}
            if "symmetries" in document:
                process["symmetries"] = document.pop("symmetries")
            document["processes"] = {"": process}
        return document

    @model_validator(mode="after")
    def _consistent(self) -> EventInfo:
        _check_names("stream or global", [*self.streams, *self.globals])
        if not self.streams and not self.globals:
            raise ValueError("an event needs at least one stream or global")
        for process, topology in self.processes.items():
            if "/" in process:
                raise ValueError(f"process {process!r}: a name is text without '/'")
            for particle, products in topology.particles.items():
                for product, stream in products.items():
                    if stream is not None and stream not in self.streams:
                        hint = did_you_mean(stream, self.streams)
                        raise ValueError(f"{particle}.{product}: no stream {stream!r}{hint}")
        if self.processes and not self.streams:
            raise ValueError("particles are made of objects of a stream, and no stream is declared")
        for column, stream in self.columns.items():
            if stream is not None and stream not in self.streams:
                hint = did_you_mean(stream, self.streams)
                raise ValueError(f"columns.{column}: no stream {stream!r}{hint}")
        for name, target in self.targets.items():
            if name.split("/", 1)[0] in {"assignment", "segmentation"} or not name.strip("/"):
                raise ValueError(f"target {name!r}: this name is reserved")
            if target.stream is not None and target.stream not in self.streams:
                hint = did_you_mean(target.stream, self.streams)
                raise ValueError(f"target {name!r}: no stream {target.stream!r}{hint}")
        return self

    def assignments(self) -> Iterator[Assignment]:
        """Every particle of every process with the name of its target tensor."""
        for process, topology in self.processes.items():
            for particle, products in topology.particles.items():
                path = f"{process}/{particle}" if process else particle
                yield Assignment(f"target/assignment/{path}", process, particle, products)

    @property
    def process_names(self) -> list[str]:
        """Process names in the order of the integer in the tensor ``process``."""
        return list(self.processes)

    def _repr_html_(self) -> str:
        """Return tables of inputs, topology and targets for a notebook."""
        rows = []
        for kind, inputs in (("stream", self.streams), ("global", self.globals)):
            for name, block in inputs.items():
                for feature, spec in block.features.items():
                    steps = " → ".join(map(str, spec.transform)) or "–"
                    if not spec.input:
                        steps += " (no input)"
                    unit = spec.unit or "file units"
                    rows.append((kind, name, feature, unit, steps))
        parts = [_table(("kind", "input", "feature", "unit", "transform"), rows)]
        topology = [
            (
                a.process or "–",
                a.particle,
                ", ".join(
                    product + (f" ∈ {stream}" if stream else "")
                    for product, stream in a.products.items()
                ),
            )
            for a in self.assignments()
        ]
        if topology:
            parts.append(_table(("process", "particle", "products"), topology))
        targets = [
            (name, t.kind, ", ".join(t.classes or ()) or t.unit or "–", t.stream or "event")
            for name, t in self.targets.items()
        ]
        if targets:
            parts.append(_table(("target", "kind", "classes or unit", "per"), targets))
        return "".join(parts)


def _roles(features: Mapping[str, Feature]) -> dict[str, tuple[str, Role]]:
    found: dict[str, tuple[str, Role]] = {}
    for name, feature in features.items():
        guessed = guess_role(name)
        if feature.role is not None:
            found[name] = (
                guessed[0] if guessed and guessed[1] == feature.role else "",
                feature.role,
            )
        elif guessed is not None:
            found[name] = guessed
    return found


def _check_names(what: str, names: Mapping[str, object] | list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not IDENTIFIER.match(name):
            raise ValueError(f"{name!r}: the name of a {what} is made of letters, digits and '_'")
        if name in seen:
            raise ValueError(f"{name!r}: this {what} is named twice")
        seen.add(name)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"
