"""The grammar of SPANet's event files (YAML), read strictly.

SPANet itself takes a misspelt tag for "no transform", ignores unknown keys and reads a bare word as
a list of letters. Everything that it would take in silence and do something else with is an error
here, and all errors of a file are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hepset.errors import EventInfoError, did_you_mean
from hepset.schema.base import IDENTIFIER
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature, guess_role
from hepset.schema.steps import TransformName
from hepset.schema.symmetry import parse_permutations
from hepset_spanet.names import RESERVED, target_name

KEYS = ("INPUTS", "EVENT", "PERMUTATIONS", "REGRESSIONS", "CLASSIFICATIONS")
INPUT_TYPES = ("SEQUENTIAL", "GLOBAL", "RELATIVE")

TAGS: dict[str, tuple[TransformName, ...]] = {
    "none": (),
    "log": ("log1p",),
    "normalize": ("standardise",),
    "log_normalize": ("log1p", "standardise"),
}
"""Feature tag → steps; SPANet's logarithm is ln(1 + x)."""

REGRESSION_TYPES: dict[str, dict[str, Any]] = {
    "gaussian": {"transform": ("standardise",)},
    "laplacian": {"transform": ("standardise",), "residuals": "laplace"},
    "log_gaussian": {"transform": ("asinh", "standardise")},
}
"""Type of a regression → what is stated of its target; ``log_gaussian`` standardises
asinh(y / 2). `hepset_spanet.network.topology.regression_kind` reads the type from it."""


def parse_event_file(document: Mapping[str, Any], *, where: str, parity: bool = False) -> EventInfo:
    """Translate a SPANet event file.

    Features of ``RELATIVE`` inputs are all under ``features``: which of them belong to pairs of
    objects only the data files tell, see `SpanetReader.event_info`.

    Args:
        document: The loaded YAML.
        where: Name of the file in messages.
        parity: Standardise φ as the file says, instead of encoding it as a circle.

    Raises:
        EventInfoError: Listing everything that does not follow the grammar.
    """
    parser = _Parser(where, parity)
    return parser.parse(document)


