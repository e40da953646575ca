"""How SPANet and hepset name the same things."""

from __future__ import annotations

from collections.abc import Collection

RESERVED = frozenset(
    {
        "MASK",
        "WEIGHT",
        "EVENT",
        "INPUTS",
        "TARGETS",
        "PARTICLE",
        "REGRESSIONS",
        "PERMUTATIONS",
        "CLASSIFICATIONS",
        "EMBEDDINGS",
    }
)
"""Words that SPANet's files use themselves, so that nothing may have them as its name."""


def target_name(key: str) -> str:
    """Return hepset's name of a target that SPANet keeps under a key.

    ``EVENT/mass`` is ``mass``, ``t1/PARTICLE/mass`` is ``t1/mass``, ``t1/b/pt`` stays.
    """
    parts = key.split("/")
    if parts[0] == "EVENT":
        return "/".join(parts[1:])
    if len(parts) > 2 and parts[1] == "PARTICLE":
        return "/".join((parts[0], *parts[2:]))
    return key


def spanet_key(name: str, particles: Collection[str]) -> str | None:
    """Return SPANet's key of a target, the inverse of `target_name`.

    Args:
        name: hepset's name, without ``target/``.
        particles: The event's particles.

    Returns:
        The path below ``REGRESSIONS`` or ``CLASSIFICATIONS``; None where SPANet has no place for
        a target of this name.
    """
    match name.split("/"):
        case [_]:
            return f"EVENT/{name}"
        case [particle, last] if particle in particles:
            return f"{particle}/PARTICLE/{last}"
        case [particle, _, _] if particle in particles:
            return name
    return None


def weight_tensor(target: str) -> str:
    """Return the tensor with the weights of a target tensor, ``weight/…`` for ``target/…``."""
    return target.replace("target/", "weight/", 1)
