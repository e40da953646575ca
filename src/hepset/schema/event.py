"""`EventInfo`: what an event is made of.

Streams (sets of like objects) and globals with their features, the decay topology with its
symmetries for one or many processes, and the targets. The model mirrors the event file
``format: hepset-event/1``; other dialects are translated into it (`hepset.dialects`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hepset.errors import did_you_mean
from hepset.schema.base import IDENTIFIER, Model, accept_null
from hepset.schema.feature import P4_SYSTEMS, Feature, Role, guess_role, roles_of
from hepset.schema.steps import AffineStep, Transform, check_transform
from hepset.schema.symmetry import PermutationGroup, parse_permutations
from hepset.tables import Table

EVENT_FORMAT: Final = "hepset-event/1"


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


class Quantile(Model):
    """As many slots as hold all objects of a fraction of the events."""

    quantile: Annotated[float, Field(gt=0, le=1)]
    """Fraction of the selected events that are not cut; 0.99 cuts the longest hundredth."""


class Stream(Model):
    """A set of like objects of an event: jets, tracks, constituents."""

    slots: PositiveInt | Literal["auto"] | Quantile = "auto"
    """Number of padded slots. ``auto`` takes the longest event, ``{quantile: 0.99}`` the longest
    but for a hundredth, both found in a counting pass; what is cut is counted and reported."""
    storage: Literal["auto", "jagged", "fixed"] = "auto"
    """How a dataset stores the objects: ``jagged`` real ones only, ``fixed`` all slots. ``auto``
    is jagged above 4096 slots, and where counted slots are less than a quarter full."""
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

    @model_serializer(mode="wrap")
    def _usual_storage_goes_unsaid(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not asked for: descriptions keep the digest that they had before."""
        found: dict[str, Any] = dump(self)
        if self.storage == "auto":
            found.pop("storage", None)
        return found

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
                    raise ValueError(f"{name!r}: a particle or product is a string without '/'")
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
    """Something to be learnt that the files state: a class, a number, an index or a mask."""

    kind: Literal["classification", "regression", "index", "mask"]
    """``classification``: an integer label, −1 = none. ``regression``: a number, NaN = none.
    ``index``: an integer without classes, such as the number of a vertex or a particle; any
    negative one = none. ``mask``: true or false."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the labels; null = resolved from the data."""
    unit: str | None = None
    """Unit of a regression target."""
    transform: Transform = ()
    """Steps from the physical value to model space, for regression."""
    residuals: Literal["gaussian", "laplace"] | None = None
    """Distribution of a regression's residuals, where the event's file states one: heads that take
    it from the event learn the squared or the absolute error. Null: not stated. The head
    ``regression`` has its option ``loss``."""
    stream: str | None = None
    """The stream of a target that every object has; null = one per event."""
    pairs: str | None = None
    """The stream of a target that every ordered pair of objects has, shape (event, object,
    object)."""
    axes: tuple[str, ...] = ()
    """Names of the axes of a target after that of the events, such as ``[segment, jets]``. One that
    is called like a stream has an entry per object, and follows when objects are sorted or cut."""
    sizes: dict[str, PositiveInt] = Field(default_factory=dict)
    """Sizes of the axes that are no stream's."""
    role: Role | None = None
    """What the number is to kinematics; guessed from the name where null."""

    @model_serializer(mode="wrap")
    def _usual_axes_go_unsaid(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not asked for: descriptions keep the digest that they had before."""
        found: dict[str, Any] = dump(self)
        return {k: v for k, v in found.items() if v or k not in {"pairs", "axes", "sizes"}}

    @property
    def own_axes(self) -> tuple[str, ...]:
        """Axes of a target that is neither one per event nor one per object."""
        return (self.pairs, self.pairs) if self.pairs is not None else self.axes

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        given = [n for n in ("stream", "pairs", "axes") if getattr(self, n) not in {None, ()}]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: a target has one of them")
        for axis in self.sizes:
            if axis not in self.axes:
                raise ValueError(f"sizes: no axis {axis!r}{did_you_mean(axis, self.axes)}")
        if self.kind in {"index", "mask"}:
            stated = (self.transform, self.unit, self.residuals, self.classes, self.role)
            if any(stated):
                raise ValueError(f"a target of kind {self.kind} has no classes, unit or transform")
        elif self.kind == "classification":
            if self.transform or self.unit or self.residuals:
                raise ValueError("a classification target has no unit, transform or residuals")
            if self.classes is not None and len(set(self.classes)) != len(self.classes):
                raise ValueError(f"classes {list(self.classes)!r}: a name is given twice")
            if self.classes is not None and len(self.classes) < 2:
                raise ValueError("a classification needs at least two classes")
        else:
            if self.classes is not None:
                raise ValueError("a regression target has no classes")
            check_transform(self.transform)
            if any(
                isinstance(step, AffineStep) and step.affine == "auto" for step in self.transform
            ):
                raise ValueError("a target is standardised anyway; affine: auto is for inputs")
        return self


ASSIGNMENT = "target/assignment/"
"""Start of the names of the tensors that say which objects are the products of a particle."""


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
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
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
                raise ValueError(f"process {process!r}: a name is a string without '/'")
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
            for stream in (target.stream, target.pairs):
                if stream is not None and stream not in self.streams:
                    hint = did_you_mean(stream, self.streams)
                    raise ValueError(f"target {name!r}: no stream {stream!r}{hint}")
            self._check_axes(name, target)
        return self

    def _check_axes(self, name: str, target: Target) -> None:
        for axis in dict.fromkeys(target.axes):
            if axis in {"event", "feature", "product"} or not IDENTIFIER.match(axis):
                raise ValueError(f"target {name!r}: an axis cannot be called {axis!r}")
            if (axis in self.streams) == (axis in target.sizes):
                known = [*self.streams, *target.sizes]
                raise ValueError(
                    f"target {name!r}: axis {axis!r} "
                    + (
                        "is a stream's, whose slots are its size; leave it out of sizes"
                        if axis in self.streams
                        else f"is no stream's: give its size, sizes: {{{axis}: …}}"
                        f"{did_you_mean(axis, known)}"
                    )
                )
            if axis in self.globals:
                raise ValueError(f"target {name!r}: {axis!r} is a global, which has no axis")

    def assignments(self) -> Iterator[Assignment]:
        """Every particle of every process with the name of its target tensor."""
        for process, topology in self.processes.items():
            for particle, products in topology.particles.items():
                path = f"{process}/{particle}" if process else particle
                yield Assignment(f"{ASSIGNMENT}{path}", process, particle, products)

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
        columns = ("kind", "input", "feature", "unit", "transform")
        parts = [Table("Inputs", columns, tuple(rows))]
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
        parts.append(Table("Topology", ("process", "particle", "products"), tuple(topology)))
        targets = [
            (
                name,
                t.kind,
                ", ".join(t.classes or ()) or t.unit or "–",
                " × ".join(t.own_axes) or t.stream or "event",
            )
            for name, t in self.targets.items()
        ]
        head = ("target", "kind", "classes or unit", "per")
        parts.append(Table("Targets", head, tuple(targets)))
        return "".join(part.to_html() for part in parts)


def _roles(features: Mapping[str, Feature]) -> dict[str, tuple[str, Role]]:
    return roles_of({name: feature.role for name, feature in features.items()})


def _check_names(what: str, names: Mapping[str, object] | list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not IDENTIFIER.match(name):
            raise ValueError(f"{name!r}: the name of a {what} is made of letters, digits and '_'")
        if name in seen:
            raise ValueError(f"{name!r}: this {what} is named twice")
        seen.add(name)