@dataclass
class _Parser:
    where: str
    parity: bool
    problems: list[str] = field(default_factory=list)

    def parse(self, document: Mapping[str, Any]) -> EventInfo:
        for key in document:
            if key not in KEYS:
                known = ", ".join(KEYS)
                hint = did_you_mean(str(key), KEYS)
                self.complain(str(key), f"unknown key{hint}; known: {known}")
        streams, globals_ = self.inputs(document)
        particles = self.particles(document, streams, globals_)
        event: dict[str, Any] = {
            "streams": {name: {"features": block} for name, block in streams.items()},
            "globals": {name: {"features": block} for name, block in globals_.items()},
        }
        symmetries = self.symmetries(document.get("PERMUTATIONS"), particles)
        if particles:
            event["particles"] = particles
            event["symmetries"] = symmetries
        event["targets"] = self.targets(document, particles)
        self.stop()
        return EventInfo.parse(event, self.where, EventInfoError)

    def complain(self, place: str, message: str) -> None:
        self.problems.append(f"{self.where}: {place}: {message}")

    def stop(self) -> None:
        if self.problems:
            raise EventInfoError("\n".join(self.problems))

    def name(self, name: object, place: str, *, identifier: bool = False) -> bool:
        """Whether something may be a name; complains where not."""
        if not isinstance(name, str):
            self.complain(place, f"a name is a string, found {name!r}; put it in quotes")
        elif name in RESERVED:
            self.complain(place, f"{name!r} is a word that SPANet's files use themselves")
        elif identifier and not IDENTIFIER.match(name):
            self.complain(place, f"{name!r}: a name is made of letters, digits and '_'")
        elif not name or "/" in name:
            self.complain(place, f"{name!r}: a name is a string without '/'")
        else:
            return True
        return False

    def mapping(self, value: object, place: str, example: str) -> Mapping[Any, Any]:
        """Return a mapping, empty for null; complains about anything else."""
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            self.complain(place, f"a list of one-entry maps is not read; write one map: {example}")
        else:
            self.complain(place, f"expected a map such as {example}, found {value!r}")
        return {}

    # ---------------------------------------------------------------- inputs

    def inputs(
        self, document: Mapping[str, Any]
    ) -> tuple[dict[str, dict[str, Feature]], dict[str, dict[str, Feature]]]:
        if document.get("INPUTS") is None:
            self.complain("INPUTS", "this key is required")
            return {}, {}
        streams: dict[str, dict[str, Feature]] = {}
        globals_: dict[str, dict[str, Feature]] = {}
        first_type: dict[str, str] = {}
        example = "{SEQUENTIAL: {Jets: {pt: log_normalize}}}"
        for kind, blocks in self.mapping(document["INPUTS"], "INPUTS", example).items():
            upper = str(kind).upper()
            place = f"INPUTS.{kind}"
            if upper not in INPUT_TYPES:
                hint = did_you_mean(upper, INPUT_TYPES)
                self.complain(place, f"unknown input type{hint}; known: {', '.join(INPUT_TYPES)}")
                continue
            for name, features in self.mapping(blocks, place, "{Jets: {pt: none}}").items():
                here = f"{place}.{name}"
                if not self.name(name, here, identifier=True):
                    continue
                if name in first_type:
                    self.complain(
                        here, f"an input of this name is already under {first_type[name]}"
                    )
                    continue
                first_type[name] = str(kind)
                into = globals_ if upper == "GLOBAL" else streams
                into[name] = self.features(features, here)
        if not streams and not self.problems:
            self.complain("INPUTS", "at least one SEQUENTIAL or RELATIVE input is needed")
        return streams, globals_

    def features(self, value: object, place: str) -> dict[str, Feature]:
        found: dict[str, Feature] = {}
        for name, tag in self.mapping(value, place, "{pt: log_normalize}").items():
            here = f"{place}.{name}"
            if not self.name(name, here, identifier=True):
                continue
            steps = TAGS.get(tag.lower()) if isinstance(tag, str) else None
            if steps is None:
                hint = did_you_mean(tag, TAGS) if isinstance(tag, str) else ""
                self.complain(here, f"unknown tag {tag!r}{hint}; known: {', '.join(TAGS)}")
                continue
            found[name] = Feature(transform=self.transform(name, steps))
        if not found and not self.problems:
            self.complain(place, "an input needs at least one feature")
        return found

    def transform(self, name: str, steps: tuple[TransformName, ...]) -> tuple[TransformName, ...]:
        guessed = guess_role(name)
        is_angle = guessed is not None and guessed[1] == "phi"
        if is_angle and not self.parity and "log1p" not in steps:
            return ("circular",)
        return steps

    # -------------------------------------------------------------- topology

    def particles(
        self,
        document: Mapping[str, Any],
        streams: Mapping[str, object],
        globals_: Mapping[str, object],
    ) -> dict[str, dict[str, str | None]]:
        if document.get("EVENT") is None:
            self.complain("EVENT", "this key is required; EVENT: {} has no particles")
            return {}
        found: dict[str, dict[str, str | None]] = {}
        example = "{t1: [q1, q2, b]}"
        for particle, products in self.mapping(document["EVENT"], "EVENT", example).items():
            place = f"EVENT.{particle}"
            if not self.name(particle, place):
                continue
            if particle == "event":
                self.complain(place, "hepset keeps 'event' for the event's own symmetries")
                continue
            if not isinstance(products, list) or not products:
                example = f"{particle}: [{products}]" if isinstance(products, str) else "[q1, b]"
                self.complain(
                    place, f"expected a list of products, found {products!r}; write {example}"
                )
                continue
            found[particle] = {}
            for index, product in enumerate(products):
                here = f"{place}[{index}]"
                name, source = self.product(product, here, streams, globals_)
                if name in found[particle]:
                    self.complain(here, f"the product {name!r} is named twice")
                elif name is not None:
                    found[particle][name] = source
        return found

    def product(
        self,
        product: object,
        place: str,
        streams: Mapping[str, object],
        globals_: Mapping[str, object],
    ) -> tuple[str | None, str | None]:
        if isinstance(product, Mapping):
            if len(product) != 1:
                self.complain(
                    place,
                    f"a product with its input is a map of one entry, {{b: Jets}}, "
                    f"found {dict(product)!r}",
                )
                return None, None
            name, source = next(iter(product.items()))
            if source in globals_:
                self.complain(place, f"{source!r} is a GLOBAL input: there is nothing to point at")
                return None, None
            if source not in streams:
                hint = did_you_mean(str(source), streams)
                self.complain(place, f"no SEQUENTIAL or RELATIVE input {source!r}{hint}")
                return None, None
        else:
            name, source = product, None
        return (name, source) if self.name(name, place) else (None, None)

    def symmetries(
        self, value: object, particles: Mapping[str, Mapping[str, object]]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        example = "{EVENT: [[t1, t2]], t1: [[q1, q2]]}"
        for name, entries in self.mapping(value, "PERMUTATIONS", example).items():
            place = f"PERMUTATIONS.{name}"
            if name != "EVENT" and name not in particles:
                hint = did_you_mean(str(name), ["EVENT", *particles])
                self.complain(place, f"no event particle {name!r}{hint}")
                continue
            names = particles if name == "EVENT" else particles[name]
            try:
                parse_permutations(entries, names, where=f"{self.where}: {place}")
            except EventInfoError as problem:
                self.problems.append(str(problem))
                continue
            if entries:
                found["event" if name == "EVENT" else name] = entries
        return found

    # --------------------------------------------------------------- targets

    def targets(
        self, document: Mapping[str, Any], particles: Mapping[str, Mapping[str, object]]
    ) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        stated: dict[str, str] = {}

        def add(section: str, key: str, target: Mapping[str, Any]) -> None:
            name, place = target_name(key), f"{section}/{key}"
            if name in found:
                self.complain(place, f"this target is already stated as {stated[name]}")
                return
            found[name], stated[name] = dict(target), place

        for key, target in self.leaves(document.get("REGRESSIONS"), "REGRESSIONS", particles):
            leaf, kind = self.regression(target, key)
            if leaf is None:
                continue
            add("REGRESSIONS", f"{key}/{leaf}", {"kind": "regression", **REGRESSION_TYPES[kind]})
        section: Literal["CLASSIFICATIONS"] = "CLASSIFICATIONS"
        for key, target in self.leaves(document.get(section), section, particles):
            place = f"{section}.{key.replace('/', '.')}"
            if self.name(target, place):
                add(section, f"{key}/{target}", {"kind": "classification"})
        return found

    def regression(self, target: object, key: str) -> tuple[str | None, str]:
        """Return name and type of a regression target; the name is None after a complaint."""
        place = f"REGRESSIONS.{key.replace('/', '.')}"
        name, kind = target, "gaussian"
        if isinstance(target, list):
            if len(target) != 2:
                self.complain(place, f"a target is a name or [name, type], found {target!r}")
                return None, kind
            name, kind = target
        if kind not in REGRESSION_TYPES:
            hint = did_you_mean(str(kind), REGRESSION_TYPES)
            known = ", ".join(REGRESSION_TYPES)
            self.complain(f"{place}.{name}", f"unknown type {kind!r}{hint}; known: {known}")
            return None, "gaussian"
        return (str(name), kind) if self.name(name, place) else (None, kind)

    def leaves(
        self, value: object, section: str, particles: Mapping[str, Mapping[str, object]]
    ) -> Iterator[tuple[str, object]]:
        """Yield (``EVENT`` | ``t1/PARTICLE`` | ``t1/b``, target) in SPANet's order of heads."""
        tree = self.mapping(value, section, "{EVENT: [mass]}")
        for name in tree:
            if name != "EVENT" and name not in particles:
                hint = did_you_mean(str(name), ["EVENT", *particles])
                self.complain(f"{section}.{name}", f"no event particle {name!r}{hint}")
        yield from self.listed(tree.get("EVENT"), section, "EVENT")
        for particle, products in particles.items():
            place = f"{section}.{particle}"
            below = tree.get(particle)
            example = f"{particle}: {{PARTICLE: [mass], {next(iter(products), 'b')}: [pt]}}"
            if isinstance(below, str) or (
                isinstance(below, list) and all(isinstance(each, str) for each in below)
            ):
                self.complain(place, f"targets of a particle stand one level lower: {example}")
                continue
            branch = self.mapping(below, place, example)
            for name in branch:
                if name != "PARTICLE" and name not in products:
                    hint = did_you_mean(str(name), ["PARTICLE", *products])
                    self.complain(f"{place}.{name}", f"{particle!r} has no product {name!r}{hint}")
            for name in ("PARTICLE", *products):
                yield from self.listed(branch.get(name), section, f"{particle}/{name}")

    def listed(self, value: object, section: str, key: str) -> Iterator[tuple[str, object]]:
        if value is None:
            return
        if not isinstance(value, list):
            place = f"{section}.{key.replace('/', '.')}"
            self.complain(place, f"expected a list of targets, found {value!r}; write [{value}]")
            return
        for target in value:
            yield key, target
