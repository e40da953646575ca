"""`Contract`: all tensors of a batch with their rules, compiled from an event and its heads.

The contract travels: it is stored in the dataset, the checkpoint, the predictions and the ONNX
file, and parts whose contracts do not fit refuse each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field

from hepset.errors import ContractError
from hepset.plugins import registry
from hepset.schema.base import Model
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature
from hepset.schema.steps import Affine, transform_domain
from hepset.schema.tensors import (
    Domain,
    Finite,
    Index,
    Labels,
    Rule,
    TensorSpec,
)
from hepset.tables import Table

if TYPE_CHECKING:
    from hepset.batch import EventBatch
    from hepset.schema.report import Report

CONTRACT_FORMAT: Final = 1


class Contract(Model):
    """The tensors of a batch by name, and which index tensors may not share objects."""

    format: Literal[1] = CONTRACT_FORMAT
    """Format of this model where it is stored."""
    tensors: dict[str, TensorSpec] = Field(default_factory=dict)
    """By name, inputs first."""
    exclusive: tuple[tuple[str, ...], ...] = ()
    """Groups of index tensors of one process: no two may point at one object."""

    def __getitem__(self, name: str) -> TensorSpec:
        """Return the spec of one tensor."""
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        """Whether the contract knows a tensor."""
        return name in self.tensors

    def of_kind(self, *kinds: str) -> list[TensorSpec]:
        """The tensors of some kinds, in order."""
        return [spec for spec in self.tensors.values() if spec.kind in kinds]

    @property
    def slots(self) -> dict[str, int | None]:
        """Slots of each stream; null until resolved."""
        return {spec.name: spec.shape[1] for spec in self.of_kind("stream")}

    @property
    def resolved(self) -> bool:
        """Whether every size but the number of events is known."""
        return all(None not in spec.event_shape for spec in self.tensors.values())

    def check(
        self,
        batch: EventBatch,
        *,
        strict: bool = False,
        training: bool = True,
        raw: bool = False,
    ) -> Report:
        """Check a batch against every rule and report all violations at once.

        Args:
            batch: Events of one or several sources.
            strict: Raise where a violation refuses the data.
            training: Whether tensors that heads learn from are required.
            raw: Whether the batch comes straight from a reader, see `hepset.check.check_batch`.

        Raises:
            ContractError: In strict mode, listing every violation.
        """
        from hepset.check import check_batch  # noqa: PLC0415  the rules on arrays need numpy

        report = check_batch(self, batch, training=training, raw=raw)
        if strict:
            report.raise_if_bad()
        return report

    def merge(self, other: Contract) -> Contract:
        """Return both contracts as one; a tensor is required where either asks for it.

        Raises:
            ContractError: Where the two describe one tensor differently.
        """
        merged = dict(self.tensors)
        for name, wanted in other.tensors.items():
            known = merged.get(name)
            if known is None:
                merged[name] = wanted
                continue
            if (known.dims, known.dtype) != (wanted.dims, wanted.dtype) or any(
                a is not None and b is not None and a != b
                for a, b in zip(known.shape, wanted.shape, strict=True)
            ):
                raise ContractError(
                    f"{name}: {', '.join(known.wanted_by)} describe {known.describe()}, "
                    f"but {', '.join(wanted.wanted_by)} need {wanted.describe()}"
                )
            rules = (*known.rules, *(rule for rule in wanted.rules if rule not in known.rules))
            merged[name] = known.model_copy(
                update={
                    "shape": tuple(
                        b if a is None else a
                        for a, b in zip(known.shape, wanted.shape, strict=True)
                    ),
                    "required": known.required or wanted.required,
                    "wanted_by": tuple(dict.fromkeys((*known.wanted_by, *wanted.wanted_by))),
                    "rules": rules,
                }
            )
        groups = tuple(dict.fromkeys((*self.exclusive, *other.exclusive)))
        return Contract(tensors=merged, exclusive=groups)

    def resolve(
        self,
        *,
        slots: Mapping[str, int] | None = None,
        classes: Mapping[str, int] | None = None,
        affine: Mapping[tuple[str, str], Affine] | None = None,
    ) -> Contract:
        """Fill in what only the data tell.

        Args:
            slots: Number of slots by stream.
            classes: Number of classes by target tensor (``target/signal``).
            affine: Constants of ``affine: auto`` by tensor and feature.
        """
        slots, classes, affine = slots or {}, classes or {}, affine or {}
        tensors = {}
        for name, spec in self.tensors.items():
            shape = tuple(
                slots.get(dim) if size is None and dim != "event" else size
                for dim, size in zip(spec.dims, spec.shape, strict=True)
            )
            rules = tuple(
                rule.model_copy(update={"classes": classes[name]})
                if isinstance(rule, Labels) and rule.classes is None and name in classes
                else rule
                for rule in spec.rules
            )
            features = {
                feature: described.with_affine(affine[name, feature])
                if (name, feature) in affine
                else described
                for feature, described in spec.features.items()
            }
            update = {"shape": shape, "rules": rules, "features": features}
            tensors[name] = spec.model_copy(update=update)
        return self.model_copy(update={"tensors": tensors})

    def keep(self, names: Iterable[str]) -> Contract:
        """Return the contract of some of the tensors."""
        wanted = set(names)
        return self.model_copy(
            update={
                "tensors": {n: spec for n, spec in self.tensors.items() if n in wanted},
                "exclusive": tuple(g for g in self.exclusive if wanted.issuperset(g)),
            }
        )

    def classes(self, name: str) -> int | None:
        """Return how many classes a tensor of labels has; None where that is not known."""
        known = [rule.classes for rule in self[name].rules if isinstance(rule, Labels)]
        return next((count for count in known if count is not None), None)

    def inputs(self) -> Contract:
        """Return the part that a model takes: streams, pairs, globals and their masks."""
        return self.keep(s.name for s in self.of_kind("stream", "mask", "pairs", "global"))

    def differences(self, other: Contract) -> list[str]:
        """Say, tensor by tensor, where another contract does not fit this one."""
        found = []
        for name, mine in self.tensors.items():
            theirs = other.tensors.get(name)
            if theirs is None:
                found.append(f"{name}: missing there, {mine.describe()} here")
            elif mine.describe() != theirs.describe():
                found.append(f"{theirs.describe()} there, {mine.describe()} here")
            elif mine.columns != theirs.columns:
                found.append(f"{name}: features {theirs.columns} there, {mine.columns} here")
            else:
                for column, feature in mine.features.items():
                    unit = theirs.features[column].unit
                    if unit and feature.unit and unit != feature.unit:
                        found.append(f"{name}.{column}: unit {unit} there, {feature.unit} here")
        found += [
            f"{spec.describe()}: only there"
            for name, spec in other.tensors.items()
            if name not in self.tensors
        ]
        return found

    def require_same_inputs(self, other: Contract, *, here: str, there: str) -> None:
        """Refuse a partner whose input tensors differ.

        Raises:
            ContractError: Showing every difference.
        """
        differences = self.inputs().differences(other.inputs())
        if differences:
            lines = "\n".join(f"  {line}" for line in differences)
            raise ContractError(f"the inputs of {there} do not fit {here}:\n{lines}")

    def dump(self) -> dict[str, Any]:
        """Return the contract as JSON-ready data."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, document: object, where: str) -> Self:
        """Read a stored contract.

        Raises:
            ContractError: Where its format is newer than this version reads.
        """
        found = document.get("format") if isinstance(document, Mapping) else None
        if isinstance(found, int) and found > CONTRACT_FORMAT:
            raise ContractError(
                f"{where}: contract format {found} is newer than this hepset reads "
                f"({CONTRACT_FORMAT}); update hepset"
            )
        return cls.parse(document, where)

    def table(self) -> Table:
        """Return a table of the tensors."""
        return Table(
            "Contract",
            ("tensor", "axes", "dtype", "kind", "features", "required", "asked for by", "rules"),
            tuple(
                (
                    spec.name,
                    spec.describe().removeprefix(spec.name).removesuffix(spec.dtype).strip(" ()"),
                    spec.dtype,
                    spec.kind,
                    ", ".join(spec.columns),
                    "yes" if spec.required else "no",
                    ", ".join(spec.wanted_by) or "–",
                    ", ".join(dict.fromkeys(rule.rule for rule in spec.rules)) or "–",
                )
                for spec in self.tensors.values()
            ),
        )

    def _repr_html_(self) -> str:
        """Return a table of the tensors for a notebook."""
        return self.table().to_html()


