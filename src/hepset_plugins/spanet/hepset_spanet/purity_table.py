"""SPANet's table of purities, under its names and with its definitions, with statistical errors.

SPANet's definitions are a little wider than those of the reports (`assignment.quality`): products
are compared as sets per orbit, and particles of an orbit in any order, whether or not the declared
group has all of these permutations. For groups that are products of full symmetric ones, which
nearly all are, both agree. Formulas: arXiv:2106.03898, section 4.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.events.slots import conform
from hepset.interfaces.writer import Known, Writer, WriterConfig
from hepset.predict.predictions import SELECTED
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.symmetry import PermutationGroup
from hepset.uncertainty import Estimate, efficiency, weighted_mean

__all__ = ["Clusters", "PurityTableWriter", "Table", "count_objects", "purity_table"]

Array = NDArray[Any]
Table: TypeAlias = dict[str, dict[str, Estimate]]
"""Row by number of objects (``== 6``, …, ``>= 8``, ``Full``) → SPANet's name → number."""

_TRIED: Final = 720
"""Orders of the particles of a cluster that are tried one by one."""
_NOTHING: Final = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class Clusters:
    """The particles of a process, clustered by what may be interchanged.

    Attributes:
        members: Positions of the particles of each cluster.
        texts: What the names of its particles have in common, which may be nothing: the longest
            text that is part of all. SPANet names categories by them.
        names: The same, and a list of the particles where clusters have the same text. (SPANet
            keeps the purity of the last of these only.)
    """

    members: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, particles: Sequence[str], group: PermutationGroup) -> Clusters:
        """Return the clusters of some particles, by the orbits of their group."""
        members = [[particles[position] for position in orbit] for orbit in group.orbits]
        texts = [_common_text(each) for each in members]
        names = [
            text if texts.count(text) == 1 else ", ".join(each)
            for text, each in zip(texts, members, strict=True)
        ]
        return cls(tuple(group.orbits), tuple(texts), tuple(names))

    def categories(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield SPANet's categories: ``1t`` and the like, and numbers of particles, −1 = any."""
        for counts in itertools.product(*(range(-1, len(m) + 1) for m in self.members)):
            numbers = ("*" if count < 0 else str(count) for count in counts)
            yield "".join(n + t for n, t in zip(numbers, self.texts, strict=True)), counts


def purity_table(
    predicted: Mapping[str, Array],
    truth: Mapping[str, Array],
    objects: Array,
    *,
    event_group: PermutationGroup,
    product_groups: Mapping[str, PermutationGroup],
    weight: Array | None = None,
    lines: int = 2,
) -> Table:
    """Return the table that ``python -m spanet.test`` prints, with errors.

    For every category of events, which says how many particles of each cluster are there with all
    their products (``2t``; ``*t``: any number, but one particle at least):
    ``<category>/event_proportion``, the share of the row's events; ``<category>/event_purity``, the
    share of these in which all particles that are there were found; and
    ``<category>/<cluster>_purity``, the share of the particles that were found. Further
    ``event_jet_proportion``, the row's share of all events. Values are NaN where there are no
    events; errors also where nothing tells them: among weighted events, or several particles per
    event, of which all or none were found.

    Args:
        predicted: Particle → indices (event, product), −1 = none.
        truth: Particle → indices, negative = missing.
        objects: Number of objects of each event, (event,), by which rows are made
            (`count_objects`).
        event_group: What may be interchanged among the particles, in this order.
        product_groups: Particle → what may be interchanged among its products.
        weight: Physical weights, (event,).
        lines: Rows with one number of objects, from the smallest on; one more holds all larger
            ones.

    Raises:
        ConfigurationError: If a particle is missing, or arrays disagree in their events.
    """
    names = list(event_group.names)
    _require(names, predicted, truth, len(objects))
    clusters = Clusters.of(names, event_group)
    groups = [product_groups[name] for name in names]
    chosen = [_sorted(predicted[n], g) for n, g in zip(names, groups, strict=True)]
    wanted = [_sorted(truth[n], g) for n, g in zip(names, groups, strict=True)]
    present = np.stack([(np.asarray(truth[name]) >= 0).all(axis=1) for name in names], axis=1)
    correct = np.zeros((len(objects), len(names), len(names)), bool)
    for orbit in clusters.members:
        for own, true in itertools.product(orbit, orbit):
            correct[:, own, true] = (chosen[own] == wanted[true]).all(1) & present[:, true]
    counted = _Counted(
        present.sum(1),
        _found(correct, event_group),
        np.stack([present[:, list(m)].sum(1) for m in clusters.members], axis=1),
        np.stack([_most(correct[:, m][:, :, m]) for m in map(list, clusters.members)], axis=1),
        weight,
    )
    table: Table = {}
    for label, row in _rows(objects, lines):
        table[label] = dict(counted.row(row, clusters))
    return table


def count_objects(batch: EventBatch, streams: Sequence[str], blocks: Sequence[str]) -> Array:
    """Return the number of objects of each event as SPANet counts them, present globals included.

    Args:
        batch: Events.
        streams: Names of the streams.
        blocks: Names of the globals.
    """
    total = np.zeros(len(batch), np.int64)
    for name in streams:
        total += np.asarray(batch[f"{name}.mask"]).sum(axis=1)
    for name in blocks:
        there = batch.get(f"{name}.mask")
        total += 1 if there is None else np.asarray(there).astype(np.int64)
    return total


class PurityTableWriter(Writer):
    """Collects predicted events with their truth, and writes the tables as JSON.

    The document is process → row → name → ``[value, error]``; the name of an only process is empty.
    Both are null where there is no event, the error also where nothing tells it (`purity_table`).
    Events that were not selected do not count. Objects are ordered and cut as the model saw them:
    a particle that lost a product counts as missing, and objects beyond the slots are not counted.

    Args:
        event: What an event is.
        lines: See `purity_table`.
        head: Name of the head that assigns; None takes the only one.

    Attributes:
        tables: Process → its table, after `close`.
    """

    def __init__(self, event: EventInfo, *, lines: int = 2, head: str | None = None) -> None:
        super().__init__(WriterConfig())
        self.event, self.lines, self.head = event, lines, head
        self.tables: dict[str, Table] = {}
        self._target: Path | None = None
        self._contract = Contract()
        self._parts: list[dict[str, Array]] = []

    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        """Start from scratch; an empty `target` (``Path()``) writes no file.

        Args:
            target: File to write.
            contract: Gives the slots of the model's streams. Without any, or where one may have
                any number, objects and truth stay as they are.
            **known: Not needed.
        """
        del known
        self._contract = Contract()
        slots = contract.slots.values()
        if slots and None not in slots:
            # An ONNX file knows its inputs only, but the truth has to follow the objects.
            truth = [each.tensor for each in self.event.assignments()]
            self._contract = contract.inputs().merge(compile_contract(self.event).keep(truth))
        self._target, self._parts, self.tables = target, [], {}

    def write(self, batch: EventBatch) -> None:
        """Add events.

        Raises:
            ConfigurationError: If no head has assigned, or the events have no true assignment.
        """
        batch, _ = conform(batch, self.event, self._contract)
        selected = batch.get(SELECTED)
        if selected is not None and not selected.all():
            predictions = {name: array[selected] for name, array in batch.predictions.items()}
            batch = batch.take(selected)
        else:
            predictions = dict(batch.predictions)
        found = {
            "objects": count_objects(batch, list(self.event.streams), list(self.event.globals))
        }
        head = self._head_of(predictions)
        for each in self.event.assignments():
            if each.tensor not in batch:
                where = batch.where(0)[0] if len(batch) else "the files"
                raise ConfigurationError(
                    f"{where}: no {each.tensor}: without true assignments nothing can be evaluated"
                )
            field = each.tensor.removeprefix("target/assignment/")
            found[each.tensor] = np.asarray(batch[each.tensor])
            found[f"predicted/{field}"] = predictions[f"{head}/{field}"]
        for name in ("process", "weight"):
            values = batch.get(name)
            if values is not None:
                found[name] = values
        self._parts.append(found)

    def close(self) -> None:
        """Make the tables, and write them.

        Raises:
            ConfigurationError: If there was no event.
        """
        if not self._parts or not sum(len(part["objects"]) for part in self._parts):
            raise ConfigurationError("no event passes the selection: nothing can be evaluated")
        everything = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        for number, (name, process) in enumerate(self.event.processes.items()):
            if not process.particles:
                continue
            rows = np.ones(len(everything["objects"]), bool)
            if len(self.event.processes) > 1 and "process" in everything:
                rows = everything["process"] == number
            prefix = f"{name}/" if name else ""
            weight = everything["weight"][rows] if "weight" in everything else None
            self.tables[name] = purity_table(
                {p: everything[f"predicted/{prefix}{p}"][rows] for p in process.particles},
                {p: everything[f"target/assignment/{prefix}{p}"][rows] for p in process.particles},
                everything["objects"][rows],
                event_group=process.event_group,
                product_groups={p: process.product_group(p) for p in process.particles},
                weight=None if weight is None or np.all(weight == 1) else weight,
                lines=self.lines,
            )
        if self._target is not None and self._target.name:
            document = {
                process: {row: {n: _plain(e) for n, e in cells.items()} for row, cells in t.items()}
                for process, t in self.tables.items()
            }
            self._target.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(document, indent=2, allow_nan=False)
            self._target.write_text(text + "\n", encoding="utf-8")

    def abort(self) -> None:
        """Forget the events."""
        self._parts = []

    def _head_of(self, predictions: Mapping[str, Array]) -> str:
        fields = [
            each.tensor.removeprefix("target/assignment/") for each in self.event.assignments()
        ]
        if not fields:
            raise ConfigurationError("the event declares no particle: there is nothing to evaluate")
        heads = list(dict.fromkeys(name.partition("/")[0] for name in predictions))
        able = [h for h in heads if all(f"{h}/{field}" in predictions for field in fields)]
        if self.head is not None and self.head not in able:
            raise ConfigurationError(
                f"the model has no head {self.head!r} that assigns; it has "
                f"{', '.join(able) or 'none'}"
            )
        if self.head is None and len(able) != 1:
            raise ConfigurationError(
                f"several heads assign, {', '.join(able)}: name one"
                if able
                else f"no head of the model assigns {', '.join(fields)}"
            )
        return able[0] if self.head is None else self.head


@dataclass(frozen=True)
class _Counted:
    """What was found in each event.

    Attributes:
        present: Particles that are there, (E,).
        found: Of them found, under the best permutation of the event's group, (E,).
        there: Particles of each cluster that are there, (E, C).
        hits: Of them found, in the best order, (E, C).
        weight: Physical weights, (E,).
    """

    present: Array
    found: Array
    there: Array
    hits: Array
    weight: Array | None

    def row(self, row: Array, clusters: Clusters) -> Iterator[tuple[str, Estimate]]:
        """Yield the numbers of the events of a row, a mask (E,)."""
        yield "event_jet_proportion", self._share(row, np.ones(len(row), bool))
        right = self.found == self.present
        for category, counts in clusters.categories():
            among = row.copy()
            for column, count in enumerate(counts):
                among &= self.present > 0 if count < 0 else self.there[:, column] == count
            yield f"{category}/event_purity", self._share(right, among)
            yield f"{category}/event_proportion", self._share(among, row)
            for column, name in enumerate(clusters.names):
                yield f"{category}/{name}_purity", self._particles(column, among)

    def _share(self, passed: Array, among: Array) -> Estimate:
        if not among.any():
            return _NOTHING
        weight = None if self.weight is None else self.weight[among]
        return efficiency(passed[among], weight)

    def _particles(self, column: int, among: Array) -> Estimate:
        """Found over present particles, with the error of a ratio of sums over events."""
        among = among & (self.there[:, column] > 0)
        there, hits = self.there[among, column], self.hits[among, column]
        if not len(there):
            return _NOTHING
        if (there == 1).all():
            return self._share(self.hits[:, column] > 0, among)
        weight = there if self.weight is None else there * self.weight[among]
        value, error = weighted_mean(hits / there, weight)
        return Estimate(value, error if (hits != there).any() and hits.any() else math.nan)


def _require(
    names: Sequence[str], predicted: Mapping[str, Array], truth: Mapping[str, Array], events: int
) -> None:
    for what, arrays in (("predicted", predicted), ("truth", truth)):
        for name in names:
            if name not in arrays:
                raise ConfigurationError(
                    f"{what}: no {name!r}; there are {', '.join(arrays) or 'none'}"
                )
            if len(arrays[name]) != events:
                raise ConfigurationError(
                    f"{what}: {name!r} has {len(arrays[name])} events, the objects are counted of "
                    f"{events}"
                )


def _rows(objects: Array, lines: int) -> Iterator[tuple[str, Array]]:
    least = int(objects.min(initial=np.iinfo(np.int64).max)) if len(objects) else 0
    for number in range(least, least + lines):
        yield f"== {number}", objects == number
    yield f">= {least + lines}", objects >= least + lines
    yield "Full", np.ones(len(objects), bool)


def _sorted(indices: Array, group: PermutationGroup) -> Array:
    """Indices (E, k) in increasing order inside each orbit of the products."""
    found = np.array(indices, np.int64)
    for orbit in group.orbits:
        place = list(orbit)
        found[:, place] = np.sort(found[:, place], axis=1)
    return found


def _found(correct: Array, group: PermutationGroup) -> Array:
    """Number of particles that are right under the best element of the event's group, (E,)."""
    if group.is_product_of_symmetric:
        blocks = [_most(correct[:, list(o)][:, :, list(o)]) for o in group.orbits]
        return np.asarray(np.sum(blocks, axis=0))
    own = np.arange(correct.shape[1])
    best = np.zeros(len(correct), np.int64)
    for element in group.iter_elements():
        best = np.maximum(best, correct[:, own, list(element)].sum(1))
    return best


def _most(correct: Array) -> Array:
    """The largest number of right pairs in any order of the particles, of (E, n, n): (E,)."""
    count = correct.shape[1]
    if math.factorial(count) <= _TRIED:
        own = np.arange(count)
        tried = (correct[:, own, order].sum(1) for order in itertools.permutations(range(count)))
        return np.asarray(np.max(list(tried), axis=0))
    return np.array([event[linear_sum_assignment(-event.astype(float))].sum() for event in correct])


def _common_text(names: Sequence[str]) -> str:
    """The longest text that is part of all names, the first of equals in the shortest name."""
    shortest = min(names, key=len)
    parts = (
        shortest[start : start + size]
        for size in range(len(shortest), 0, -1)
        for start in range(len(shortest) - size + 1)
    )
    return next((part for part in parts if all(part in name for name in names)), "")


def _plain(estimate: Estimate) -> list[float | None]:
    return [float(each) if math.isfinite(each) else None for each in estimate]
