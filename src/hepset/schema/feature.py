"""`Feature`: one number of an object or an event, its unit, its role and its transform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from hepset.schema.base import Model
from hepset.schema.steps import Affine, AffineStep, Transform, check_transform

Role = Literal[
    "pt",
    "eta",
    "phi",
    "mass",
    "energy",
    "px",
    "py",
    "pz",
    "sin_phi",
    "cos_phi",
    "rapidity",
    "x",
    "y",
    "z",
    "none",
]
"""What a number is to kinematics, so that rotations and reflections turn it correctly: momenta and
angles, a position (x, y, z) with z along the beam, or ``none`` of it."""

ROLES: tuple[Role, ...] = (
    "sin_phi",
    "cos_phi",
    "pt",
    "eta",
    "phi",
    "mass",
    "energy",
    "px",
    "py",
    "pz",
    "rapidity",
)

_ALIASES: dict[str, Role] = {
    "e": "energy",
    "m": "mass",
    "sinphi": "sin_phi",
    "cosphi": "cos_phi",
    "met": "pt",
    "y": "rapidity",
}

P4_SYSTEMS: tuple[tuple[Role, ...], ...] = (
    ("pt", "eta", "phi", "mass"),
    ("pt", "eta", "phi", "energy"),
    ("px", "py", "pz", "energy"),
    ("pt", "eta", "sin_phi", "cos_phi", "mass"),
    ("pt", "eta", "sin_phi", "cos_phi", "energy"),
)
"""The sets of roles that make a four-momentum."""


def guess_role(name: str) -> tuple[str, Role] | None:
    """Split a name such as ``neutrino_px`` into its stem and its kinematic role.

    Returns:
        ``("neutrino", "px")``, or ``("", "pt")`` for a bare ``pt``; None where the name does not
        end in a role.
    """
    folded = name.casefold().rsplit("/", 1)[-1]
    if folded in _ALIASES:
        return "", _ALIASES[folded]
    for role in ROLES:
        if folded == role:
            return "", role
        if folded.endswith("_" + role):
            return folded[: -len(role) - 1], role
    return None


_POSITION: tuple[Role, ...] = ("x", "y", "z")


def roles_of(declared: Mapping[str, Role | None]) -> dict[str, tuple[str, Role]]:
    """Find out what the numbers of one object are: as declared, else by their names.

    ``y`` is a rapidity where it stands alone, and a position beside ``x`` and ``z``; so are
    ``<stem>_x``, ``<stem>_y`` and ``<stem>_z`` where there are all three.

    Args:
        declared: Name → role, null where it is to be guessed.

    Returns:
        Name → stem and role, of every number that has a kinematic meaning.
    """
    found: dict[str, tuple[str, Role]] = {}
    positions: dict[str, dict[Role, str]] = {}
    for name, role in declared.items():
        guessed = guess_role(name)
        if role is None:
            stem, _, last = name.casefold().rpartition("/")[2].rpartition("_")
            if last in _POSITION:
                prefix = name.rpartition("/")[0]
                positions.setdefault(f"{prefix}/{stem}", {})[last] = name
            if guessed is not None:
                found[name] = guessed
        elif role in _POSITION:
            lower = name.casefold().rpartition("/")[2]
            found[name] = (
                lower.removesuffix(role).removesuffix("_") if lower.endswith(role) else "",
                role,
            )
        elif role != "none":
            found[name] = (guessed[0] if guessed and guessed[1] == role else "", role)
    for group, names in positions.items():
        stem = group.rpartition("/")[2]
        if len(names) == len(_POSITION):
            found |= {name: (stem, role) for role, name in names.items()}
        elif len(names) > 1 and not stem and "y" in names:
            found.pop(names["y"])  # See `ambiguous_roles`.
    return found


def ambiguous_roles(declared: Mapping[str, Role | None]) -> list[str]:
    """Return the names that may be a rapidity or a position: ``y`` with one of ``x`` and ``z``."""
    roles = roles_of(declared)
    return [
        name
        for name, role in declared.items()
        if role is None and name not in roles and guess_role(name) is not None
    ]


class Feature(Model):
    """One number of an object, of a pair of objects, or of the event."""

    unit: str | None = None
    """Unit of the values, such as ``GeV``, ``mm`` or ``rad``; null where the file states none."""
    transform: Transform = ()
    """Steps from the physical value to model space, in order: a name, ``{affine: …}``, ``{clip:
    …}``, or a list of them."""
    role: Role | None = None
    """What the number is to kinematics; guessed from the name where null, ``none`` = nothing."""
    input: bool = True
    """Whether the backbone sees it. If not, it is kept in the dataset, for the four-momentum, the
    order of objects and figures."""

    def with_affine(self, constants: Affine) -> Feature:
        """Return the feature with constants in the place of ``affine: auto``."""
        steps = tuple(
            AffineStep(affine=constants)
            if isinstance(step, AffineStep) and step.affine == "auto"
            else step
            for step in self.transform
        )
        return self.model_copy(update={"transform": steps})

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        check_transform(self.transform)
        return self
