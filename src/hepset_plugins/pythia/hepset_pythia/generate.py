"""Blocks of generated events: block k of (process, seed) is the same wherever it is made."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib.metadata import version

import awkward as ak
import numpy as np
import pythia8mc

from hepset.arrays import offsets_of
from hepset.errors import ConfigurationError, ReadError
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.processes import Process
from hepset_pythia.randomness import block_key, pythia_seed
from hepset_pythia.record import ParticleRecord
from hepset_pythia.settings import apply_setting

logger = logging.getLogger(__name__)

BLOCK_SIZE = 500
"""Generated events per block; an initialisation takes as long as some 40 events."""

TURN = 10
"""Events between two changes of the decay where a process alternates."""

_BATCH = 50
_MILLIBARN = 1e9
"""Picobarn per millibarn, Pythia's unit."""


@dataclass(frozen=True)
class GeneratedBlock:
    """The events of one block that Pythia completed.

    Attributes:
        key: Key of the block's random numbers.
        entry: Number of each event in the sequence of the block, failed ones counted, ``(event,)``.
        record: Their particles.
        weight: Event weights, ``(event,)``.
        n_failed: Events that Pythia gave up.
        cross_section: Leading-order cross section in pb, all alternatives of the decay together.
        cross_section_error: Its statistical error in pb.
    """

    key: int
    entry: IntArray
    record: ParticleRecord
    weight: FloatArray
    n_failed: int
    cross_section: float
    cross_section_error: float


