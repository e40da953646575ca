"""From weaver's data configuration to hepset's event and run configuration."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hepset.errors import EventInfoError
from hepset.schema.event import EventInfo
from hepset.schema.feature import P4_SYSTEMS, Role
from hepset_jetclass.labels import NAMES
from hepset_jetclass.weaver.expressions import RESERVED, Translator
from hepset_jetclass.weaver.grammar import InputGroup, VariableScale, WeaverConfig

_LOG = logging.getLogger(__name__)

LABEL: Final = "label"
"""Name of the target of labels of type ``simple``."""

_P4_TOKENS: Final[Mapping[str, Role]] = {
    "px": "px",
    "py": "py",
    "pz": "pz",
    "e": "energy",
    "en": "energy",
    "energy": "energy",
    "pt": "pt",
    "eta": "eta",
    "phi": "phi",
    "mass": "mass",
    "m": "mass",
}
_ONES: Final = re.compile(r"ones_like\(.*\)\Z", re.DOTALL)


@dataclass(frozen=True)
class Translation:
    """What a data configuration says.

    Attributes:
        event: What an event is.
        defaults: Defaults of the run configuration.
        notes: What was decided on the way and is worth knowing.
    """

    event: EventInfo
    defaults: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """The input groups that describe the same objects.

    Attributes:
        name: Stream or global.
        length: Slots; None for a global.
        groups: Names of its groups, the network's inputs first.
    """

    name: str
    length: int | None
    groups: tuple[str, ...]


def translate(config: WeaverConfig, where: str, *, parity: bool = False) -> Translation:
    """Translate a data configuration.

    Args:
        config: The configuration.
        where: Its name in messages.
        parity: Keep weaver's choices where hepset's defaults differ.

    Raises:
        EventInfoError: If something has no translation; the message names it.
    """
    return _Translation(config, where, parity=parity).result()


def blocks_of(config: WeaverConfig) -> list[Block]:
    """Return the streams and globals that the input groups make, in order.

    Groups of one length whose names agree up to the last ``_`` belong together.
    """
    by_prefix: dict[str, list[str]] = {}
    for name in config.inputs:
        by_prefix.setdefault(name.rpartition("_")[0] or name, []).append(name)
    blocks: list[Block] = []
    for prefix, names in by_prefix.items():
        by_length: dict[int | None, list[str]] = {}
        for name in names:
            by_length.setdefault(config.inputs[name].length, []).append(name)
        for length, members in by_length.items():
            alone = len(by_length) == 1 or (length is not None and len(members) > 1)
            wanted = prefix if alone else members[0]
            taken = {block.name for block in blocks}
            ordered = sorted(members, key=lambda name: not name.endswith("_features"))
            blocks.append(
                Block(wanted if wanted not in taken else members[0], length, tuple(ordered))
            )
    return blocks


def momentum_roles(names: tuple[str, ...]) -> dict[Role, str]:
    """Return role → variable of a group of vectors: by their names, else px, py, pz, energy."""
    roles: dict[Role, str] = {}
    for name in names:
        tokens = [token for token in name.casefold().split("_") if token in _P4_TOKENS]
        if tokens:
            roles[_P4_TOKENS[tokens[-1]]] = name
    if any(set(roles) == set(system) for system in P4_SYSTEMS):
        return roles
    cartesian: tuple[Role, ...] = ("px", "py", "pz", "energy")
    return dict(zip(cartesian, names, strict=True))


@dataclass
class _Translation:
    """One translation, part by part."""

    config: WeaverConfig
    where: str
    parity: bool
    derive: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hints: dict[str, set[str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = blocks_of(self.config)
        self.streams = [block for block in self.blocks if block.length is not None]
        self._require_one_length()
        self.variables = {
            name: text for name, text in self.config.new_variables.items() if name != text
        }
        for name, patterns in self.config.file_magic.items():
            if name in self.variables:
                raise self.error(f"file_magic.{name}", "new_variables defines this name too")
            del patterns
        taken = {*RESERVED, *(block.name for block in self.blocks)}
        self.taken = taken
        self.translator = Translator(
            self.where,
            self.variables,
            self.renamed,
            max((block.length or 0 for block in self.blocks), default=0),
        )
        self.done: set[tuple[str, str | None]] = set()

    def result(self) -> Translation:
        streams: dict[str, Any] = {}
        globals_: dict[str, Any] = {}
        for block in self.blocks:
            if block.length is None:
                globals_[block.name] = self.once(block)
            else:
                streams[block.name] = self.stream(block)
        select = self.selections()
        targets, heads = self.labels()
        self.carried()
        sampling = self.sampling()
        self.explain()
        document: dict[str, Any] = {
            "streams": streams,
            "globals": globals_,
            "targets": targets,
            "columns": self.columns(select),
        }
        event = EventInfo.parse(
            {k: v for k, v in document.items() if v}, self.where, EventInfoError
        )
        prepare = {**select, "derive": self.derive}
        if any(scale.center == "auto" for scale in self.config.scales.values()):
            prepare["affine_fraction"] = self.config.preprocess.data_fraction
        defaults: dict[str, Any] = {"prepare": prepare, "model": {"heads": heads}}
        if sampling:
            defaults["train"] = {"sampling": sampling}
        if self.config.treename is not None:
            defaults["read"] = {"tree": self.config.treename}
        for note in self.notes:
            _LOG.info("%s: %s", self.where, note)
        return Translation(event, defaults, tuple(self.notes))

    def _require_one_length(self) -> None:
        """Refuse four-momenta or a mask that are cut elsewhere than the features beside them."""
        inputs = self.config.inputs
        for name, group in inputs.items():
            prefix, _, kind = name.rpartition("_")
            features = inputs.get(f"{prefix}_features")
            if kind in {"vectors", "mask"} and features and features.length != group.length:
                raise self.error(
                    f"inputs.{name}.length",
                    f"{group.length}, but inputs.{prefix}_features has {features.length}; "
                    "groups of the same objects have one length",
                )

    def error(self, key: str, message: str) -> EventInfoError:
        return EventInfoError(f"{self.where}: {key}: {message}")

    # -- names and expressions -----------------------------------------------------------------

    def renamed(self, name: str) -> str:
        """Write a name of the configuration as hepset's expressions know it."""
        if name in self.variables or name in self.config.file_magic:
            return f"{name}_" if name in self.taken else name
        decoded = self.decoded(name)
        return f"columns.{decoded}" if decoded in self.taken else decoded

    def decoded(self, name: str) -> str:
        """Return what a column is called in the files: every replacement, one after the other."""
        for text, replacement in self.config.branch_magic.items():
            name = name.replace(text, replacement)
        return name

    def expression(self, text: str, key: str, hint: str | None) -> str:
        """Translate an expression, and define the new variables that it needs.

        Args:
            text: The expression.
            key: Its place in the configuration.
            hint: The stream it is used for, None for one value per event.
        """
        names = {
            n.id for n in ast.walk(self.translator.parse(text, key)) if isinstance(n, ast.Name)
        }
        translated = self.translator.translate(text, key)
        for name in sorted(names):
            self.need(name, hint)
        return translated

    def need(self, name: str, hint: str | None) -> None:
        """Define a new variable, or ask the files for a column."""
        if (name, hint) in self.done:
            return
        self.done.add((name, hint))
        if name in self.variables:
            key = f"new_variables.{name}"
            text = self.variables[name]
            if self.is_vector(text):
                for part in ast.walk(self.translator.parse(text, key)):
                    if isinstance(part, ast.Name):
                        self.need(part.id, hint)
                return
            self.derive.setdefault(self.renamed(name), self.expression(text, key, hint))
        elif name in self.config.file_magic:
            self.derive.setdefault(self.renamed(name), self.by_file(name))
            self.hints.setdefault("file", set()).add(None)
        elif name in self.translator.columns:
            self.hints.setdefault(self.decoded(name), set()).add(hint)

    def is_vector(self, text: str) -> bool:
        return bool(re.match(r"\s*_p4_from_\w+\(.*\)\s*\Z", text, re.DOTALL))

    def by_file(self, name: str) -> str:
        """Write a constant of each file: the first pattern found in its path, else 0."""
        text = "0"
        for pattern, value in reversed(self.config.file_magic[name].items()):
            try:
                re.compile(pattern)
            except re.error as problem:
                raise self.error(f"file_magic.{name}", f"{pattern!r}: {problem}") from None
            text = f"where(matches(file, {pattern!r}), {_number(value)}, {text})"
        return text

    def columns(self, select: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
        """Return the columns of the files that expressions need, with the stream they belong to."""
        texts = [
            *self.derive.values(),
            *(text for cuts in select.values() for text in cuts.values()),
        ]
        used = {node for text in texts for node in _words(text)}
        found: dict[str, str | None] = {}
        for name, hints in self.hints.items():
            # What decides on events has one value per event; what only one stream needs may be its.
            if name in used:
                found[name] = next(iter(hints)) if len(hints) == 1 else None
        return found

    # -- inputs --------------------------------------------------------------------------------

    def stream(self, block: Block) -> dict[str, Any]:
        features: dict[str, Any] = {}
        first = block.groups[0]
        marked = first.endswith("_features")
        p4: dict[Role, str] | None = None
        for name in block.groups:
            group = self.config.inputs[name]
            if name.endswith("_mask"):
                self.check_mask(name, group)
                continue
            for variable in group.vars:
                if variable.name not in features:
                    feature = self.feature(block.name, variable.name)
                    if marked and name != first:
                        feature["input"] = False
                    features[variable.name] = feature
            if name.endswith("_vectors"):
                p4 = self.momentum(name, group)
        if not features:
            raise self.error(f"inputs.{first}", "a mask alone is no input")
        found: dict[str, Any] = {"slots": block.length, "features": features}
        if p4 is not None:
            found["p4"] = p4
        return found

    def once(self, block: Block) -> dict[str, Any]:
        names = dict.fromkeys(
            variable.name for group in block.groups for variable in self.config.inputs[group].vars
        )
        return {"features": {name: self.feature(block.name, name) for name in names}}

    def feature(self, block: str, name: str) -> dict[str, Any]:
        """Describe one variable, and say how it is derived if the files do not hold it."""
        where = f"inputs.{block}.{name}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise self.error(where, "a variable is a column or a new variable; define it there")
        hint = block if any(stream.name == block for stream in self.streams) else None
        shared = sum(name in self.names_of(other) for other in self.blocks) > 1
        text = self.expression(name, where, hint)
        own = name in self.variables or name in self.config.file_magic
        if self.parity:
            centre = self.config.scales[name].center
            instead = centre if isinstance(centre, float) else 0.0
            self.derive[f"{block}.{name}"] = f"finite({text}, {_number(instead)})"
        elif own or shared or text != name:
            self.derive[f"{block}.{name}"] = text
        return {"transform": transform_of(self.config.scales[name])}

    def names_of(self, block: Block) -> set[str]:
        return {v.name for group in block.groups for v in self.config.inputs[group].vars}

    def momentum(self, name: str, group: InputGroup) -> dict[Role, str] | None:
        names = tuple(variable.name for variable in group.vars)
        if len(names) != 4 or len(set(names)) != 4:
            raise self.error(
                f"inputs.{name}", f"a four-momentum has four components, found {', '.join(names)}"
            )
        if any(self.config.scales[n].center is not None for n in names):
            self.notes.append(f"inputs.{name}: standardised components make no four-momentum")
            return None
        return momentum_roles(names)

    def check_mask(self, name: str, group: InputGroup) -> None:
        """Accept a mask that says of every object of the files that it is there."""
        if len(group.vars) != 1:
            raise self.error(f"inputs.{name}", "a mask is one variable")
        text = self.origin(group.vars[0].name)
        plain = re.sub(r"^(np|numpy|ak|awkward)\.", "", text.strip())
        if not _ONES.match(plain):
            raise self.error(
                f"inputs.{name}",
                f"the mask {text!r} is not 1 for every object (ak.ones_like(…)). Masks say "
                "which slots hold an object of the file: drop objects when the files are made, or "
                "make the condition a feature",
            )

    # -- what is learnt, kept and selected -----------------------------------------------------

    def selections(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        config = self.config
        if config.selection is not None:
            found["select"] = {"selection": self.cut(config.selection, "selection")}
        if config.test_time_selection is not None:
            text = self.cut(config.test_time_selection, "test_time_selection")
            found["predict_select"] = {"test_time_selection": text}
        return found

    def cut(self, text: str, key: str) -> str:
        """Translate a selection; a number selects where it is not 0."""
        condition = self.translator.is_condition(text, key)
        return self.expression(text if condition else f"({text}) != 0", key, None)

    def labels(self) -> tuple[dict[str, Any], dict[str, Any]]:
        labels = self.config.labels
        if labels.names is not None:
            raise self.error(
                "labels.names",
                "labels of objects are targets with a stream; describe them in a hepset event file "
                "(targets: {<name>: {kind: classification, stream: …, classes: […]}})",
            )
        targets: dict[str, Any] = {}
        heads: dict[str, Any] = {}
        if isinstance(labels.value, list):
            names = [self.expression(n, "labels.value", None) for n in labels.value]
            targets[LABEL] = {"kind": "classification", "classes": list(labels.value)}
            numbered = [name if i == 1 else f"{i} * {name}" for i, name in enumerate(names)]
            self.derive[f"target.{LABEL}"] = (
                f"where({' + '.join(names)} == 1, {' + '.join(numbered[1:])}, -2)"
            )
            heads[LABEL] = {"name": "classification", "target": LABEL}
            return targets, heads
        for name, text in labels.value.items():
            key = f"labels.value.{name}"
            self.derive[f"target.{name}"] = self.expression(str(text), key, None)
            if self.is_number(str(text)):
                targets[name] = {"kind": "regression"}
                self.notes.append(f"{key}: taken as a number to be learnt (regression)")
            else:
                targets[name] = {"kind": "classification"}
                if self.origin(str(text)) == "jet_label":
                    targets[name]["classes"] = list(NAMES)
            if not heads and re.fullmatch(r"[A-Za-z_]\w*", name):
                kind = targets[name]["kind"]
                own = {"targets": [name]} if kind == "regression" else {"target": name}
                heads[name] = {"name": kind, **own}
        return targets, heads

    def origin(self, text: str) -> str:
        """Follow a name to the column, or the expression, that it stands for."""
        text = text.strip()
        seen: list[str] = []
        while text in self.variables:
            if text in seen:
                circle = " -> ".join([*seen, text])
                raise self.error(
                    f"new_variables.{text}", f"new variables need each other in a circle: {circle}"
                )
            seen.append(text)
            text = self.variables[text].strip()
        return text

    def is_number(self, text: str) -> bool:
        """Whether an expression is a measured number rather than a class."""
        written = self.translator.translate(text, "labels", inline=self.variables)
        tree = ast.parse(written, mode="eval")
        calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)}  # type: ignore[attr-defined]
        divides = any(isinstance(n, ast.Div | ast.Pow) for n in ast.walk(tree))
        if divides or calls & {"log", "log1p", "sqrt", "exp", "tanh", "hypot"}:
            return True
        name = self.origin(text).casefold()
        return bool(re.search(r"(mass|energy|_pt|_eta|_phi|_px|_py|_pz)\Z", name))

    def carried(self) -> None:
        for key in ("observers", "monitor_variables"):
            for name in getattr(self.config, key):
                self.carry(name, key)

    def carry(self, name: str, key: str) -> str:
        """Keep a number of the event; return how expressions on the dataset call it."""
        self.derive[f"extra.{name}"] = self.expression(name, key, None)
        return f"extra.{name}"

    # -- sampling ------------------------------------------------------------------------------

    def sampling(self) -> dict[str, Any]:
        weights = self.config.weights
        if weights is None:
            return {}
        if weights.use_precomputed_weights:
            found: dict[str, Any] = {
                "method": "weights",
                "base_weight": " * ".join(
                    self.carry(name, "weights.weight_branches")
                    for name in weights.weight_branches or ()
                ),
            }
        else:
            found = {
                "method": {"flat": "flat", "ref": "reference"}[weights.reweight_method or "flat"],
                "variables": {
                    self.stored(name, "weights.reweight_vars"): edges
                    for name, edges in (weights.reweight_vars or {}).items()
                },
                "classes": {name: self.membership(name) for name in weights.reweight_classes or ()},
                "threshold": weights.reweight_threshold,
                "out_of_range": "drop" if weights.reweight_discard_under_overflow else "clip",
            }
            if weights.class_weights is not None:
                pairs = zip(weights.reweight_classes or (), weights.class_weights, strict=True)
                found["class_weights"] = dict(pairs)
            if weights.reweight_basewgt is not None:
                found["base_weight"] = self.stored(
                    weights.reweight_basewgt, "weights.reweight_basewgt"
                )
            if weights.reweight_hists is not None:
                self.notes.append(
                    "weights.reweight_hists: histograms of an earlier run are not used, but made "
                    "from the dataset, in one pass over its scalars"
                )
        found["max_repeats"] = 10
        if self.parity:
            found["sampler"] = "accept_reject"
        return found

    def stored(self, text: str, key: str) -> str:
        """Write an expression so that it can be computed from what the dataset keeps."""
        name = text.strip()
        if re.fullmatch(r"[A-Za-z_]\w*", name) and name not in self.variables:
            return self.carry(name, key)
        columns = Translator(self.where, self.variables, self.renamed)
        written = columns.translate(text, key, inline=self.variables)
        if any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(written, mode="eval"))):
            # Functions may need objects, which a sampler does not look at.
            if re.fullmatch(r"[A-Za-z_]\w*", name):
                return self.carry(name, key)
            raise self.error(key, "define this expression in new_variables and name it here")
        stored = {column: self.carry(column, key) for column in columns.columns}
        return Translator(
            self.where, self.variables, lambda column: stored.get(column, column)
        ).translate(text, key, inline=self.variables)

    def membership(self, name: str) -> str:
        """Write when an event belongs to a class: where the column is 1."""
        text = self.stored(name, f"weights.reweight_classes: {name}")
        tree = ast.parse(text, mode="eval").body
        if _is_condition(tree):
            return text
        return f"{text} == 1" if isinstance(tree, ast.Name | ast.Attribute) else f"({text}) == 1"

    def explain(self) -> None:
        """Note what hepset does in its own way."""
        config = self.config
        if config.bucketing is not None:
            self.notes.append(
                "bucketing: not needed; batches are shuffled over all events, and a backbone with "
                "`buckets` computes events of like length together"
            )
        wrapped = [name for name, group in config.inputs.items() if group.pad_mode == "wrap"]
        if wrapped:
            self.notes.append(
                f"pad_mode wrap ({', '.join(wrapped)}): padding is masked, so its content changes "
                "nothing; statistics of a batch are of real objects only"
            )
        padded = [name for name, scale in config.scales.items() if scale.pad_value != 0]
        if padded:
            self.notes.append(f"pad_value ({', '.join(padded)}): padding is masked and 0")
        if config.monitor_variables:
            self.notes.append("monitor_variables: kept as extra/…, in physical values")


def transform_of(scale: VariableScale) -> list[Any]:
    """Return the steps from the variable to what weaver's network sees."""
    if scale.center is None:
        return []
    steps: list[Any] = []
    if scale.center == "auto":
        steps.append({"affine": "auto"})
    elif (scale.center, scale.scale) != (0, 1):
        steps.append({"affine": {"subtract": scale.center, "multiply": scale.scale}})
    if scale.min is not None or scale.max is not None:
        steps.append({"clip": [scale.min, scale.max]})
    return steps


def _number(value: float) -> str:
    """Write a number in full, 3.0 as 3."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _is_condition(tree: ast.expr) -> bool:
    """Whether an expression is true or false by its form."""
    match tree:
        case ast.Compare() | ast.BoolOp():
            return True
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            return True
        case ast.UnaryOp(op=ast.Invert() | ast.Not()):
            return True
    return False


def _words(text: str) -> set[str]:
    """Return all names in an expression, those after a dot included."""
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
