"""`TupleScorer`: one score per tuple of objects, symmetric in interchangeable products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from hepset.kinematics import delta_r, eta_of, mass_of, phi_of, pt_of
from hepset.nn.onednn import Linear, linear
from hepset_assignment.topology import Kind

__all__ = ["KINEMATICS", "TupleScorer", "Where", "kinematics"]

KINEMATICS: Final = 8
"""Numbers per object that masses and distances are made of, see `kinematics`."""

_CENTRES: Final = 24
_RANGE: Final = 2.0
_SMALLEST: Final = 1e-3
_LEAST_EXPONENT: Final = -20.0


class Where(NamedTuple):
    """Tuples of a batch, one after the other, without those that do not exist.

    Attributes:
        rows: Event of each tuple, (M,).
        flat: Per product (M,), its object as an index into (event, object) of its axis.
    """

    rows: Tensor
    flat: list[Tensor]


def kinematics(p4: Tensor, known: Tensor) -> Tensor:
    """Collect (px, py, E + pz, E - pz, pt, eta, phi, known) of objects, without a gradient.

    With these sums the mass of a tuple is m² = (E + pz)(E - pz) - px² - py², whose terms are no
    larger than transverse energies squared.

    Args:
        p4: (B, N, 4), 0 where there is none.
        known: (B, N), whether there is one.

    Returns:
        (B, N, 8).
    """
    p4 = p4.detach().float()
    px, py, pz, energy = p4.unbind(-1)
    pt = pt_of(p4)
    mass = mass_of(p4)
    large = energy + pz.abs()
    small = (pt * pt + mass * mass) / torch.where(large > 0, large, 1.0)
    forward, backward = torch.where(pz > 0, large, small), torch.where(pz > 0, small, large)
    columns = [px, py, forward, backward, pt, eta_of(p4), phi_of(p4), known.float()]
    return torch.stack(columns, -1)


class TupleScorer(nn.Module):
    """A small network on what the members of a tuple are together.

    Each product has two projections of its object's embedding: one is summed over the products,
    the other multiplied, which is split symmetric attention (arXiv:2106.03898) of low rank.
    Products that may be interchanged share theirs. With four-momenta the sum also holds masses and
    distances of pairs, and the mass of the whole. Where the symmetry is not every
    reordering within the orbits, products have projections of their own and the score is the mean
    over the group.

    Args:
        kind: The particles.
        width: Width D of the embeddings.
        hidden: Width of the projections.
        momenta: Per product whether its objects' four-momenta enter.
        scale: Momentum that masses are compared with, in the unit of the four-momenta.
    """

    centres: Tensor
    scale: Tensor

    def __init__(
        self, kind: Kind, width: int, hidden: int, *, momenta: Sequence[bool], scale: float
    ) -> None:
        super().__init__()
        count = len(kind.products)
        self.orders: list[Sequence[int]] = [range(count)]
        self.roles = list(kind.orbit_of)
        if not kind.free_orbits:
            self.orders = [list(element) for element in kind.group.elements]
            self.roles = list(range(count))
        self.project = nn.ModuleList(
            Linear(width, 2 * hidden, bias=False) for _ in range(max(self.roles) + 1)
        )
        self.start = nn.Parameter(torch.zeros(len(kind.names), hidden))
        if len(kind.names) > 1:
            nn.init.normal_(self.start, std=0.5)
        self.inner = nn.Sequential(nn.GELU(), Linear(hidden, hidden), nn.GELU())
        # Without a bias: a softmax follows.
        self.sum_score = nn.Linear(hidden, 1, bias=False)
        self.product_score = nn.Linear(hidden, 1, bias=False)
        self.pairs: dict[tuple[int, int], int] = {}
        for a, b in combinations(range(count), 2):
            if momenta[a] and momenta[b]:
                self.pairs.setdefault(self._pair_key(a, b), len(self.pairs))
        self.takes_whole = count > 2 and all(momenta)
        self.mass_network: nn.Linear | None = None
        if self.pairs:
            features = len(self.pairs) * (_CENTRES + 3) + self.takes_whole * (_CENTRES + 2)
            self.mass_network = nn.Linear(features, hidden, bias=False)
            self.register_buffer("centres", torch.linspace(-_RANGE, _RANGE, _CENTRES))
            self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(
        self, axes: Sequence[Tensor], moving: Sequence[Tensor] | None, where: Where
    ) -> tuple[Tensor, Tensor]:
        """Score tuples.

        Args:
            axes: Per product the embeddings (B, N, D) of the objects it may be.
            moving: Per product their `kinematics` (B, N, 8); not looked at without masses.
            where: The tuples.

        Returns:
            Scores (M, Q) for Q queries, and what they are made of, (M, Q, hidden).
        """
        projected = [
            self.project[role](x).flatten(0, 1) for role, x in zip(self.roles, axes, strict=True)
        ]
        scores, insides = [], []
        for order in self.orders:
            flat = [where.flat[product] for product in order]
            score, inside = self._one_order(projected, moving, Where(where.rows, flat))
            scores.append(score)
            insides.append(inside)
        if len(scores) == 1:
            return scores[0], insides[0]
        return torch.stack(scores).mean(0), torch.stack(insides).mean(0)

    def _one_order(
        self, projected: Sequence[Tensor], moving: Sequence[Tensor] | None, where: Where
    ) -> tuple[Tensor, Tensor]:
        # Divided before they are repeated: there are more tuples than objects.
        parts = [
            [half.index_select(0, index) for half in x.chunk(2, -1)]
            for x, index in zip(projected, where.flat, strict=True)
        ]
        added, multiplied = parts[0]
        for more, factor in parts[1:]:
            # In place, here and below: what is as long as the tuples are takes longest to make.
            added, multiplied = added.add_(more), multiplied * factor
        if self.mass_network is not None and moving is not None:
            added = self._with_masses(added, self.mass_network.weight, moving, where)
        inside = self.inner(added[:, None, :] + self.start)
        score = self.sum_score(inside) + self.product_score(multiplied)[:, None, :]
        return score[..., 0].float(), inside

    def _with_masses(
        self, added: Tensor, weight: Tensor, moving: Sequence[Tensor], where: Where
    ) -> Tensor:
        """Add what the masses of all pairs and of the whole give, (M, hidden).

        A pair of objects is in many tuples: its features are computed once and projected.
        """
        columns = _CENTRES + 3
        together: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for a, b in combinations(range(len(moving)), 2):
            number = self.pairs.get(self._pair_key(a, b))
            if number is not None:
                together.setdefault((id(moving[a]), id(moving[b])), []).append((a, b, number))
        for chosen in together.values():
            first, second = (moving[product] for product in chosen[0][:2])
            count, other = first.shape[1], second.shape[1]
            index = []
            for a, b, _ in chosen:
                one, two = where.flat[a], where.flat[b]
                if first is second:
                    one, two = torch.minimum(one, two), torch.maximum(one, two)
                index.append(one * other + two - where.rows * other)
            here, places = _distinct(index, first.shape[0] * count * other)
            one = torch.div(here, other, rounding_mode="floor")
            two = torch.div(one, count, rounding_mode="floor") * other + (here - one * other)
            features = self._pair(
                first.flatten(0, 1).index_select(0, one), second.flatten(0, 1).index_select(0, two)
            )
            given: dict[int, Tensor] = {}
            for (_, _, number), place in zip(chosen, places, strict=True):
                if number not in given:
                    start = number * columns
                    given[number] = linear(features, weight[:, start : start + columns])
                added.add_(given[number].index_select(0, place))
        if self.takes_whole:
            members = [
                x.flatten(0, 1).index_select(0, index)
                for x, index in zip(moving, where.flat, strict=True)
            ]
            summed = torch.stack([member[:, :4] for member in members]).sum(0)
            known = torch.stack([member[:, 7:] for member in members]).amin(0)
            whole = torch.cat([self._basis(_mass(summed)), self._log(pt_of(summed))[:, None]], -1)
            added.add_(linear(whole * known, weight[:, len(self.pairs) * columns :]))
        return added

    def _pair(self, first: Tensor, second: Tensor) -> Tensor:
        mass = _mass(first[:, :4] + second[:, :4])
        distance = delta_r(first[:, 5], first[:, 6], second[:, 5], second[:, 6])
        softer = torch.minimum(first[:, 4], second[:, 4])
        columns = torch.stack([distance - 2, self._log(softer * distance)], -1)
        known = first[:, 7:] * second[:, 7:]
        return torch.cat([self._basis(mass), columns], -1) * known

    def _basis(self, mass: Tensor) -> Tensor:
        """Logarithm of the mass, and how near it is to each of many masses, (M, 25)."""
        logarithm = self._log(mass)[:, None]
        step = 2 * _RANGE / (_CENTRES - 1)
        exponent = -0.5 * ((logarithm - self.centres) / step) ** 2
        # Numbers below 1e-38 would make every product with them many times slower.
        near = torch.exp(exponent.clamp(min=_LEAST_EXPONENT))
        return torch.cat([logarithm, near], -1)

    def _log(self, momentum: Tensor) -> Tensor:
        return (momentum / self.scale).clamp(min=_SMALLEST).log().clamp(max=-math.log(_SMALLEST))

    def _pair_key(self, a: int, b: int) -> tuple[int, int]:
        first, second = sorted((self.roles[a], self.roles[b]))
        return first, second


def _mass(total: Tensor) -> Tensor:
    """Mass of summed (px, py, E + pz, E - pz), (M, 4)."""
    px, py, forward, backward = total.unbind(-1)
    return (forward * backward - px * px - py * py).clamp(min=0).sqrt()


def _distinct(index: Sequence[Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
    """The numbers below `size` that occur, ascending, and the place of each among them.

    On a GPU, which is not waited for to count them, these are all numbers.
    """
    device = index[0].device
    if not index[0].is_cpu:
        return torch.arange(size, device=device), list(index)
    occurs = torch.zeros(size, dtype=torch.bool, device=device)
    for part in index:
        occurs[part] = True
    rank = occurs.cumsum(0) - 1
    return occurs.nonzero()[:, 0], [rank.index_select(0, part) for part in index]
