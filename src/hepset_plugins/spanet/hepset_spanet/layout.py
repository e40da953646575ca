"""What one SPANet file holds: which dataset is which tensor, checked from the headers alone.

Paths are those of SPANet 2 (``INPUTS/<input>/<feature>``, ``TARGETS/<particle>/<product>``,
``REGRESSIONS/<key>``, ``CLASSIFICATIONS/<key>``). Two odd forms are read as well: version 1 (one
input in the group ``source``, particles at the top), and the group names ``SpecialKey.Inputs`` that
SPANet writes under Python 3.11 and later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from hepset.errors import EventInfoError, ReadError, closest
from hepset.schema.event import EventInfo, Stream
from hepset_spanet.names import spanet_key, weight_tensor

with contextlib.suppress(ImportError):  # registers further compression filters with HDF5
    import hdf5plugin  # noqa: F401

SECTIONS = ("Inputs", "Targets", "Regressions", "Classifications")
CONTENT_ATTRIBUTE = "hepset_content"
"""Attribute of the file in which hepset's writer says ``events`` or ``predictions``."""


@dataclass(frozen=True)
class Layout:
    """Where the tensors of one file are.

    Attributes:
        path: The file.
        entries: Number of events.
        slots: Stream → number of padded slots.
        columns: Stream → feature → dataset, features of objects.
        pairs: Stream → feature → dataset, features of pairs of objects.
        masks: Stream or global → dataset of the mask; a global may have none.
        globals: Global → feature → dataset.
        products: Assignment tensor → product → dataset; only particles that the file has.
        particle_masks: Assignment tensor → dataset of the particle's mask.
        particle_weights: Assignment tensor → dataset of the particle's weights.
        targets: Target → dataset; only targets that the file has.
        weight: Dataset of the event weights, where the reader was asked for one.
        extra: Name → dataset of what else the reader was asked for.
        dtypes: Dataset → dtype.
        predictions: Whether the file holds what a network said, not the truth.
    """

    path: str
    entries: int
    slots: dict[str, int]
    columns: dict[str, dict[str, str]]
    pairs: dict[str, dict[str, str]]
    masks: dict[str, str]
    globals: dict[str, dict[str, str]]
    products: dict[str, dict[str, str]]
    particle_masks: dict[str, str]
    particle_weights: dict[str, str]
    targets: dict[str, str]
    weight: str | None
    extra: dict[str, str]
    dtypes: dict[str, np.dtype[Any]]
    predictions: bool

    @property
    def kinds(self) -> dict[str, np.dtype[Any]]:
        """Dtypes of the numbers, by ``<input>.<feature>`` and by name of the target tensor."""
        paths = {f"target/{name}": path for name, path in self.targets.items()}
        for block in (self.columns, self.pairs, self.globals):
            for name, features in block.items():
                paths |= {f"{name}.{feature}": path for feature, path in features.items()}
        return {name: self.dtypes[path] for name, path in paths.items()}

    @property
    def optional(self) -> set[str]:
        """Names of the tensors that a file may or may not have, and that this one has."""
        return {
            *(f"target/{name}" for name in self.targets),
            *self.products,
            *map(weight_tensor, self.particle_weights),
        }


def open_file(path: str) -> h5py.File:
    """Open a file for reading, without locking it.

    HDF5 refuses to open a file twice in one process where only one of the two locks it; a file that
    the user has open already is opened the same way.

    Raises:
        ReadError: If it is missing, truncated or not HDF5.
    """
    problem: OSError | None = None
    for locking in (False, None):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as found:
            problem = found
            if "locking" not in str(found):
                break
    raise ReadError(f"{path}: cannot be opened as HDF5: {problem}")


def is_spanet_file(path: str) -> bool:
    """Whether a local file is HDF5 with the groups of SPANet 2, or the masked source of version 1.

    Other programs' HDF5 files, and files that are not there, are none.
    """
    if not h5py.is_hdf5(path):
        return False
    with open_file(path) as file:
        return "INPUTS" in file or "SpecialKey.Inputs" in file or "source/mask" in file


def number_of_events(path: str) -> int:
    """Return the number of events of a file: the length of its first dataset.

    Raises:
        ReadError: If it cannot be opened, or holds no dataset.
    """
    with open_file(path) as file:
        lengths: list[int] = []

        def first(name: str, item: object) -> bool | None:
            del name
            if isinstance(item, h5py.Dataset) and item.ndim:
                lengths.append(int(item.shape[0]))
                return True
            return None

        file.visititems(first)
    if not lengths:
        raise ReadError(f"{path}: holds no dataset")
    return lengths[0]