def generate_block(
    process: Process,
    *,
    seed: int,
    block: int,
    n_events: int = BLOCK_SIZE,
    vertices: bool = False,
) -> GeneratedBlock:
    """Generate one block of events.

    Fewer events are a prefix of the full block.

    Args:
        process: What to generate.
        seed: The user's seed.
        block: Number of the block, from 0.
        n_events: Events to try, at most `BLOCK_SIZE`.
        vertices: Whether to keep where the particles were produced.

    Raises:
        ConfigurationError: If Pythia refuses a setting or cannot start.
        ReadError: If an event has no weight, or if no event could be made.
    """
    if not 0 < n_events <= BLOCK_SIZE:
        msg = f"a block holds 1 to {BLOCK_SIZE} events, {n_events} asked for"
        raise ConfigurationError(msg)
    key = block_key(process.identity, seed, block)
    pythia = start_pythia(process, key)
    place = f"process {process.name!r}, seed {seed}, block {block}"

    step = TURN if process.alternatives else _BATCH
    parts: list[_Columns] = []
    for start in range(0, n_events, step):
        if process.alternatives:
            turn = (start // TURN) % len(process.alternatives)
            for setting in process.alternatives[turn]:
                apply_setting(pythia, setting)
        batch = pythia.nextBatch(min(step, n_events - start), errorMode="none")
        parts.append(_columns(batch, start, place, vertices=vertices))

    entry = np.concatenate([part.entry for part in parts])
    n_failed = n_events - len(entry)
    if len(entry) == 0:
        msg = f"{place}: Pythia failed on all {n_events} events; check the settings"
        raise ReadError(msg)
    if n_failed:
        logger.warning("%s: Pythia gave up %d of %d events", place, n_failed, n_events)
    info = pythia.infoPython()
    scale = _MILLIBARN * max(1, len(process.alternatives))
    return GeneratedBlock(
        key=key,
        entry=entry,
        record=_record(parts),
        weight=np.concatenate([part.weight for part in parts]),
        n_failed=n_failed,
        cross_section=float(info.sigmaGen()) * scale,
        cross_section_error=float(info.sigmaErr()) * scale,
    )


def start_pythia(process: Process, key: int) -> pythia8mc.Pythia:
    """Return an initialised, silent Pythia.

    Raises:
        ConfigurationError: If a setting is unknown or Pythia cannot be initialised with them.
    """
    pythia = pythia8mc.Pythia("", False)
    quiet = ("Print:quiet = on", "Random:setSeed = on", f"Random:seed = {pythia_seed(key)}")
    for setting in (*quiet, *process.settings):
        apply_setting(pythia, setting)
    if not pythia.init():
        listed = "; ".join(process.settings)
        msg = f"Pythia cannot be initialised for process {process.name!r} with: {listed}"
        raise ConfigurationError(msg)
    return pythia


def estimate_cross_section(
    process: Process, *, seed: int, n_events: int = 2000
) -> tuple[float, float]:
    """Estimate the leading-order cross section from hard processes alone, without a shower.

    Args:
        process: What to generate.
        seed: The user's seed.
        n_events: Hard processes to generate; 2000 take a fraction of a second and give 1 to 3 %.

    Returns:
        Cross section and statistical error in pb, all alternatives of the decay together.

    Raises:
        ConfigurationError: If Pythia refuses a setting or cannot start.
    """
    hard = replace(process, settings=(*process.settings, "PartonLevel:all = off"))
    pythia = start_pythia(hard, block_key(hard.identity, seed, 0))
    for _ in range(n_events):
        pythia.next()
    info = pythia.infoPython()
    scale = _MILLIBARN * max(1, len(process.alternatives))
    return float(info.sigmaGen()) * scale, float(info.sigmaErr()) * scale


def versions() -> dict[str, str]:
    """Return the versions of the generator and of the jet library."""
    return {name: version(name) for name in ("pythia8mc", "fastjet")}


@dataclass(frozen=True)
class _Columns:
    entry: IntArray
    weight: FloatArray
    counts: IntArray
    integers: dict[str, IntArray]
    p4: FloatArray
    vertex: FloatArray | None


_INTEGERS = ("id", "status", "mother1", "daughter1", "daughter2")


def _columns(batch: ak.Array, start: int, place: str, *, vertices: bool = False) -> _Columns:
    made = ~np.asarray(ak.is_none(batch))
    entry = start + np.flatnonzero(made)
    if len(entry) == 0:
        empty = np.zeros(0, dtype=np.int64)
        integers = dict.fromkeys(_INTEGERS, empty)
        vertex = np.zeros((0, 3)) if vertices else None
        return _Columns(entry, np.zeros(0), empty, integers, np.zeros((0, 4)), vertex)
    events = batch if made.all() else batch[made]
    particles, momenta = events.prt, events.prt.p
    return _Columns(
        entry=entry,
        weight=first_weights(ak.drop_none(events.info.weights, axis=0), entry, place),
        counts=_flat(ak.num(particles.id)),
        integers={name: _flat(ak.flatten(particles[name])) for name in _INTEGERS},
        p4=_stacked(momenta, ("px", "py", "pz", "e")),
        vertex=_stacked(particles.vProd, ("px", "py", "pz")) if vertices else None,
    )


def _stacked(vectors: ak.Array, names: tuple[str, ...]) -> FloatArray:
    # Particles of the beams have no vertex: they are where the collision is.
    columns = [ak.fill_none(ak.flatten(vectors[name]), 0.0) for name in names]
    return np.stack([np.asarray(column) for column in columns], axis=-1)


def _flat(values: ak.Array) -> IntArray:
    """Integers as numpy has them; the option type that failed events leave behind is dropped."""
    return np.asarray(ak.drop_none(values), dtype=np.int64)


def first_weights(weights: ak.Array, entry: IntArray, place: str) -> FloatArray:
    """Return the nominal (first) weight of each event.

    Args:
        weights: All weights of each event, shape ``(event, var)``.
        entry: Number of each event, for the message.
        place: Where they come from, for the message.

    Raises:
        ReadError: If an event has no weight or one that is not finite.
    """
    missing = np.asarray(ak.num(weights)) == 0
    if missing.any():
        msg = (
            f"{place}: {int(missing.sum())} of {len(missing)} events carry no weight, "
            f"first event {int(entry[np.argmax(missing)])}; a missing weight is not 1"
        )
        raise ReadError(msg)
    first: FloatArray = np.asarray(weights[:, 0], dtype=np.float64)
    wrong: BoolArray = ~np.isfinite(first)
    if wrong.any():
        msg = (
            f"{place}: the weight of {int(wrong.sum())} of {len(wrong)} events is not finite, "
            f"first event {int(entry[np.argmax(wrong)])}"
        )
        raise ReadError(msg)
    return first


def _record(parts: list[_Columns]) -> ParticleRecord:
    counts = np.concatenate([part.counts for part in parts])
    offsets = offsets_of(counts)
    start = np.repeat(offsets[:-1], counts)
    columns = {name: np.concatenate([part.integers[name] for part in parts]) for name in _INTEGERS}

    vertex = [part.vertex for part in parts if part.vertex is not None]

    def rows(name: str) -> IntArray:
        return np.where(columns[name] > 0, columns[name] + start, -1)

    return ParticleRecord(
        offsets=offsets,
        pdg_id=columns["id"],
        status=columns["status"],
        mother=rows("mother1"),
        first_daughter=rows("daughter1"),
        second_daughter=rows("daughter2"),
        p4=np.concatenate([part.p4 for part in parts]),
        vertex=np.concatenate(vertex) if vertex else None,
    )
