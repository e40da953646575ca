"""Symmetries of the detector: rotation around the beam and reflection along it.

Both act on physical tensors, before the input transform, and turn inputs and regression targets
together. What a column is follows from its role (`EventInfo`): an angle φ is shifted, a pair of
(sin φ, cos φ), (px, py) or (x, y) of one stem is rotated; η, rapidity, pz and z change sign. A
difference of angles (``delta_phi``, and every φ of a pair feature) does not change under rotation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.schema.config import AugmentConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo, GlobalInput, Stream
from hepset.schema.feature import Role, ambiguous_roles, roles_of

__all__ = ["Augmentation"]

_LOG = logging.getLogger(__name__)

_DIFFERENCES = frozenset({"delta", "d", "diff", "rel", "relative"})
_PARTNERS: dict[Role, Role] = {
    "px": "py", "py": "px", "sin_phi": "cos_phi", "cos_phi": "sin_phi", "x": "y", "y": "x",
}  # fmt: skip
_FLIPPED = frozenset({"eta", "rapidity", "pz", "z"})


@dataclass(frozen=True)
class _Place:
    """One number: a tensor, and its column; None where the tensor is the number."""

    tensor: str
    column: int | None

    def get(self, tensors: Mapping[str, Tensor]) -> Tensor:
        values = tensors[self.tensor]
        return values if self.column is None else values[..., self.column]


class Augmentation:
    """Turns the events of a batch at random.

    Args:
        event: Says what the columns are.
        contract: Says which columns the tensors have.
        config: Which symmetries to use.
        tensors: Names of the tensors that batches hold.

    Attributes:
        needed: Targets that must be in the batch so that those of `tensors` can be turned.

    Raises:
        ConfigurationError: If a vector has only one of its components, so that it cannot be
            rotated, or a ``y`` may be a rapidity or a position.
    """

    def __init__(
        self, event: EventInfo, contract: Contract, config: AugmentConfig, tensors: Iterable[str]
    ) -> None:
        self.config = config
        found = _places(event, contract, set(tensors))
        self._masks = {name: contract[name].mask for name, *_ in found}
        self.angles = [
            _Place(name, column)
            for name, column, stem, role in found
            if role == "phi" and not _is_difference(name, stem)
        ]
        self.vectors: list[tuple[_Place, _Place]] = []
        self.flipped = [_Place(name, column) for name, column, _, role in found if role in _FLIPPED]
        if config.rotate_phi:
            self._pair(found, event, contract)
        if config.rotate_phi or config.flip_eta:
            _LOG.info("augmentation: %s", self.describe(contract))
        self.needed = {x.tensor for pair in self.vectors for x in pair} - set(tensors)

    def _pair(
        self,
        found: list[tuple[str, int | None, str, Role]],
        event: EventInfo,
        contract: Contract,
    ) -> None:
        everything = _places(event, contract, set(contract.tensors))
        by_key = {
            (_group(name), stem, role): _Place(name, column)
            for name, column, stem, role in everything
        }
        seen = set()
        for name, _, stem, role in found:
            partner = _PARTNERS.get(role)
            if partner is None or (role in {"sin_phi", "cos_phi"} and _is_difference(name, stem)):
                continue
            key = _group(name), stem, partner
            if key not in by_key:
                label = "_".join(part for part in (stem, role) if part)
                wanted = "_".join(part for part in (stem, partner) if part)
                raise ConfigurationError(
                    f"train.augment.rotate_phi: {name} has {label!r} but no {wanted!r}, so the "
                    "vector cannot be rotated; declare it in the event file, or set "
                    "rotate_phi: false"
                )
            first = by_key[_group(name), stem, role]
            pair = (first, by_key[key])
            if role in {"py", "sin_phi", "y"}:
                pair = (pair[1], pair[0])
            if pair not in seen:
                seen.add(pair)
                self.vectors.append(pair)

    def describe(self, contract: Contract) -> str:
        """Say which columns are turned, for the log."""

        def label(place: _Place) -> str:
            columns = contract[place.tensor].columns
            return (
                place.tensor
                if place.column is None
                else (f"{place.tensor}.{columns[place.column]}")
            )

        parts = []
        if self.config.rotate_phi:
            turned = [label(place) for place in self.angles]
            turned += [f"({label(x)}, {label(y)})" for x, y in self.vectors]
            parts.append(f"rotation turns {', '.join(turned) or 'nothing'}")
        if self.config.flip_eta:
            turned = [label(place) for place in self.flipped]
            parts.append(f"reflection turns {', '.join(turned) or 'nothing'}")
        return "; ".join(parts)

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn every event by an angle and a sign of its own, drawn from torch's generator."""
        events = len(next(iter(tensors.values())))
        device = next(iter(tensors.values())).device
        angle = sign = None
        if self.config.rotate_phi:
            angle = (torch.rand(events, device=device) * 2 - 1) * math.pi
        if self.config.flip_eta:
            sign = torch.randint(0, 2, (events,), device=device) * 2 - 1
        return self.turn(tensors, angle, sign)

    def turn(
        self, tensors: Mapping[str, Tensor], angle: Tensor | None, sign: Tensor | None
    ) -> dict[str, Tensor]:
        """Turn every event.

        Args:
            tensors: The batch; it is left as it is.
            angle: Angle in rad by which each event is rotated, shape ``(event,)``.
            sign: +1, or −1 where an event is reflected, shape ``(event,)``.

        Returns:
            The batch with the turned tensors; missing targets (NaN) and padding stay.
        """
        changed: dict[str, Tensor] = {}

        def write(place: _Place, values: Tensor) -> None:
            if place.tensor not in changed:
                changed[place.tensor] = tensors[place.tensor].clone()
            old = changed[place.tensor]
            target = old if place.column is None else old[..., place.column]
            mask = tensors.get(self._masks[place.tensor] or "")
            if mask is not None:
                if mask.ndim < target.ndim:
                    mask = mask[..., None] & mask[:, None, :]
                values = torch.where(mask, values, target)
            target.copy_(values)

        if angle is not None:
            for place in self.angles:
                old = place.get(tensors)
                write(place, _wrap(old + _spread(angle, old)))
            for first, second in self.vectors:
                x, y = first.get(tensors), second.get(tensors)
                cos, sin = _spread(angle.cos(), x), _spread(angle.sin(), x)
                write(first, x * cos - y * sin)
                write(second, x * sin + y * cos)
        if sign is not None:
            for place in self.flipped:
                old = place.get(tensors)
                write(place, old * _spread(sign, old))
        return {**tensors, **changed}