def compile_contract(
    event: EventInfo, heads: Mapping[str, Any] | Iterable[Contract] = ()
) -> Contract:
    """Compile an event and the chosen heads to the contract of a batch.

    All declared targets are part of it, used or not; a head makes its targets required.

    Args:
        event: What an event is.
        heads: Name → head, as `Head` objects or as the mappings of a run configuration
            (``{"signal": {"name": "classification", "target": "signal"}}``); or the contracts
            that heads have already given.

    Raises:
        ContractError: Where a head needs a tensor that the event describes differently.
        ConfigurationError: Where a head's options do not fit the event.
    """
    contract = _event_contract(event)
    for wanted in _head_contracts(event, heads):
        contract = contract.merge(wanted)
    return contract


def target_spec(event: EventInfo, name: str, *, wanted_by: str = "event") -> TensorSpec:
    """Return the spec of a declared target, ``signal`` for the tensor ``target/signal``."""
    target = event.targets[name]
    dims, shape, mask = _axes(event, target.stream)
    if target.own_axes:
        dims = ("event", *target.own_axes)
        shape = (
            None,
            *(_slots(event, a) if a in event.streams else target.sizes[a] for a in target.own_axes),
        )
    if target.kind in {"index", "mask"}:
        return TensorSpec(
            name=f"target/{name}",
            kind="target",
            dims=dims,
            shape=shape,
            dtype="int64" if target.kind == "index" else "bool",
            mask=mask,
            wanted_by=(wanted_by,),
        )
    if target.kind == "classification":
        count = len(target.classes) if target.classes else None
        return TensorSpec(
            name=f"target/{name}",
            kind="target",
            dims=dims,
            shape=shape,
            dtype="int64",
            mask=mask,
            wanted_by=(wanted_by,),
            rules=(Labels(classes=count),),
        )
    feature = Feature(unit=target.unit, transform=target.transform, role=target.role)
    return TensorSpec(
        name=f"target/{name}",
        kind="target",
        dims=dims,
        shape=shape,
        dtype="float32",
        features={"": feature},
        mask=mask,
        wanted_by=(wanted_by,),
        rules=(Finite(allow_nan=True), *_domains({"": feature})),
    )


