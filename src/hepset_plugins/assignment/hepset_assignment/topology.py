"""What is assigned: particles by process, and which of them share a network."""

from __future__ import annotations

from dataclasses import dataclass

from hepset.errors import ConfigurationError
from hepset.schema.event import EventInfo, Process
from hepset.schema.symmetry import PermutationGroup

__all__ = ["MAX_PERMUTATIONS", "Kind", "Particle", "ProcessPlan", "Topology", "make_topology"]

MAX_PERMUTATIONS = 5040
"""Largest event group whose elements are listed: seven identical particles."""


@dataclass(frozen=True)
class Kind:
    """Particles of one structure that share weights.

    Attributes:
        products: Names of the products, of the first such particle.
        streams: Stream of each product; None = any.
        group: What may be interchanged.
        names: Particles that have a query of their own; one nameless entry where all share one
            output.
    """

    products: tuple[str, ...]
    streams: tuple[str | None, ...]
    group: PermutationGroup
    names: tuple[str, ...]

    @property
    def free_orbits(self) -> bool:
        """Whether the members of each orbit may be reordered independently of the rest."""
        return self.group.is_product_of_symmetric

    @property
    def orbit_of(self) -> tuple[int, ...]:
        """Number of each product's orbit."""
        found = [0] * len(self.products)
        for number, orbit in enumerate(self.group.orbits):
            for product in orbit:
                found[product] = number
        return tuple(found)


@dataclass(frozen=True)
class Particle:
    """One particle of one process.

    Attributes:
        field: Name in predictions, ``t1`` or ``<process>/t1``.
        tensor: Name of the target.
        streams: Stream of each product; None = counted through all.
        group: What may be interchanged among its products.
        kind: Number of its `Kind`.
        query: Which output of the kind is its own.
    """

    field: str
    tensor: str
    streams: tuple[str | None, ...]
    group: PermutationGroup
    kind: int
    query: int

    @property
    def weight_tensor(self) -> str:
        """Name of the weights of its target."""
        return self.tensor.replace("target/", "weight/", 1)


@dataclass(frozen=True)
class ProcessPlan:
    """The particles of one process.

    Attributes:
        name: Name of the process, empty for the only one.
        number: Its value in the tensor ``process``.
        particles: In order of declaration.
        group: What may be interchanged among the particles.
        elements: All permutations of the particles that change nothing, identity first; empty
            where there are more than `MAX_PERMUTATIONS`, and every orbit may be reordered freely.
        orbits: Positions of interchangeable particles.
    """

    name: str
    number: int
    particles: tuple[Particle, ...]
    group: PermutationGroup
    elements: tuple[tuple[int, ...], ...]
    orbits: tuple[tuple[int, ...], ...]

    @property
    def order(self) -> int:
        """Number of permutations that the loss has to compare.

        One where interchangeable particles share an output: all permutations are the same then.
        """
        outputs = [
            {(self.particles[p].kind, self.particles[p].query) for p in o} for o in self.orbits
        ]
        return 1 if all(len(each) == 1 for each in outputs) else self.group.order

    @property
    def free_orbits(self) -> bool:
        """Whether the members of each orbit may be reordered independently of the rest."""
        return self.group.is_product_of_symmetric

    @property
    def prefix(self) -> str:
        """Prefix of the names of its fields."""
        return f"{self.name}/" if self.name else ""


@dataclass(frozen=True)
class Topology:
    """Everything that is assigned.

    Attributes:
        streams: All streams in the order in which absolute indices count.
        kinds: Distinct networks.
        processes: In order of declaration.
        shared: Whether particles may share objects.
    """

    streams: tuple[str, ...]
    kinds: tuple[Kind, ...]
    processes: tuple[ProcessPlan, ...]
    shared: bool