def read_layout(
    file: h5py.File,
    path: str,
    event: EventInfo,
    *,
    weight: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Layout:
    """Find the tensors of an event in a file.

    Args:
        file: The open file.
        path: Its name in messages.
        event: What to look for.
        weight: Dataset of the event weights.
        extra: Name → dataset of what else is wanted.

    Raises:
        ReadError: If a dataset is missing, has the wrong number of axes, or rows disagree.
    """
    return _Scan(file, path, event).layout(weight, dict(extra or {}))


@dataclass
class _Scan:
    file: h5py.File
    path: str
    event: EventInfo
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)

    def layout(self, weight: str | None, extra: dict[str, str]) -> Layout:
        columns: dict[str, dict[str, str]] = {}
        pairs: dict[str, dict[str, str]] = {}
        masks: dict[str, str] = {}
        slots: dict[str, int] = {}
        for name, stream in self.event.streams.items():
            group = self.input_group(name)
            mask = self.dataset(f"{group}/{'mask' if group == 'source' else 'MASK'}", axes=(2,))
            masks[name], slots[name] = mask, self.shapes[mask][1]
            columns[name], pairs[name] = {}, {}
            for feature in (*stream.features, *stream.pairs):
                path = self.dataset(f"{group}/{feature}", axes=(2, 3))
                is_pair = len(self.shapes[path]) == 3
                if feature in stream.pairs and not is_pair:
                    raise ReadError(
                        f"{self.path}: {path}: {feature!r} is declared under pairs, which needs "
                        f"the axes (event, slot, slot), found shape {self.shapes[path]}"
                    )
                (pairs if is_pair else columns)[name][feature] = path
        globals_: dict[str, dict[str, str]] = {}
        for name, block in self.event.globals.items():
            group = self.input_group(name)
            globals_[name] = {
                feature: self.dataset(f"{group}/{feature}", axes=(1,)) for feature in block.features
            }
            if f"{group}/MASK" in self.file:
                masks[name] = self.dataset(f"{group}/MASK", axes=(1,))
        predictions = self.holds_predictions()
        products, particle_masks, particle_weights = ({}, {}, {}) if predictions else self.truth()
        layout = Layout(
            path=self.path,
            entries=self.shapes[next(iter(self.shapes))][0],
            slots=slots,
            columns=columns,
            pairs=pairs,
            masks=masks,
            globals=globals_,
            products=products,
            particle_masks=particle_masks,
            particle_weights=particle_weights,
            targets={} if predictions else self.targets(),
            weight=None if weight is None else self.dataset(weight, axes=(1,)),
            extra={name: self.dataset(path) for name, path in extra.items()},
            dtypes=self.dtypes,
            predictions=predictions,
        )
        self.check_rows(layout)
        return layout

    def section(self, name: str) -> str:
        """Return the path of ``INPUTS``, ``TARGETS``, … in this file."""
        odd = f"SpecialKey.{name}"
        return odd if odd in self.file else name.upper()

    @property
    def is_version_1(self) -> bool:
        return self.section("Inputs") not in self.file and "source" in self.file

    def input_group(self, name: str) -> str:
        if self.is_version_1:
            inputs = [*self.event.streams, *self.event.globals]
            if len(inputs) > 1:
                raise ReadError(
                    f"{self.path}: a SPANet file of version 1 has one input (the group 'source'), "
                    f"the event has {len(inputs)}: {', '.join(inputs)}"
                )
            return "source"
        root = self.section("Inputs")
        if root not in self.file:
            found = ", ".join(self.file) or "nothing"
            raise ReadError(
                f"{self.path}: no group 'INPUTS', so this is not a SPANet file; it holds {found}"
            )
        path = f"{root}/{name}"
        if not isinstance(self.file.get(path), h5py.Group):
            raise ReadError(f"{self.path}: no input group {path}{self.nearest(path)}")
        return path

    def dataset(self, path: str, axes: tuple[int, ...] = ()) -> str:
        """Return a path after making sure that a dataset of so many axes is there."""
        found = self.file.get(path)
        if not isinstance(found, h5py.Dataset):
            raise ReadError(f"{self.path}: no dataset {path}{self.nearest(path)}")
        if (axes and found.ndim not in axes) or not found.ndim:
            wanted = " or ".join(map(str, axes or (1,)))
            raise ReadError(
                f"{self.path}: {path}: expected {wanted} axes, found shape {found.shape}"
            )
        self.shapes[path], self.dtypes[path] = found.shape, found.dtype
        return path

    def nearest(self, path: str) -> str:
        """Say what a missing path may have been meant to be."""
        parent, _, name = path.rpartition("/")
        folder = self.file.get(parent) if parent else self.file
        if not isinstance(folder, h5py.Group):
            return f"; there is no group {parent} either"
        near = closest(name, folder)
        if near:
            return f"; closest names there: {', '.join(near)}"
        return f"; {parent or 'the file'} holds {', '.join(folder) or 'nothing'}"

    def holds_predictions(self) -> bool:
        stated = self.file.attrs.get(CONTENT_ATTRIBUTE)
        if stated is not None:
            return str(stated) == "predictions"
        if any(f"SpecialKey.{name}" in self.file for name in SECTIONS):
            return True
        targets = self.file.get("TARGETS")
        return isinstance(targets, h5py.Group) and any(
            f"{particle}/assignment_probability" in targets for particle in targets
        )

    def truth(self) -> tuple[dict[str, dict[str, str]], dict[str, str], dict[str, str]]:
        """Find the products, masks and weights of the particles that the file has."""
        products: dict[str, dict[str, str]] = {}
        masks: dict[str, str] = {}
        weights: dict[str, str] = {}
        root = "" if self.is_version_1 else "TARGETS/"
        declared = [assignment.particle for assignment in self.event.assignments()]
        for assignment in self.event.assignments():
            name = assignment.tensor
            group = f"{root}{assignment.particle}"
            if not isinstance(self.file.get(group), h5py.Group):
                self.refuse_misspelt(group, declared)
                continue
            products[name] = {
                product: self.dataset(f"{group}/{product}", axes=(1,))
                for product in assignment.products
            }
            if self.is_version_1:
                continue
            if f"{group}/MASK" in self.file:
                masks[name] = self.dataset(f"{group}/MASK", axes=(1,))
            if f"{group}/WEIGHT" in self.file:
                weights[name] = self.dataset(f"{group}/WEIGHT", axes=(1,))
        return products, masks, weights

    def targets(self) -> dict[str, str]:
        particles = {assignment.particle for assignment in self.event.assignments()}
        found = {}
        keys = {
            name: key
            for name, target in self.event.targets.items()
            if target.stream is None and (key := spanet_key(name, particles)) is not None
        }
        for name, key in keys.items():
            kind = self.event.targets[name].kind
            path = f"{kind.upper()}S/{key}"
            if path in self.file:
                found[name] = self.dataset(path, axes=(1,))
            else:
                parent = key.rpartition("/")[0]
                self.refuse_misspelt(
                    path,
                    [k.rpartition("/")[2] for k in keys.values() if k.rpartition("/")[0] == parent],
                )
        return found

    def refuse_misspelt(self, path: str, declared: list[str]) -> None:
        """Refuse a file without a target where it has one of nearly that name instead."""
        parent, _, name = path.rpartition("/")
        folder = self.file.get(parent) if parent else self.file
        if not isinstance(folder, h5py.Group):
            return
        near = closest(name, [other for other in folder if other not in declared], count=1)
        if near:
            raise ReadError(
                f"{self.path}: no {path}, but {parent or 'the file'} holds {near[0]!r}; rename it "
                "in the file or in the event description, or take the target out of the latter"
            )

    def check_rows(self, layout: Layout) -> None:
        wrong = {p: s[0] for p, s in self.shapes.items() if s[0] != layout.entries}
        if wrong:
            first = next(iter(self.shapes))
            listed = ", ".join(f"{path} has {rows}" for path, rows in list(wrong.items())[:5])
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ReadError(
                f"{self.path}: rows disagree in length: {first} has {layout.entries} events, "
                f"{listed}{more}"
            )
        for name, path in self.inputs_with_slots(layout):
            shape, slots = self.shapes[path], layout.slots[name]
            if any(size != slots for size in shape[1:]):
                raise ReadError(
                    f"{self.path}: {path} has shape {shape}, but the mask {layout.masks[name]} "
                    f"has {slots} slots"
                )

    @staticmethod
    def inputs_with_slots(layout: Layout) -> Iterator[tuple[str, str]]:
        for block in (layout.columns, layout.pairs):
            for name, features in block.items():
                for path in features.values():
                    yield name, path


def refined(event: EventInfo, layout: Layout) -> EventInfo:
    """Return the event with features of pairs of objects where the file has such."""
    streams: dict[str, Stream] = {}
    for name, stream in event.streams.items():
        every = {**stream.features, **stream.pairs}
        if set(layout.pairs[name]) == set(stream.pairs):
            streams[name] = stream
            continue
        changed = {
            "slots": stream.slots,
            "order": stream.order,
            "p4": stream.p4,
            "features": {feature: every[feature] for feature in layout.columns[name]},
            "pairs": {feature: every[feature] for feature in layout.pairs[name]},
        }
        streams[name] = Stream.parse(changed, f"{layout.path}: streams.{name}", EventInfoError)
    return event.model_copy(update={"streams": streams})
