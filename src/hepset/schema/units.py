"""Units as figures and tables show them."""

from __future__ import annotations

from hepset.schema.feature import Feature, guess_role

__all__ = ["axis_label", "unit_of"]

_DIMENSIONAL = {"pt", "mass", "energy", "px", "py", "pz"}


def unit_of(name: str, feature: Feature) -> str:
    """Return the unit of a feature; ``file units`` where it has one that nobody has declared."""
    if feature.unit:
        return feature.unit
    guessed = guess_role(name)
    role = feature.role or (guessed[1] if guessed else None)
    return "file units" if role in _DIMENSIONAL else ""


def axis_label(label: str, name: str, feature: Feature) -> str:
    """Return the label of an axis with the unit in brackets."""
    unit = unit_of(name, feature)
    return f"{label} [{unit}]" if unit else label