def _wrap(angle: Tensor) -> Tensor:
    """Bring angles to [−π, π); NaN stays."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _spread(per_event: Tensor, like: Tensor) -> Tensor:
    return per_event.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _group(name: str) -> str:
    """Components of one vector stand in one input tensor; targets share one group."""
    return "target" if name.startswith("target/") else name


def _is_difference(tensor: str, stem: str) -> bool:
    return tensor.endswith(".pairs") or stem.rsplit("_", 1)[-1] in _DIFFERENCES


def _places(
    event: EventInfo, contract: Contract, tensors: set[str]
) -> list[tuple[str, int | None, str, Role]]:
    """Tensor, column, stem and role of every number that has a kinematic meaning."""
    found: list[tuple[str, int | None, str, Role]] = []
    blocks: dict[str, Stream | GlobalInput] = {**event.streams, **event.globals}
    for name, block in blocks.items():
        if name in contract and name in tensors:
            columns = contract[name].columns
            _refuse_ambiguous(f"{name}.", {n: f.role for n, f in block.features.items()})
            found += [
                (name, columns.index(feature), stem, role)
                for feature, (stem, role) in block.roles.items()
            ]
    for name, stream in event.streams.items():
        pairs = f"{name}.pairs"
        if pairs in contract and pairs in tensors:
            declared = {feature: spec.role for feature, spec in stream.pairs.items()}
            _refuse_ambiguous(f"{pairs}.", declared)
            roles = roles_of(declared)
            found += [
                (pairs, column, *roles[feature])
                for column, feature in enumerate(stream.pairs)
                if feature in roles
            ]
    numbers = {n: t.role for n, t in event.targets.items() if t.kind == "regression"}
    here = {name for name in numbers if f"target/{name}" in tensors}
    _refuse_ambiguous("target/", numbers, here)
    for name, (stem, role) in roles_of(numbers).items():
        if name in here:
            prefix = name.rpartition("/")[0]
            found.append((f"target/{name}", None, f"{prefix}/{stem}" if prefix else stem, role))
    return found


def _refuse_ambiguous(
    prefix: str, declared: Mapping[str, Role | None], among: Iterable[str] | None = None
) -> None:
    for name in ambiguous_roles(declared):
        if among is None or name in among:
            raise ConfigurationError(
                f"train.augment: {prefix}{name} may be a rapidity or, with the x or z beside it, a "
                "position; say which in the event file: role: rapidity, role: y (and x, z for the "
                "others), or role: none for neither"
            )
