"""Event files of SPANet 1 (``.ini``), rewritten as those of SPANet 2.

::

    [SOURCE]
    pt = log_normalize

    [EVENT]
    particles = (t1, t2)
    permutations = [(t1, t2)]

    [t1]
    jets = (q1, q2, b)
    permutations = [(q1, q2)]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hepset.errors import EventInfoError, did_you_mean

__all__ = ["INPUT", "from_ini", "is_ini"]

INPUT = "Source"
"""Name of the one input, as SPANet's own conversion of version 1 files calls it."""
_SOURCE, _EVENT = "SOURCE", "EVENT"
_ENTRY = re.compile(r"[(\[]([^()\[\]]+)[)\]]")
"""Innermost brackets: names that may be interchanged."""


def is_ini(document: Mapping[str, Any]) -> bool:
    """Whether a document has the sections of such a file, and not those of a SPANet 2 file."""
    return (
        {_SOURCE, _EVENT} <= document.keys()
        and "INPUTS" not in document
        and all(isinstance(section, Mapping) for section in document.values())
    )


def from_ini(document: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the event file of SPANet 2 that says the same.

    Args:
        document: Section → key → text.
        where: Name of the file in messages.

    Raises:
        EventInfoError: Listing everything that is missing, unknown or ambiguous.
    """
    problems: list[str] = []

    def section(name: str, known: tuple[str, ...]) -> Mapping[str, str]:
        found = document.get(name)
        if found is None:
            problems.append(f"{where}: [{name}]: this section is missing")
            return {}
        for key in found:
            if key not in known:
                hint = did_you_mean(str(key), known)
                problems.append(
                    f"{where}: [{name}] {key}: unknown key{hint}; known: {', '.join(known)}"
                )
        return {key: str(value) for key, value in found.items()}

    event = section(_EVENT, ("particles", "permutations"))
    particles = _names(event.get("particles", ""))
    if not particles:
        problems.append(f"{where}: [{_EVENT}] particles: expected names such as (t1, t2)")
    problems += [
        f"{where}: [{_EVENT}] particles: {name!r} is named twice"
        for name in dict.fromkeys(particles)
        if particles.count(name) > 1
    ]
    products: dict[str, list[str]] = {}
    permutations: dict[str, list[list[str]]] = {}
    for name in (_EVENT, *dict.fromkeys(particles)):
        stated = event if name == _EVENT else section(name, ("jets", "permutations"))
        if name != _EVENT:
            products[name] = _names(stated.get("jets", ""))
            if name in document and not products[name]:
                problems.append(f"{where}: [{name}] jets: expected names such as (q1, q2, b)")
        text = stated.get("permutations", "")
        entries = [_names(entry) for entry in _ENTRY.findall(text)]
        if _ENTRY.sub("", text).strip("[]() ,\n\t"):
            problems.append(
                f"{where}: [{name}] permutations: expected pairs in brackets such as [(q1, q2)], "
                f"found {text!r}"
            )
        problems += [
            f"{where}: [{name}] permutations: ({', '.join(entry)}) may mean every reordering or "
            "one cycle; write the event as SPANet 2's YAML, where [a, b, c] is the first and "
            "[[a, b, c]] the second"
            for entry in entries
            if len(entry) > 2
        ]
        problems += [
            f"{where}: [{name}] permutations: ({', '.join(entry)}) interchanges nothing; expected "
            "pairs such as (q1, q2)"
            for entry in entries
            if len(entry) < 2
        ]
        if entries:
            permutations[name] = entries
    for name in document:
        if name not in {_SOURCE, _EVENT, *particles}:
            hint = did_you_mean(str(name), particles)
            problems.append(
                f"{where}: [{name}]: unknown section{hint}; there are [{_SOURCE}], [{_EVENT}] and "
                "one per particle"
            )
    if problems:
        raise EventInfoError("\n".join(problems))
    return {
        "INPUTS": {"SEQUENTIAL": {INPUT: dict(document[_SOURCE])}},
        "EVENT": products,
        "PERMUTATIONS": permutations,
    }


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,()\[\]\"']+", text) if name]
