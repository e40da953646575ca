"""SPANet's names of the parameters, for a network that keeps several of them in one tensor."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hepset_spanet.network.stacked import Stacked

__all__ = ["Piece", "pieces", "rename", "restore"]


class Piece(NamedTuple):
    """Where one of SPANet's tensors is in one of ours.

    Attributes:
        name: SPANet's name.
        copy: Number of the copy; None where the whole tensor is meant.
        part: Which of `parts` equal parts of the copy.
        parts: Number of parts.
    """

    name: str
    copy: int | None
    part: int
    parts: int

    def of(self, value: Tensor) -> Tensor:
        """Return SPANet's tensor."""
        if self.copy is None:
            return value
        own = value[self.copy]
        return own if self.parts == 1 else own.unflatten(0, (self.parts, -1))[self.part]


def pieces(network: nn.Module, groups: Mapping[str, Sequence[str]]) -> dict[str, list[Piece]]:
    """Return, for each parameter and buffer, which of SPANet's tensors it holds.

    Args:
        network: The network.
        groups: Beginning of our names → beginnings of SPANet's, one for each copy. The longest
            that fits counts; where none does, the names are the same.
    """
    found: dict[str, list[Piece]] = {}
    for place, module in network.named_modules():
        before = f"{place}." if place else ""
        group = max((each for each in groups if before.startswith(each)), key=len, default="")
        targets = groups.get(group, ("",))
        local = before[len(group) :]
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, _ in own:
            if not isinstance(module, Stacked):
                (target,) = targets
                found[before + name] = [Piece(f"{target}{local}{name}", None, 0, 1)]
                continue
            names = module.fused.get(name, (name,))
            found[before + name] = [
                Piece(f"{target}{local}{each}", copy, part, len(names))
                for copy, target in enumerate(targets)
                for part, each in enumerate(names)
            ]
    return found


def rename(
    state: MutableMapping[str, Any], prefix: str, known: Mapping[str, Sequence[Piece]]
) -> None:
    """Put SPANet's names in place of ours, behind a prefix."""
    for name, held in known.items():
        value = state.pop(prefix + name)
        for piece in held:
            state[prefix + piece.name] = piece.of(value)


def restore(
    state: MutableMapping[str, Any], prefix: str, known: Mapping[str, Sequence[Piece]]
) -> None:
    """Undo `rename`, wherever all that one of our tensors holds is there."""
    for name, held in known.items():
        if any(prefix + piece.name not in state for piece in held):
            continue
        values = [state.pop(prefix + piece.name) for piece in held]
        if held[0].copy is None:
            state[prefix + name] = values[0]
            continue
        parts = held[0].parts
        copies = [
            torch.cat(values[start : start + parts]) if parts > 1 else values[start]
            for start in range(0, len(values), parts)
        ]
        state[prefix + name] = torch.stack(copies)
