"""Which particles, or which products of a particle, are interchangeable.

A symmetry is a permutation group on an ordered list of names. An event file declares it by a list
of *entries*, the grammar of SPANet's ``PERMUTATIONS`` (Fenton et al., arXiv:2106.03898), which
hepset's own ``symmetries`` and EveNet's ``SYMMETRY`` share:

========================  ==========================================  ==========================
entry                     meaning                                     generators
========================  ==========================================  ==========================
``[a, b, c]``             every reordering of these names             all transpositions
``[[a, b, c], [d, e]]``   one permutation, written in disjoint        that permutation
                          cycles: a → b → c → a and d ↔ e together
``[a]``                   nothing                                     none
========================  ==========================================  ==========================

All entries of a list generate the group together; names that are not mentioned stay in place.

A permutation is an *array form*, a tuple ``s`` of integers: **position i receives element s[i]**.
Elements of a group are listed in lexicographic order of their array forms, so the identity is
first. Membership and order come from a chain of stabilisers (Schreier and Sims; Knuth,
Combinatorica 11 (1991) 33), so that a group of ten names is described without listing its 10!
elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from math import prod
from typing import Final, TypeAlias, TypeVar

from hepset.errors import EventInfoError, did_you_mean

__all__ = [
    "MAX_ELEMENTS",
    "MAX_SUBSET_NAMES",
    "Permutation",
    "PermutationGroup",
    "compose",
    "identity",
    "inverse",
    "parse_permutation",
    "parse_permutations",
    "permute",
]

Permutation: TypeAlias = tuple[int, ...]
"""Array form of a permutation: position i receives element ``s[i]``."""

MAX_ELEMENTS: Final = 362_880
"""Most elements (9!) that a group lists; larger groups are described but not enumerated."""

MAX_SUBSET_NAMES: Final = 16
"""Most names of which all subsets are listed."""

T = TypeVar("T")
K = TypeVar("K", int, tuple[int, ...])


def identity(size: int) -> Permutation:
    """Return the permutation of `size` positions that moves nothing."""
    return tuple(range(size))


def compose(first: Permutation, then: Permutation) -> Permutation:
    """Return the permutation that acts like `first` and afterwards `then`.

    ``permute(compose(s, t), x) == permute(t, permute(s, x))``: position i receives element
    ``s[t[i]]``.
    """
    return tuple(first[i] for i in then)


def inverse(element: Permutation) -> Permutation:
    """Return the permutation that undoes `element`."""
    result = [0] * len(element)
    for position, source in enumerate(element):
        result[source] = position
    return tuple(result)


def permute(element: Permutation, items: Sequence[T]) -> list[T]:
    """Reorder `items`: position i of the result is ``items[element[i]]``."""
    return [items[source] for source in element]


def parse_permutation(
    entry: object,
    names: Sequence[str],
    *,
    where: str = "PERMUTATIONS",
) -> list[Permutation]:
    """Turn one entry of the grammar above into generators.

    Args:
        entry: A flat list of names (all reorderings) or a list of cycles (one permutation).
        names: The names that may appear, in order.
        where: What the entry is called in error messages.

    Returns:
        Array forms on ``range(len(names))``; empty where the entry moves nothing.

    Raises:
        EventInfoError: If the entry is not a list, is empty, mixes names and cycles, or has an
            unknown name or the same name twice.
    """
    if isinstance(entry, str):
        message = (
            f"{where}: an entry is a list of names, found the text {entry!r}; "
            f"write a list of lists such as [[{entry}, ...]]"
        )
        raise EventInfoError(message)
    items = _as_list(entry, where, "an entry is a list of names or a list of cycles")
    cycles = [isinstance(item, (list, tuple)) for item in items]
    if all(cycles):
        return _one_permutation(items, names, where)
    if any(cycles):
        position = cycles.index(not cycles[0])
        message = (
            f"{where}: {_show(entry)} mixes names and cycles (item {position} is "
            f"{_show(items[position])}); write [a, b, c] for all reorderings or "
            "[[a, b], [c, d]] for one permutation in cycles"
        )
        raise EventInfoError(message)
    members = _indices(items, names, where)
    _refuse_repeats(members, names, entry, where)
    generators = (_cycle_form([pair], len(names)) for pair in combinations(sorted(members), 2))
    return list(generators)


def parse_permutations(
    entries: object,
    names: Iterable[str],
    *,
    where: str = "PERMUTATIONS",
) -> PermutationGroup:
    """Turn a list of entries into the group they generate together.

    Args:
        entries: What an event file says for ``EVENT`` or for one particle; None or an empty list
            means that nothing is interchangeable.
        names: Particles of the event, or products of the particle, in their declared order.
        where: Place in the file, for error messages, such as ``"symmetries.t1"``.

    Returns:
        The generated group on `names`.

    Raises:
        EventInfoError: If `entries` is not a list or one of its entries is wrong; the message
            names the entry by its position.

    Example:
        >>> group = parse_permutations([["q1", "q2"]], ["b", "q1", "q2"])
        >>> group.elements
        ((0, 1, 2), (0, 2, 1))
    """
    ordered = tuple(names)
    if entries is None:
        return PermutationGroup(ordered)
    if not isinstance(entries, (list, tuple)):
        message = f"{where}: expected a list of entries, found {_show(entries)}"
        raise EventInfoError(message)
    generators = [
        generator
        for position, entry in enumerate(entries)
        for generator in parse_permutation(entry, ordered, where=f"{where}[{position}]")
    ]
    return PermutationGroup(ordered, tuple(generators))


@dataclass(frozen=True, eq=False)
class PermutationGroup:
    """A group of reorderings of named things.

    Two groups are equal when they have the same names in the same order and the same elements,
    whatever they were generated from. Everything beyond the generators is computed when first
    asked for.

    Attributes:
        names: What is permuted, in order.
        generators: Array forms that generate the group; identities are dropped.

    Raises:
        EventInfoError: If a name appears twice or a generator is not a permutation of the names.
    """

    names: tuple[str, ...]
    generators: tuple[Permutation, ...] = ()

    def __post_init__(self) -> None:
        """Check the names and generators, and drop repeated and trivial generators."""
        names = tuple(self.names)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            message = f"the name {repeated[0]!r} appears twice in {_show(names)}"
            raise EventInfoError(message)
        rest = identity(len(names))
        kept: dict[Permutation, None] = {}
        for generator in self.generators:
            element = tuple(generator)
            if sorted(element) != list(rest):
                message = f"{element} is not a permutation of the {len(names)} positions of names"
                raise EventInfoError(message)
            if element != rest:
                kept[element] = None
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "generators", tuple(kept))

    def __eq__(self, other: object) -> bool:
        """Whether `other` permutes the same names by the same elements."""
        if not isinstance(other, PermutationGroup):
            return NotImplemented
        return (
            self.names == other.names
            and self.order == other.order
            and all(map(self.contains, other.generators))
        )

    def __hash__(self) -> int:
        """Hash what equal groups share."""
        return hash((self.names, self.order))

    def __len__(self) -> int:
        """Return the number of elements."""
        return self.order

    @cached_property
    def _chain(self) -> list[dict[int, Permutation]]:
        return _stabiliser_chain(len(self.names), self.generators)

    @property
    def order(self) -> int:
        """Number of elements; exact for a group of any size."""
        return prod(len(transversal) for transversal in self._chain)

    @property
    def is_trivial(self) -> bool:
        """Whether the identity is the only element."""
        return not self.generators

    def contains(self, element: Sequence[int]) -> bool:
        """Whether an array form belongs to the group; False where it is no permutation at all."""
        candidate = tuple(element)
        if sorted(candidate) != list(range(len(self.names))):
            return False
        return _sift(self._chain, candidate, 0) is None

    __contains__ = contains

    def iter_elements(self) -> Iterator[Permutation]:
        """Yield all elements in lexicographic order, identity first, without storing them."""
        yield from _walk(self._chain, identity(len(self.names)), 0)

    @cached_property
    def elements(self) -> tuple[Permutation, ...]:
        """All elements in lexicographic order of their array forms, identity first.

        Raises:
            EventInfoError: If there are more than `MAX_ELEMENTS`.
        """
        if self.order > MAX_ELEMENTS:
            message = (
                f"the symmetry group of {_show(self.names)} has {self.order:,} elements, more "
                f"than the {MAX_ELEMENTS:,} that can be listed; declare fewer names as "
                "interchangeable, or single permutations in cycles"
            )
            raise EventInfoError(message)
        return tuple(self.iter_elements())

    @cached_property
    def orbits(self) -> tuple[tuple[int, ...], ...]:
        """Positions that the group can exchange, fixed points included.

        Sorted inside and by their first member; together they hold every position once.
        """
        return tuple(_orbits(range(len(self.names)), self.generators, lambda s, i: s[i]))

    @property
    def orbit_names(self) -> tuple[tuple[str, ...], ...]:
        """The orbits as names."""
        return tuple(tuple(self.names[i] for i in orbit) for orbit in self.orbits)

    def is_full_symmetric(self, positions: Iterable[int]) -> bool:
        """Whether these positions may be reordered freely while all others stay in place.

        True for a single position. Only then is sorting the members of an orbit the same as
        choosing the best element of the group: in the simultaneous swap ``[[[a, b], [c, d]]]``
        neither {a, b} nor {c, d} is free.

        Args:
            positions: Distinct positions, usually one of `orbits`.
        """
        members = sorted(set(positions))
        size = len(self.names)
        return all(self.contains(_cycle_form([pair], size)) for pair in pairwise(members))

    @cached_property
    def is_product_of_symmetric(self) -> bool:
        """Whether the group is every reordering inside each orbit, independently."""
        return all(self.is_full_symmetric(orbit) for orbit in self.orbits)

    @cached_property
    def transpositions(self) -> tuple[tuple[int, int], ...]:
        """Pairs (i, j), i < j, that appear when elements are written as products of swaps.

        Every cycle is written with the swaps of its smallest position with each of its others, as
        SPANet does for its symmetry-breaking loss. The pairs need not be elements of the group:
        the cyclic group of three gives (0, 1) and (0, 2).

        Raises:
            EventInfoError: If the group has more than `MAX_ELEMENTS` and is not a product of
                full symmetric groups.
        """
        if self.is_product_of_symmetric:
            pairs = {pair for orbit in self.orbits for pair in combinations(orbit, 2)}
        else:
            pairs = {
                (cycle[0], other)
                for element in self.elements
                for cycle in _cycles(element)
                for other in cycle[1:]
            }
        return tuple(sorted(pairs))

    @cached_property
    def subset_classes(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Equivalence classes of all subsets of positions, the empty one included.

        Two subsets are equivalent when an element maps one to the other, so that an event with
        only the first top reconstructable counts like one with only the second. Subsets are
        sorted tuples; they are ordered by size and then lexicographically inside a class, and the
        classes by their first subset.

        Raises:
            EventInfoError: If there are more than `MAX_SUBSET_NAMES` names.
        """
        size = len(self.names)
        if size > MAX_SUBSET_NAMES:
            message = (
                f"{size} names have {2**size:,} subsets; equivalence classes are listed for at "
                f"most {MAX_SUBSET_NAMES} names"
            )
            raise EventInfoError(message)
        subsets = [s for count in range(size + 1) for s in combinations(range(size), count)]
        return tuple(
            _orbits(subsets, self.generators, lambda s, subset: tuple(sorted(s[i] for i in subset)))
        )

    def entries(self) -> list[list[str] | list[list[str]]]:
        """Write the group in the grammar of this module; parsing it gives an equal group."""
        if self.is_product_of_symmetric:
            return [list(orbit) for orbit in self.orbit_names if len(orbit) > 1]
        return [
            [[self.names[i] for i in cycle] for cycle in _cycles(generator)]
            for generator in self.generators
        ]


