"""Features of pairs of objects, and the attention bias made of them.

The four features of the Particle Transformer (Qu, Li, Qian, arXiv:2202.03772, equations 3-6),
with the definitions of the public weaver-core: rapidity, not pseudorapidity, and a floor of 1e-8
under every logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError, ContractError, did_you_mean
from hepset.nn.mlp import make_activation

__all__ = ["PAIR_FEATURES", "PairBias", "features_between", "pair_coordinates", "pair_features"]

PAIR_FEATURES = ("ln_kt", "ln_z", "ln_delta_r", "ln_m2")
"""All pair features, in the order of the Particle Transformer."""

_FLOOR = 1e-8
_RAPIDITY_FLOOR = 1e-20
_UNFITTED = 10.0
_LEAST_SPREAD = 0.1
_MOST_SPREADS = 5.0
_FEWEST_PAIRS = 32


def pair_features(p4: Tensor, mask: Tensor, features: Sequence[str] = PAIR_FEATURES) -> Tensor:
    """Logarithmic features of every pair of objects of an event.

    With ``d = sqrt(dy^2 + dphi^2)``: ``ln_kt = ln(min(pt) d)``, ``ln_z = ln(min(pt) / sum(pt))``,
    ``ln_delta_r = ln d``, ``ln_m2 = ln((p_i + p_j)^2)``, each argument at least 1e-8, so that an
    object with itself has ``ln_delta_r = -18.4``. No gradient flows to the momenta.

    Args:
        p4: ``(px, py, pz, E)``, shape ``(batch, object, 4)``; padded slots may hold anything.
        mask: True where the object is real, shape ``(batch, object)``.
        features: Which of `PAIR_FEATURES`, in the order wanted.

    Returns:
        Shape ``(batch, feature, object, object)``, symmetric; 0 where a member is padded. The
        momentum unit enters ``ln_kt`` and ``ln_m2``.

    Raises:
        ConfigurationError: If a feature is unknown.
        ContractError: If `p4` does not hold four components per slot of `mask`.
    """
    _check_names(features)
    if p4.shape != (*mask.shape, 4):
        message = (
            f"pair features need p4 of shape (batch, object, 4) for a mask {tuple(mask.shape)}, "
            f"got {tuple(p4.shape)}"
        )
        raise ContractError(message)
    coordinates = pair_coordinates(torch.where(mask[..., None], p4, 0.0))
    columns = features_between(coordinates[:, :, :, None], coordinates[:, :, None, :], features)
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    return torch.where(pairs, torch.stack(columns, 1), 0.0)


def pair_coordinates(p4: Tensor) -> Tensor:
    """What `features_between` needs of every object; no gradient flows to the momenta.

    Args:
        p4: ``(px, py, pz, E)``, shape ``(..., 4)``.

    Returns:
        ``(px, py, pz, E, pt, rapidity, phi)``, shape ``(7, ...)``.
    """
    px, py, pz, energy = p4.detach().unbind(-1)
    pt = torch.sqrt(px * px + py * py)
    # The outer floor only acts where rounding has lost E + pz, and weaver would give -inf.
    tilt = 1 + 2 * pz / (energy - pz).clamp(min=_RAPIDITY_FLOOR)
    rapidity = 0.5 * torch.log(tilt.clamp(min=_RAPIDITY_FLOOR))
    return torch.stack([px, py, pz, energy, pt, rapidity, torch.atan2(py, px)])


def features_between(
    first: Tensor, second: Tensor, features: Sequence[str] = PAIR_FEATURES
) -> list[Tensor]:
    """Pair features of objects given by `pair_coordinates`, see `pair_features`.

    Args:
        first: Coordinates of one member, shape ``(7, ...)``.
        second: Those of the other, of a shape that broadcasts with it.
        features: Which of `PAIR_FEATURES`.

    Returns:
        One tensor per feature, of the broadcast shape without the 7.
    """
    pt, other_pt = first[4], second[4]
    smaller_pt = torch.minimum(pt, other_pt)
    columns: dict[str, Tensor] = {}
    if not {"ln_kt", "ln_delta_r"}.isdisjoint(features):
        d_rapidity, d_phi = first[5] - second[5], first[6] - second[6]
        d_phi = torch.remainder(d_phi + math.pi, 2 * math.pi) - math.pi
        distance = torch.sqrt(d_rapidity * d_rapidity + d_phi * d_phi)
        columns["ln_delta_r"] = distance
        columns["ln_kt"] = smaller_pt * distance
    if "ln_z" in features:
        columns["ln_z"] = smaller_pt / (pt + other_pt).clamp(min=_FLOOR)
    if "ln_m2" in features:
        px, py, pz, energy = (first[axis] + second[axis] for axis in range(4))
        columns["ln_m2"] = energy * energy - (px * px + py * py + pz * pz)
    return [columns[name].clamp(min=_FLOOR).log() for name in features]


class PairBias(nn.Module):
    """Turn pair features into an additive bias of the attention logits, one per head.

    A pointwise network on every pair. Its inputs are standardised with the mean and width that
    `fit` has found, and cut off at five widths; before, they are divided by 10, which brings
    logarithms of momenta in GeV to order one. A bias of 0 is given to pairs with a padded member.

    Args:
        heads: Attention heads.
        hidden: Width of each hidden layer.
        features: Which of `PAIR_FEATURES`.
        activation: Name of the activation, see `hepset.nn.mlp.ACTIVATIONS`.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        heads: int,
        *,
        hidden: Sequence[int] = (32, 32),
        features: Sequence[str] = PAIR_FEATURES,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        _check_names(features)
        self.features = tuple(features)
        widths = [len(self.features), *hidden]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), make_activation(activation)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], heads))
        self.register_buffer("centre", torch.zeros(len(self.features)))
        self.register_buffer("spread", torch.full((len(self.features),), _UNFITTED))
        self._fitted = False

    @torch.no_grad()
    def fit(self, p4: Tensor, mask: Tensor) -> None:
        """Standardise with the pairs of different objects of these events, unless that is done.

        A first batch is enough: what follows learns from any scale of order one. Nothing happens
        where it has few pairs; a later one will do.

        Args:
            p4: ``(px, py, pz, E)``, shape ``(batch, object, 4)``.
            mask: True where the object is real, shape ``(batch, object)``.
        """
        if self._fitted:
            return
        if bool((self.spread == _UNFITTED).all()):
            pairs = mask[:, :, None] & mask[:, None, :]
            pairs = pairs.triu(1)
            values = pair_features(p4, mask, self.features).movedim(1, -1)[pairs]
            if len(values) < _FEWEST_PAIRS:
                return
            # Half the distance of the 16 % and 84 % quantiles, in spite of parallel momenta.
            ordered = values.float().sort(0).values
            low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.16, 0.5, 0.84))
            self.centre.copy_(middle)
            self.spread.copy_(((high - low) / 2).clamp(min=_LEAST_SPREAD))
        self._fitted = True

    def forward(self, p4: Tensor, mask: Tensor) -> Tensor:
        """Give the bias ``(batch, head, object, object)`` of momenta ``(batch, object, 4)``.

        `mask` ``(batch, object)`` is True where the object is real.
        """
        features = pair_features(p4, mask, self.features).movedim(1, -1)
        features = ((features - self.centre) / self.spread).clamp(-_MOST_SPREADS, _MOST_SPREADS)
        bias: Tensor = self.layers(features).movedim(-1, 1)
        pairs = mask[:, None, :, None] & mask[:, None, None, :]
        return torch.where(pairs, bias, 0.0)


def _check_names(features: Sequence[str]) -> None:
    if not features:
        message = f"no pair feature was asked for; known: {', '.join(PAIR_FEATURES)}"
        raise ConfigurationError(message)
    for name in features:
        if name not in PAIR_FEATURES:
            message = (
                f"unknown pair feature {name!r}{did_you_mean(name, PAIR_FEATURES)}; "
                f"known: {', '.join(PAIR_FEATURES)}"
            )
            raise ConfigurationError(message)