def _head_contracts(
    event: EventInfo, heads: Mapping[str, Any] | Iterable[Contract]
) -> Iterable[Contract]:
    if not isinstance(heads, Mapping):
        yield from heads
        return
    for name, head in heads.items():
        if isinstance(head, Mapping):
            yield registry().create("heads", head, f"model.heads.{name}", name).contract(event)
        else:
            yield head.contract(event)


def _axes(
    event: EventInfo, stream: str | None
) -> tuple[tuple[str, ...], tuple[int | None, ...], str | None]:
    if stream is None:
        return ("event",), (None,), None
    return ("event", stream), (None, _slots(event, stream)), f"{stream}.mask"


def _slots(event: EventInfo, stream: str) -> int | None:
    slots = event.streams[stream].slots
    return slots if isinstance(slots, int) else None


def _domains(features: Mapping[str, Feature]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for name, feature in features.items():
        domain = transform_domain(feature.transform)
        if domain is not None:
            rules.append(Domain(feature=name, above=domain[1], transform=domain[0]))
    return tuple(rules)


def _event_contract(event: EventInfo) -> Contract:
    specs: list[TensorSpec] = []
    for name, stream in event.streams.items():
        slots, mask = _slots(event, name), f"{name}.mask"
        specs.append(
            TensorSpec(
                name=name,
                kind="stream",
                dims=("event", name, "feature"),
                shape=(None, slots, len(stream.features)),
                dtype="float32",
                features=stream.features,
                mask=mask,
                required=True,
                wanted_by=("event",),
                rules=(Finite(), *_domains(stream.features)),
            )
        )
        specs.append(
            TensorSpec(
                name=mask,
                kind="mask",
                dims=("event", name),
                shape=(None, slots),
                dtype="bool",
                required=True,
                wanted_by=("event",),
            )
        )
        if stream.pairs:
            specs.append(
                TensorSpec(
                    name=f"{name}.pairs",
                    kind="pairs",
                    dims=("event", name, name, "feature"),
                    shape=(None, slots, slots, len(stream.pairs)),
                    dtype="float32",
                    features=stream.pairs,
                    mask=mask,
                    required=True,
                    wanted_by=("event",),
                    rules=(Finite(), *_domains(stream.pairs)),
                )
            )
    for name, block in event.globals.items():
        mask = f"{name}.mask"
        specs.append(
            TensorSpec(
                name=name,
                kind="global",
                dims=("event", "feature"),
                shape=(None, len(block.features)),
                dtype="float32",
                features=block.features,
                mask=mask,
                required=True,
                wanted_by=("event",),
                rules=(Finite(), *_domains(block.features)),
            )
        )
        specs.append(
            TensorSpec(
                name=mask,
                kind="mask",
                dims=("event",),
                shape=(None,),
                dtype="bool",
                wanted_by=("event",),
            )
        )
    specs += [target_spec(event, name) for name in event.targets]
    order = tuple(event.streams)
    groups: dict[str, list[str]] = {}
    for assignment in event.assignments():
        groups.setdefault(assignment.process, []).append(assignment.tensor)
        products = tuple(assignment.products)
        streams = tuple(assignment.products.values())
        specs.append(
            TensorSpec(
                name=assignment.tensor,
                kind="index",
                dims=("event", "product"),
                shape=(None, len(products)),
                dtype="int64",
                wanted_by=("event",),
                features={product: Feature() for product in products},
                rules=(Index(products=products, streams=streams, order=order),),
            )
        )
    if len(event.processes) > 1:
        rule = Labels(classes=len(event.processes))
        specs.append(
            TensorSpec(
                name="process",
                kind="process",
                dims=("event",),
                shape=(None,),
                dtype="int16",
                wanted_by=("event",),
                rules=(rule,),
            )
        )
    specs.append(
        TensorSpec(
            name="weight",
            kind="weight",
            dims=("event",),
            shape=(None,),
            dtype="float64",
            wanted_by=("event",),
            rules=(Finite(),),
        )
    )
    exclusive = () if event.shared_objects else tuple(tuple(g) for g in groups.values() if g[1:])
    return Contract(tensors={spec.name: spec for spec in specs}, exclusive=exclusive)