def _as_list(value: object, where: str, expectation: str) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        message = f"{where}: {expectation}, found {_show(value)}"
        raise EventInfoError(message)
    if not value:
        message = f"{where}: {expectation}, found an empty list; remove it"
        raise EventInfoError(message)
    return value


def _one_permutation(
    entry: Sequence[object], names: Sequence[str], where: str
) -> list[Permutation]:
    cycles = []
    for position, cycle in enumerate(entry):
        place = f"{where}[{position}]"
        members = _as_list(cycle, place, "a cycle is a list of names")
        cycles.append(_indices(members, names, place))
    _refuse_repeats([i for cycle in cycles for i in cycle], names, entry, where)
    element = _cycle_form(cycles, len(names))
    return [] if element == identity(len(names)) else [element]


def _indices(items: Sequence[object], names: Sequence[str], where: str) -> list[int]:
    positions = []
    for item in items:
        if isinstance(item, (list, tuple)):
            message = f"{where}: {_show(item)} is nested too deeply; cycles hold names only"
            raise EventInfoError(message)
        if not isinstance(item, str):
            message = (
                f"{where}: {item!r} is a {type(item).__name__}, not a name; "
                "put quotes around names that YAML reads as numbers or booleans"
            )
            raise EventInfoError(message)
        if item not in names:
            message = (
                f"{where}: unknown name {item!r}{did_you_mean(item, names)}; "
                f"known names: {', '.join(names) or 'none'}"
            )
            raise EventInfoError(message)
        positions.append(names.index(item))
    return positions


