"""What no single value shows: a mask that is inverted or empty, MeV called GeV."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hepset.arrays import Ragged
from hepset.check.findings import Findings, View
from hepset.check.indices import Pointers, points_at_padding
from hepset.schema.feature import Feature, Role, guess_role
from hepset.schema.tensors import TensorSpec

_ENOUGH_EVENTS = 5
"""Fewer events without any object prove nothing."""
_NEARLY_ALL = 0.99
_MEV_MEDIAN = 5e3
"""Above this median, in GeV, a momentum or mass of a collider object is not believed."""
_MEV_SAMPLE = 4096
_MOMENTUM: frozenset[Role] = frozenset({"pt", "energy", "mass", "px", "py", "pz"})


def role_of(name: str, feature: Feature) -> Role | None:
    """Return what a column is to kinematics, declared or guessed from its name."""
    if feature.role is not None:
        return feature.role
    guessed = guess_role(name)
    return guessed[1] if guessed else None


def check_masks(
    specs: Mapping[str, TensorSpec],
    streams: Mapping[str, Ragged],
    pointers: list[Pointers],
    findings: Findings,
) -> set[str]:
    """Find masks that are inverted or empty; return the streams with an inverted one."""
    inverted = set()
    for name, data in streams.items():
        if len(data) and _inverted(specs[name], data, pointers, findings):
            inverted.add(name)
        else:
            _empty(specs[name], streams, findings)
    return inverted


def check_units(spec: TensorSpec, columns: Mapping[str, View], findings: Findings) -> None:
    """Warn where a momentum or mass in GeV has the size of one in MeV."""
    for name, view in columns.items():
        feature = spec.features.get(name)
        if feature is None or feature.unit != "GeV":
            continue
        if role_of(name or spec.name, feature) not in _MOMENTUM:
            continue
        values = np.abs(view.sample(_MEV_SAMPLE).astype(np.float64, copy=False))
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        median = float(np.median(values))
        if median > _MEV_MEDIAN:
            label = f"{spec.name}.{name}" if name else spec.name
            findings.tensor(
                "unit",
                label,
                severity="warning",
                expected="GeV",
                found=f"a median of {median:.3g}, which looks like MeV",
                advice="multiply by 0.001 when reading (scale: 0.001) or declare unit: MeV",
            )


def _telling(spec: TensorSpec, data: Ragged) -> str | None:
    """The column that is not zero for real objects: pt, or else energy; None without one."""
    roles = {role_of(name, feature): name for name, feature in reversed(spec.features.items())}
    for role in ("pt", "energy"):
        name = roles.get(role)
        if name is not None and name in data.in_padding:
            return name
    return None


def _inverted(spec: TensorSpec, data: Ragged, pointers: list[Pointers], findings: Findings) -> bool:
    if data.slots is None:
        return False
    label, expected = f"{spec.name}.mask", "True for real objects"
    advice = "invert the mask: True = real, False = padding"
    name = _telling(spec, data)
    if name is not None:
        zero = data.columns[name] == 0
        reals, zeros = data.objects, int(zero.sum())
        pads = len(data) * data.slots - reals
        pad_zeros = pads - int(data.in_padding[name].sum())
        if reals and pads and 2 * zeros > reals and 2 * pad_zeros < pads:
            findings.events(
                "mask-inverted",
                label,
                np.unique(data.event_of[zero]),
                expected=expected,
                found=f"pt or energy vanishes in {zeros} of {reals} real slots "
                f"and in {pad_zeros} of {pads} padded ones",
                advice=advice,
            )
            return True
    rows, masked, valid = points_at_padding(pointers, spec.name, data)
    # A mask without any real slot is empty, not inverted.
    if valid and 2 * masked > valid and data.objects:
        findings.events(
            "mask-inverted",
            label,
            rows,
            expected=expected,
            found=f"{masked} of {valid} target indices point at masked slots",
            advice=advice,
        )
        return True
    return False


def _empty(spec: TensorSpec, streams: Mapping[str, Ragged], findings: Findings) -> None:
    data = streams[spec.name]
    events = len(data)
    empty = data.counts == 0
    count = int(empty.sum())
    if events < _ENOUGH_EVENTS or count < _NEARLY_ALL * events:
        return
    holds_objects = False
    if data.in_padding:
        name = _telling(spec, data)
        held = [data.in_padding[name]] if name is not None else list(data.in_padding.values())
        holds_objects = 2 * int((np.max(held, axis=0)[empty] > 0).sum()) > count
    if not holds_objects and count < events:
        return
    alone = all(not other.counts.any() for other in streams.values())
    findings.events(
        "mask-empty",
        f"{spec.name}.mask",
        np.flatnonzero(empty),
        severity="error" if holds_objects or alone else "warning",
        expected="real objects in some events",
        found="mask is empty, while its slots hold values" if holds_objects else "mask is empty",
        advice=(
            "set the mask to True where an object is real"
            if holds_objects
            else f"check that the files hold {spec.name} and that the reader finds them"
        ),
    )
