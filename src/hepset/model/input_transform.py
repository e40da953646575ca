"""`InputTransform`: the first module of a model, from a batch's tensors to what backbones see."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hepset.errors import ContractError, did_you_mean
from hepset.interfaces.backbone import InputLayout, Inputs
from hepset.kinematics import (
    ArrayT,
    p4_from_pt_eta_phi_energy,
    p4_from_pt_eta_phi_mass,
    p4_from_pt_eta_sin_cos_energy,
    p4_from_pt_eta_sin_cos_mass,
    p4_from_px_py_pz_energy,
)
from hepset.nn.transforms import FeatureTransform
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Role
from hepset.schema.statistics import Statistics

__all__ = ["InputTransform", "four_momentum", "momentum_columns"]


class InputTransform(nn.Module):
    """Bring the inputs of a contract to model space, and back.

    Args:
        event: Says which features make a four-momentum.
        contract: The inputs, with their features in order.
        statistics: Statistics of the training split.

    Raises:
        ConfigurationError: If a feature asks for ``standardise`` and has no statistics.
    """

    def __init__(self, event: EventInfo, contract: Contract, statistics: Statistics) -> None:
        super().__init__()
        self.stream_names = tuple(spec.name for spec in contract.of_kind("stream"))
        self.global_names = tuple(spec.name for spec in contract.of_kind("global"))
        self.pair_names = tuple(
            spec.name.removesuffix(".pairs") for spec in contract.of_kind("pairs")
        )
        self.blocks = nn.ModuleDict()
        for spec in contract.of_kind("stream", "global", "pairs"):
            features = {name: spec.features[name] for name in spec.columns}
            found = statistics.tensors.get(spec.name)
            self.blocks[_key(spec.name)] = FeatureTransform(features, found, spec.name)
        self.momenta = momentum_columns(event, contract)

    @property
    def layout(self) -> InputLayout:
        """Widths of the model-space inputs."""
        return InputLayout(
            streams={name: self._block(name).width_out for name in self.stream_names},
            globals={name: self._block(name).width_out for name in self.global_names},
            p4=tuple(self.momenta),
            pairs={name: self._block(f"{name}.pairs").width_out for name in self.pair_names},
        )

    def inputs(self, tensors: Mapping[str, Tensor]) -> Inputs:
        """Bring the inputs of a batch to model space; other tensors are ignored.

        Args:
            tensors: Physical values by contract name: ``jets`` (B, N, F), ``jets.mask`` (B, N),
                ``jets.pairs`` (B, N, N, P), ``met`` (B, F) and, optionally, ``met.mask`` (B,).

        Raises:
            ContractError: If a tensor is missing or has another number of features.
        """
        x = Inputs(streams={}, masks={})
        for name in self.stream_names:
            mask = _get(tensors, f"{name}.mask")
            values = self._values(tensors, name)
            x.streams[name] = self._block(name)(values, mask)
            x.masks[name] = mask
            if name in self.momenta:
                # Masses are small differences: every runtime has to give the very same momenta.
                p4 = four_momentum(values.double(), self.momenta[name], mask)
                x.p4[name] = p4.float()
        for name in self.pair_names:
            mask = x.masks[name]
            both = mask[:, :, None] & mask[:, None, :]
            x.pairs[name] = self._block(f"{name}.pairs")(
                self._values(tensors, f"{name}.pairs"), both
            )
        for name in self.global_names:
            values = self._values(tensors, name)
            present = tensors.get(f"{name}.mask")
            if present is None:
                present = torch.ones_like(values[:, 0], dtype=torch.bool)
            x.globals[name] = self._block(name)(values, present)
            x.global_masks[name] = present
        return x

    def forward(self, tensors: Mapping[str, Tensor]) -> Inputs:
        """Bring the inputs of a batch to model space, see `inputs`."""
        return self.inputs(tensors)

    def inverse(self, x: Inputs) -> dict[str, Tensor]:
        """Bring inputs back to physical values, by contract name; padding gives 0."""
        tensors: dict[str, Tensor] = {}
        for name in self.stream_names:
            mask = x.masks[name]
            tensors[name] = self._block(name).inverse(x.streams[name], mask)
            tensors[f"{name}.mask"] = mask
        for name in self.pair_names:
            mask = x.masks[name]
            both = mask[:, :, None] & mask[:, None, :]
            tensors[f"{name}.pairs"] = self._block(f"{name}.pairs").inverse(x.pairs[name], both)
        for name in self.global_names:
            present = x.global_masks[name]
            tensors[name] = self._block(name).inverse(x.globals[name], present)
            tensors[f"{name}.mask"] = present
        return tensors

    def _block(self, name: str) -> FeatureTransform:
        block = self.blocks[_key(name)]
        assert isinstance(block, FeatureTransform)
        return block

    def _values(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        values = _get(tensors, name).float()
        block = self._block(name)
        if values.shape[-1] != block.width_in:
            raise ContractError(
                f"{name}: expected {block.width_in} features ({', '.join(block.names)}), found "
                f"{values.shape[-1]}; the model was built for another event description"
            )
        return values


def _key(name: str) -> str:
    """Name of a submodule: torch allows no dot, and no name that a module already has."""
    return f"{name.replace('.', ':')}_features"


def _get(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    found = tensors.get(name)
    if found is None:
        raise ContractError(
            f"the model needs the input {name!r}, the batch has {', '.join(tensors)}"
            f"{did_you_mean(name, tensors)}"
        )
    return found


def four_momentum(values: ArrayT, roles: Mapping[Role, int], mask: ArrayT) -> ArrayT:
    """Build the four-momenta of real objects, for numpy arrays and torch tensors.

    Args:
        values: Physical features, shape ``(event, object, feature)``.
        roles: Column of each role of one of `hepset.schema.feature.P4_SYSTEMS`.
        mask: True where the object is real, shape ``(event, object)``.

    Returns:
        ``(px, py, pz, E)``, shape ``(event, object, 4)``, 0 in padded slots.
    """

    def column(role: Role) -> ArrayT:
        found: ArrayT = values[..., roles[role]]
        return found

    if "px" in roles:
        px, py, pz = column("px"), column("py"), column("pz")
        return p4_from_px_py_pz_energy(px, py, pz, column("energy"), mask=mask)
    pt, eta = column("pt"), column("eta")
    last = column("mass" if "mass" in roles else "energy")
    if "sin_phi" in roles:
        build_plain = (
            p4_from_pt_eta_sin_cos_mass if "mass" in roles else p4_from_pt_eta_sin_cos_energy
        )
        return build_plain(pt, eta, column("sin_phi"), column("cos_phi"), last, mask=mask)
    build = p4_from_pt_eta_phi_mass if "mass" in roles else p4_from_pt_eta_phi_energy
    return build(pt, eta, column("phi"), last, mask=mask)


def momentum_columns(event: EventInfo, contract: Contract) -> dict[str, dict[Role, int]]:
    """Return the streams that have a four-momentum, with the column of each of its roles."""
    found = {}
    for spec in contract.of_kind("stream"):
        momentum = event.streams[spec.name].momentum
        if momentum is not None:
            columns = spec.columns
            found[spec.name] = {role: columns.index(name) for role, name in momentum.items()}
    return found