def _refuse_repeats(
    members: Sequence[int],
    names: Sequence[str],
    entry: object,
    where: str,
) -> None:
    for position, member in enumerate(members):
        if member in members[:position]:
            message = f"{where}: {names[member]!r} appears twice in {_show(entry)}"
            raise EventInfoError(message)


def _show(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_show, value))}]"
    return str(value) if isinstance(value, str) else repr(value)


def _cycle_form(cycles: Iterable[Sequence[int]], size: int) -> Permutation:
    """Array form of disjoint cycles: every member receives its successor."""
    element = list(range(size))
    for cycle in cycles:
        for member, successor in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            element[member] = successor
    return tuple(element)


def _cycles(element: Permutation) -> list[list[int]]:
    """Disjoint cycles longer than one, each beginning with its smallest member."""
    cycles = []
    seen: set[int] = set()
    for start in range(len(element)):
        cycle = []
        member = start
        while member not in seen:
            seen.add(member)
            cycle.append(member)
            member = element[member]
        if len(cycle) > 1:
            cycles.append(cycle)
    return cycles


def _stabiliser_chain(size: int, generators: Iterable[Permutation]) -> list[dict[int, Permutation]]:
    """Return, for each position k, representatives of the cosets of the next stabiliser.

    ``chain[k][j]`` fixes all positions below k and takes k to j. Every element is one product of
    representatives, one of each level, so the order is the product of the level's sizes.
    """
    rest = identity(size)
    chain: list[dict[int, Permutation]] = [{level: rest} for level in range(size)]
    strong: list[list[Permutation]] = [[] for _ in range(size)]

    def insert(level: int, element: Permutation) -> None:
        strong[level].append(element)
        products = [compose(element, known) for known in chain[level].values()]
        while products:
            candidate = products.pop()
            image = candidate[level]
            known = chain[level].get(image)
            if known is None:
                chain[level][image] = candidate
                products.extend(compose(generator, candidate) for generator in strong[level])
                continue
            residue = compose(inverse(known), candidate)
            if _sift(chain, residue, level + 1) is not None:
                insert(level + 1, residue)

    for generator in generators:
        if _sift(chain, generator, 0) is not None:
            insert(0, generator)
    return chain


def _sift(
    chain: Sequence[dict[int, Permutation]], element: Permutation, level: int
) -> Permutation | None:
    """Divide by representatives level by level; None where nothing is left, so it is inside."""
    for position in range(level, len(chain)):
        known = chain[position].get(element[position])
        if known is None:
            return element
        element = compose(inverse(known), element)
    return None


def _walk(
    chain: Sequence[dict[int, Permutation]], prefix: Permutation, level: int
) -> Iterator[Permutation]:
    if level == len(chain):
        yield prefix
        return
    for image in sorted(chain[level], key=prefix.__getitem__):
        yield from _walk(chain, compose(prefix, chain[level][image]), level + 1)


def _orbits(
    points: Iterable[K],
    generators: Sequence[Permutation],
    image: Callable[[Permutation, K], K],
) -> Iterator[tuple[K, ...]]:
    """Yield the orbits of `points`, in the order in which `points` first meets them."""
    seen: set[K] = set()
    for point in points:
        if point in seen:
            continue
        orbit = [point]
        seen.add(point)
        for member in orbit:
            for generator in generators:
                moved = image(generator, member)
                if moved not in seen:
                    seen.add(moved)
                    orbit.append(moved)
        yield tuple(sorted(orbit))
