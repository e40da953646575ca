"""`SpanetDialect`: SPANet's event files and training options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hepset.interfaces.dialect import Description, Dialect
from hepset.plugins import registry
from hepset.schema.event import EventInfo
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.ini_file import from_ini, is_ini
from hepset_spanet.options import parse_options_file, run_defaults

_EVENET_KEYS = frozenset(
    {"CLASSLABEL", "GENERATIONS", "PARTICLE_PROPERTIES", "RESONANCE_LABEL", "SEGMENTATIONS"}
)


class SpanetDialect(Dialect):
    """SPANet 2's event YAML and options JSON, and SPANet 1's event files (``.ini``).

    ========================  ===================================================================
    SPANet                    hepset
    ========================  ===================================================================
    ``SEQUENTIAL``            streams, in file order
    ``RELATIVE``              streams; the reader tells which features belong to pairs
    ``GLOBAL``                globals
    ``log``, ``normalize``    ``log1p``, ``standardise``; an angle φ becomes ``circular`` unless
                              `parity` is asked for
    ``EVENT``                 one unnamed process
    ``PERMUTATIONS``          symmetries
    ``EVENT/<n>``             target ``<n>``
    ``<p>/PARTICLE/<n>``      target ``<p>/<n>``
    ``<p>/<product>/<n>``     target ``<p>/<product>/<n>``
    ``[<n>, laplacian]``      ``residuals: laplace`` of the target
    ``[<n>, log_gaussian]``   ``asinh`` among the target's transforms
    ========================  ===================================================================

    Units are unknown to SPANet and stay null.
    """

    name = "spanet"

    def recognises(self, document: Mapping[str, Any]) -> bool:
        """Whether it has ``INPUTS`` and nothing that only EveNet has, or the sections of an ini."""
        event = document.get("EVENT")
        has_diagrams = isinstance(event, Mapping) and any(
            isinstance(process, Mapping) and "diagram" in process for process in event.values()
        )
        if is_ini(document):
            return True
        return "INPUTS" in document and not has_diagrams and not _EVENET_KEYS & document.keys()

    def describe(
        self, document: Mapping[str, Any], *, where: str, parity: bool = False
    ) -> Description:
        """Translate an event file; the defaults name a head for everything it wants learnt.

        ``laplacian`` regressions get the loss ``laplace``, the others the regression head's own
        default; with `parity` φ stays a plain number, and they get SPANet's squared error.

        Features of ``RELATIVE`` inputs are all given as features of objects. Which of them belong
        to pairs of objects is a matter of the data files: `SpanetReader.event_info` knows.

        Raises:
            EventInfoError: Listing everything that does not follow SPANet's grammar, what SPANet
                itself ignores in silence included.
        """
        plain = from_ini(document, where=where) if is_ini(document) else document
        event = parse_event_file(plain, where=where, parity=parity)
        heads = default_heads(event, parity=parity)
        defaults = {"model": {"heads": heads}} if heads else {}
        return Description(event, defaults)

    def options(
        self, document: Mapping[str, Any], described: Description, *, where: str
    ) -> dict[str, Any]:
        """Translate SPANet's options into defaults of a run configuration.

        Translated are files, split, seed, limits, batch size, epochs, optimizer, learning rate
        with its schedule, weight decay, clipping, devices, width, depth, attention heads, dropout
        and the expansion of the backbone, loss scales, and the options of the assignment's loss. A
        head whose scale is 0 is left out.

        Where the run file names the backbone ``spanet``, SPANet's own network is trained: all
        options of its architecture count, and ``spanet-…`` heads read it. Else what only it has
        (embedding, branch and product encoders, block types) is logged where it differs from
        SPANet's default.

        Near but not the same: ``balance_classifications`` becomes ``class_balance: inverse`` for
        hepset's network, which is close to SPANet's effective numbers. SPANet cuts the file in two
        at ``train_validation_split``; hepset assigns the same fractions by hash of the event.
        ``limit_to_num_jets`` counts every global as present. SPANet divides the sum of all terms
        by their number; so do factors of heads with `parity`.

        Raises:
            ConfigurationError: If an option is unknown, or a value does not fit.
        """
        options = parse_options_file(document, where=where)
        heads = described.defaults.get("model", {}).get("heads", {})
        event = described.event
        stated = described.stated.get("model") or {}
        backbone = stated.get("backbone") or {}
        return run_defaults(
            options,
            heads,
            (list(event.streams), list(event.globals)),
            particles=len(list(event.assignments())),
            interchangeable=any(not p.event_group.is_trivial for p in event.processes.values()),
            network=backbone.get("name") == "spanet",
        )


def default_heads(event: EventInfo, *, parity: bool = False) -> dict[str, dict[str, Any]]:
    """Return one head per classification, one per kind of regression, and the assignment's.

    Only heads that an installed plugin provides are named.
    """
    installed = set(registry().names("heads"))
    heads: dict[str, dict[str, Any]] = {}

    def add(name: str, head: dict[str, Any]) -> None:
        if head["name"] in installed:
            heads[_unused(name, heads)] = head

    if event.processes:
        more = {"parity": "spanet"} if parity else {}
        add("assignment", {"name": "assignment", **more})
    groups: dict[str, list[str]] = {}
    for name, target in event.targets.items():
        if target.kind == "classification":
            add(name, {"name": "classification", "target": name})
        else:
            # The head's own default is robust; SPANet's is the squared error.
            loss = "laplace" if target.residuals == "laplace" else "mse" if parity else ""
            groups.setdefault(loss, []).append(name)
    for loss, names in groups.items():
        head: dict[str, Any] = {"name": "regression", "targets": names}
        if loss:
            head["loss"] = loss
        add(f"regression_{loss}" if loss and len(groups) > 1 else "regression", head)
    return heads


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """Make a head's name of a target's: letters, digits and ``_``, not yet taken."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    plain = f"_{plain}" if plain[:1].isdigit() else plain
    candidate, number = plain, 2
    while candidate in taken:
        candidate, number = f"{plain}_{number}", number + 1
    return candidate