def make_topology(event: EventInfo, *, queries: bool, where: str) -> Topology:
    """Collect the particles of all processes.

    Particles of equal structure share a network where they may be interchanged, or where they
    have one name in several processes.

    Args:
        event: What an event is.
        queries: Whether each particle of a kind has an output of its own.
        where: Name of the head's configuration, for messages.

    Raises:
        ConfigurationError: If the event has no particle, or interchangeable particles or products
            are unlike each other.
    """
    if not any(process.particles for process in event.processes.values()):
        raise ConfigurationError(
            f"{where}: the event declares no particle to assign; give it `particles:` (or "
            "`processes:`), or leave this head out"
        )
    builder = _Builder(event, queries=queries, where=where)
    plans = tuple(
        builder.process(number, name, process)
        for number, (name, process) in enumerate(event.processes.items())
    )
    return Topology(tuple(event.streams), builder.finish(), plans, event.shared_objects)


_Signature = tuple[tuple[str | None, ...], frozenset[tuple[int, ...]]]


class _Builder:
    def __init__(self, event: EventInfo, *, queries: bool, where: str) -> None:
        self.event, self.queries, self.where = event, queries, where
        self.signatures: list[_Signature] = []
        self.first: list[tuple[tuple[str, ...], PermutationGroup]] = []
        self.members: list[list[str]] = []

    def process(self, number: int, name: str, process: Process) -> ProcessPlan:
        group = process.event_group
        label = f"process {name!r}: " if name else ""
        listed = group.order <= MAX_PERMUTATIONS
        if not listed and not group.is_product_of_symmetric:
            raise ConfigurationError(
                f"{self.where}: {label}{group.order:,} permutations of particles change nothing, "
                f"more than the {MAX_PERMUTATIONS:,} that can be compared one by one; only where "
                "all reorderings of some particles are allowed, there may be more"
            )
        names = list(process.particles)
        prefix = f"{name}/" if name else ""
        found: dict[int, Particle] = {}
        taken: set[int] = set()
        for orbit in group.orbits:
            members = [names[position] for position in orbit]
            signature = self._signature(process, members, label)
            kind = self._kind(signature, process, members, taken)
            taken.add(kind)
            for position, particle in zip(orbit, members, strict=True):
                found[position] = Particle(
                    field=f"{prefix}{particle}",
                    tensor=f"target/assignment/{prefix}{particle}",
                    streams=tuple(process.particles[particle].values()),
                    group=process.product_group(particle),
                    kind=kind,
                    query=self.members[kind].index(particle) if self.queries else 0,
                )
        particles = tuple(found[position] for position in sorted(found))
        elements = group.elements if listed else ()
        return ProcessPlan(name, number, particles, group, elements, group.orbits)

    def finish(self) -> tuple[Kind, ...]:
        kinds = []
        for (streams, _), (products, group), members in zip(
            self.signatures, self.first, self.members, strict=True
        ):
            names = tuple(members) if self.queries else ("",)
            kinds.append(Kind(products, streams, group, names))
        return tuple(kinds)

    def _signature(self, process: Process, members: list[str], label: str) -> _Signature:
        signatures = []
        for particle in members:
            streams = tuple(process.particles[particle].values())
            group = process.product_group(particle)
            for orbit in group.orbits:
                if len({streams[product] for product in orbit}) > 1:
                    products = ", ".join(group.names[product] for product in orbit)
                    raise ConfigurationError(
                        f"{self.where}: {label}the products {products} of {particle} may be "
                        "interchanged, but are not found in one stream; give them the same stream "
                        "or take them out of `symmetries`"
                    )
            signatures.append((streams, frozenset(group.elements)))
        if len(set(signatures)) > 1:
            raise ConfigurationError(
                f"{self.where}: {label}the particles {', '.join(members)} may be interchanged, but "
                "their products differ in number, streams or symmetries; declare them alike, or "
                "take them out of `symmetries.event`"
            )
        return signatures[0]

    def _kind(
        self, signature: _Signature, process: Process, members: list[str], taken: set[int]
    ) -> int:
        for number, known in enumerate(self.signatures):
            same = known == signature and not set(members).isdisjoint(self.members[number])
            if same and number not in taken:
                self.members[number] += [m for m in members if m not in self.members[number]]
                return number
        self.signatures.append(signature)
        group = process.product_group(members[0])
        self.first.append((tuple(process.particles[members[0]]), group))
        self.members.append(list(members))
        return len(self.signatures) - 1
