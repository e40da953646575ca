"""Truth of the hard process: decay products, resonances and invisible particles.

Products are the direct daughters of the decaying particle, first copy, that is before they
radiate; resonances are last copies, that is as they decay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hepset.errors import ReadError
from hepset_pythia.arrays import FloatArray, IntArray
from hepset_pythia.processes import LEPTONIC_TOP_LEPTON, Process
from hepset_pythia.record import INVISIBLE_IDS, ParticleRecord

Copy = Literal["first", "last"]

_TOP, _W, _Z, _HIGGS, _HEAVY_HIGGS = 6, 24, 23, 25, 35
_NEUTRINOS = (12, 14, 16)


@dataclass
class Truth:
    """Generator-level four-momenta, (px, py, pz, E) in GeV, shape ``(event, 4)`` each.

    Attributes:
        products: ``<particle>/<product>`` -> momentum; NaN where the event lacks it.
        product_ids: The same keys -> PDG codes, shape ``(event,)``, 0 where it is lacking.
        resonances: Particle -> momentum of its last copy.
        invisible: Name -> momentum of a prompt neutrino.
        invisible_sum: Sum over all final-state particles that no detector sees.
        system: Momentum of the whole decaying system (the top pair, the Higgs pair); empty
            where the process has none.
    """

    products: dict[str, FloatArray] = field(default_factory=dict)
    product_ids: dict[str, IntArray] = field(default_factory=dict)
    resonances: dict[str, FloatArray] = field(default_factory=dict)
    invisible: dict[str, FloatArray] = field(default_factory=dict)
    invisible_sum: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    system: FloatArray | None = None


def find_truth(record: ParticleRecord, process: Process, *, copy: Copy = "first") -> Truth:
    """Walk the decay chains of a process.

    Args:
        record: The particles.
        process: What was generated.
        copy: ``first`` takes products as they are born, ``last`` after their final-state
            radiation.

    Raises:
        ReadError: If an event lacks a particle that the process must have.
    """
    truth = Truth()
    if process.truth == "ttbar":
        _walk_ttbar(record, process, copy, truth)
    elif process.truth == "higgs-pair":
        _walk_higgs_pair(record, process, copy, truth)
    elif process.truth == "w":
        _walk_w(record, process, copy, truth)
    elif process.truth == "z":
        _walk_z(record, process, copy, truth)
    truth.invisible_sum = _invisible_sum(record)
    return truth


def _invisible_sum(record: ParticleRecord) -> FloatArray:
    hidden = record.final & np.isin(np.abs(record.pdg_id), INVISIBLE_IDS)
    total = np.zeros((record.n_events, 4))
    np.add.at(total, record.event[hidden], record.p4[hidden])
    return total


def _walk_ttbar(record: ParticleRecord, process: Process, copy: Copy, truth: Truth) -> None:
    tops = [_require(record, record.first_rows(sign * _TOP), "top", process) for sign in (1, -1)]
    tops = [record.last_copies(rows) for rows in tops]
    truth.system = record.p4[tops[0]] + record.p4[tops[1]]
    decays = [_top_decay(record, rows, process) for rows in tops]
    if process.name != "ttbar-semileptonic":
        for name, rows, decay in zip(("t1", "t2"), tops, decays, strict=True):
            truth.resonances[name] = record.p4[rows]
            _keep_products(record, process, copy, truth, name, decay)
        for name, decay in zip(process.invisible, decays, strict=False):
            truth.invisible[name] = record.p4[decay["nu"]]
        return
    hadronic = np.abs(record.pdg_id[decays[0]["q1"]]) < _TOP
    order = {"ht": (hadronic, 0, 1), "lt": (hadronic, 1, 0)}
    for name, (condition, if_true, if_false) in order.items():
        truth.resonances[name] = record.p4[np.where(condition, tops[if_true], tops[if_false])]
        decay = {
            product: np.where(condition, decays[if_true][product], decays[if_false][product])
            for product in decays[0]
        }
        _keep_products(record, process, copy, truth, name, decay)
        if name == "lt":
            truth.invisible["neutrino"] = record.p4[decay["nu"]]
            _keep(record, copy, truth, LEPTONIC_TOP_LEPTON, decay["l"])


def _top_decay(record: ParticleRecord, top: IntArray, process: Process) -> dict[str, IntArray]:
    """Rows of a top's products by the names quarks and leptons have in a topology.

    ``q1`` and ``nu`` are the same row, as are ``q2`` and ``l``: the up- and the down-type
    member of the W's doublet; which name is right depends on the decay.
    """
    first, second = record.two_daughters(top)
    _require(record, first, "top decay", process)
    w_first = np.abs(record.pdg_id[first]) == _W
    w = record.last_copies(np.where(w_first, first, second))
    b = np.where(w_first, second, first)
    up, down = _doublet(record, w, process)
    return {"b": b, "q1": up, "q2": down, "nu": up, "l": down}


def _doublet(
    record: ParticleRecord, boson: IntArray, process: Process
) -> tuple[IntArray, IntArray]:
    first, second = record.two_daughters(boson)
    _require(record, first, "boson decay", process)
    even = record.pdg_id[first] % 2 == 0
    return np.where(even, first, second), np.where(even, second, first)


def _walk_higgs_pair(record: ParticleRecord, process: Process, copy: Copy, truth: Truth) -> None:
    heavy = record.last_copies(
        _require(record, record.first_rows(_HEAVY_HIGGS), "heavy scalar", process)
    )
    truth.system = record.p4[heavy]
    for name, rows in zip(("h1", "h2"), record.two_daughters(heavy), strict=True):
        higgs = record.last_copies(_require(record, rows, "Higgs boson", process))
        truth.resonances[name] = record.p4[higgs]
        first, second = record.two_daughters(higgs)
        is_quark = record.pdg_id[first] > 0
        decay = {
            "b1": np.where(is_quark, first, second),
            "b2": np.where(is_quark, second, first),
        }
        _keep_products(record, process, copy, truth, name, decay)


def _walk_w(record: ParticleRecord, process: Process, copy: Copy, truth: Truth) -> None:
    plus, minus = record.first_rows(_W), record.first_rows(-_W)
    rows = _require(record, _earlier(plus, minus), "W boson", process)
    w = record.last_copies(rows)
    truth.resonances["w"] = record.p4[w]
    neutrino, lepton = _doublet(record, w, process)
    truth.invisible["neutrino"] = record.p4[neutrino]
    _keep(record, copy, truth, "w/l", lepton)


def _walk_z(record: ParticleRecord, process: Process, copy: Copy, truth: Truth) -> None:
    z = record.last_copies(_require(record, record.first_rows(_Z), "Z boson", process))
    truth.resonances["z"] = record.p4[z]
    first, second = record.two_daughters(z)
    negative = record.pdg_id[first] > 0
    decay = {
        "l1": np.where(negative, first, second),
        "l2": np.where(negative, second, first),
    }
    _keep_products(record, process, copy, truth, "z", decay)


def _earlier(one: IntArray, other: IntArray) -> IntArray:
    return np.where((other < 0) | ((one >= 0) & (one < other)), one, other)


def _keep_products(
    record: ParticleRecord,
    process: Process,
    copy: Copy,
    truth: Truth,
    particle: str,
    decay: dict[str, IntArray],
) -> None:
    for product in process.particles[particle]:
        _keep(record, copy, truth, f"{particle}/{product}", decay[product])


def _keep(record: ParticleRecord, copy: Copy, truth: Truth, name: str, rows: IntArray) -> None:
    chosen = record.last_copies(rows) if copy == "last" else rows
    truth.products[name] = record.p4[chosen]
    truth.product_ids[name] = record.pdg_id[chosen]


def _require(record: ParticleRecord, rows: IntArray, what: str, process: Process) -> IntArray:
    missing = rows < 0
    if missing.any():
        msg = (
            f"process {process.name!r}: {int(missing.sum())} of {record.n_events} events have no "
            f"{what}, first event {int(np.argmax(missing))}; do free settings change the decay?"
        )
        raise ReadError(msg)
    return rows
