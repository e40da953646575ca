"""Rules on single values: finite, in a logarithm's domain, a class, one-hot, not negative."""

from __future__ import annotations

import numpy as np

from hepset.arrays import Array
from hepset.check.findings import Findings, View
from hepset.schema.steps import curve
from hepset.schema.tensors import Domain, Finite, Labels, NonNegative, OneHot, TensorSpec


def check_values(spec: TensorSpec, columns: dict[str, View], findings: Findings) -> None:
    """Check the columns of one tensor against its rules; real entries only."""
    for rule in spec.rules:
        if isinstance(rule, Domain):
            if rule.feature in columns:
                _domain(_label(spec, rule.feature), columns[rule.feature], rule, findings)
            continue
        for name, view in columns.items():
            label = _label(spec, name)
            if isinstance(rule, Finite):
                _finite(label, view, rule, findings, is_weight=spec.kind == "weight")
            elif isinstance(rule, Labels):
                _labels(label, view, rule, findings)
            elif isinstance(rule, NonNegative):
                _non_negative(label, view, findings)
        if isinstance(rule, OneHot) and columns:
            _one_hot(spec, columns, findings)


def check_target_weights(name: str, weights: Array, findings: Findings) -> None:
    """Check the weights of a target, which no contract names, against the rules of all weights."""
    _finite(name, View(weights), Finite(), findings, is_weight=True)


def _label(spec: TensorSpec, column: str) -> str:
    return f"{spec.name}.{column}" if column else spec.name


def _finite(label: str, view: View, rule: Finite, findings: Findings, *, is_weight: bool) -> None:
    values = view.values
    if values.dtype.kind != "f" or not values.size:
        return
    # The extremes are finite exactly when all values are, and cost no temporary array.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return
    flags = view.real(np.isinf(values) if rule.allow_nan else ~np.isfinite(values))
    if not flags.any():
        return
    if rule.allow_nan:
        advice = "mark a missing value with NaN, or select these events away in prepare.select"
    elif is_weight:
        advice = "correct it where the file is made, or select these events away in prepare.select"
    else:
        advice = "mask the object if it is not real, or replace the value where the file is made"
    findings.events(
        "finite",
        label,
        view.rows(flags),
        expected="a finite number, or NaN for missing" if rule.allow_nan else "a finite number",
        found=view.first(flags),
        advice=advice,
    )


def _domain(label: str, view: View, rule: Domain, findings: Findings) -> None:
    values = view.values
    if not values.size or values.min() > rule.above:
        return
    flags = view.real(values <= rule.above)
    if not flags.any():
        return
    findings.events(
        "domain",
        label,
        view.rows(flags),
        expected=f"a value above {rule.above:g} for the transform {rule.transform}",
        found=view.first(flags),
        advice=f"{curve(rule.transform).advice}, or mask the object if it is not real",
    )


def _labels(label: str, view: View, rule: Labels, findings: Findings) -> None:
    values = view.values
    if not values.size:
        return
    highest = rule.classes
    if values.min() >= -1 and (highest is None or values.max() < highest):
        return
    bad = values < -1
    if highest is not None:
        bad = bad | (values >= highest)
    flags = view.real(bad)
    if not flags.any():
        return
    expected = "a class from 0" + (f" to {highest - 1}" if highest is not None else "")
    findings.events(
        "labels",
        label,
        view.rows(flags),
        expected=f"{expected}, or −1 for missing",
        found=view.first(flags),
        advice=_advice(values, highest),
    )


def _advice(values: Array, highest: int | None) -> str:
    """Tell the way out of labels that are none of the classes."""
    if highest is not None and values.max() >= highest:
        return "give the event file as many classes as the labels have, or renumber them"
    if highest is None:
        return "write −1 where there is no label"
    return (
        "these events match no class or several; fix the label definition, write −1 where there is "
        "no label, or remove the events by a selection"
    )


def _non_negative(label: str, view: View, findings: Findings) -> None:
    values = view.values
    if not values.size or values.min() >= 0:
        return
    flags = view.real(values < 0)
    if not flags.any():
        return
    findings.events(
        "non_negative",
        label,
        view.rows(flags),
        expected="no value below 0",
        found=view.first(flags),
        advice="for event weights choose train.negative_weights: keep, abs or drop",
    )


def _one_hot(spec: TensorSpec, columns: dict[str, View], findings: Findings) -> None:
    if set(columns) == {""}:
        view = columns[""]
        values = view.values
    else:
        view = next(iter(columns.values()))
        values = np.stack([column.values for column in columns.values()], axis=-1)
    if not values.size:
        return
    good = ((values == 0) | (values == 1)).all(axis=-1) & ((values == 1).sum(axis=-1) == 1)
    if values.dtype.kind == "f":
        good |= np.isnan(values).all(axis=-1)
    flags = View(good, view.mask, view.objects).real(~good)
    if not flags.any():
        return
    first = values.reshape(-1, values.shape[-1])[int(np.argmax(flags))]
    findings.events(
        "one_hot",
        spec.name,
        View(good, view.mask, view.objects).rows(flags),
        expected="exactly one 1 and otherwise 0",
        found="[" + ", ".join(f"{value:g}" for value in first[:8]) + "]",
        advice="write the label as an integer, or correct the encoding where the file is made",
    )
