"""Layers of several networks of one structure at once.

Every parameter has a leading axis of copies, and values are ``(copies, rows, width)``: row r of
copy c goes through network c. Particles of an event are computed together this way.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset.nn.onednn import linear

__all__ = ["GruGate", "Stacked", "StackedLayerNorm", "StackedLinear", "stacked_linear"]

GATE_BIAS = 2.0
"""What the gates start with: an open residual path."""


class Stacked(nn.Module):
    """A layer whose own parameters and buffers have a leading axis of copies.

    Attributes:
        fused: Parameters that are several of SPANet's one after the other: name → their names.
    """

    fused: ClassVar[dict[str, tuple[str, ...]]] = {}


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply ``weight`` (copies, out, in) and ``bias`` (copies, out) to `x` (copies, rows, in)."""
    if len(weight) == 1:
        return linear(x, weight.squeeze(0), None if bias is None else bias.squeeze(0))
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


class StackedLinear(Stacked):
    """Linear layers."""

    def __init__(self, copies: int, width: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(copies, out, width).uniform_(-bound, bound))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(copies, out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x`, shape ``(copies, rows, width)``."""
        return stacked_linear(x, self.weight, self.bias)


class StackedLayerNorm(Stacked):
    """LayerNorms over features."""

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(copies, width))
        self.bias = nn.Parameter(torch.zeros(copies, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape ``(copies, rows, width)``."""
        width = x.shape[-1:]
        if len(self.weight) == 1:
            return functional.layer_norm(x, width, self.weight.squeeze(0), self.bias.squeeze(0))
        return torch.addcmul(
            self.bias[:, None], functional.layer_norm(x, width), self.weight[:, None]
        )


class GruGate(Stacked):
    """Mixes a new value into a residual like a gated recurrent unit (Parisotto et al. 2019).

    With value v, residual r0 and learnt bias b: ``r = σ(Wr v + Ur r0)``,
    ``z = σ(Wz v + Uz r0 - b)``, ``h = tanh(Wg v + Ug (r * r0))``, result ``(1 - z) r0 + z h``.
    """

    fused: ClassVar[dict[str, tuple[str, ...]]] = {
        "value_weight": tuple(f"linear_W_{gate}.weight" for gate in "rzg"),
        "value_bias": tuple(f"linear_W_{gate}.bias" for gate in "rzg"),
        "residual_weight": tuple(f"linear_U_{gate}.weight" for gate in "rz"),
        "reset_weight": ("linear_U_g.weight",),
    }

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)

        def start(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(copies, *shape).uniform_(-bound, bound))

        self.gate_bias = nn.Parameter(torch.full((copies, width), GATE_BIAS))
        self.value_weight, self.value_bias = start(3 * width, width), start(3 * width)
        self.residual_weight, self.reset_weight = start(2 * width, width), start(width, width)

    def forward(self, value: Tensor, residual: Tensor) -> Tensor:
        """Mix two tensors of shape ``(copies, rows, width)``."""
        weights = (
            self.value_weight,
            self.value_bias,
            self.residual_weight,
            self.reset_weight,
            self.gate_bias,
        )
        if not is_exporting() and not torch.is_autocast_enabled(value.device.type):
            mixed: Tensor = _Gate.apply(value, residual, *weights)  # type: ignore[no-untyped-call]
            return mixed
        from_value = stacked_linear(value, self.value_weight, self.value_bias)
        reset, update, new = from_value.chunk(3, -1)
        more_reset, more_update = stacked_linear(residual, self.residual_weight, None).chunk(2, -1)
        reset = torch.sigmoid(reset + more_reset)
        update = torch.sigmoid(update + more_update - self.gate_bias[:, None])
        new = torch.tanh(new + stacked_linear(reset * residual, self.reset_weight, None))
        return (1 - update) * residual + update * new


class _Gate(torch.autograd.Function):
    """The gate with a gradient by hand: a third of the passes over memory."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's context
        value: Tensor,
        residual: Tensor,
        value_weight: Tensor,
        value_bias: Tensor,
        residual_weight: Tensor,
        reset_weight: Tensor,
        gate_bias: Tensor,
    ) -> Tensor:
        width = residual.shape[-1]
        two, bias = 2 * width, value_bias[:, None]
        gates_bias = torch.cat([bias[..., :width], bias[..., width:two] - gate_bias[:, None]], -1)
        gates = torch.baddbmm(gates_bias, value, value_weight[:, :two].transpose(1, 2))
        gates.baddbmm_(residual, residual_weight.transpose(1, 2)).sigmoid_()
        reset, update = gates[..., :width], gates[..., width:]
        new = torch.baddbmm(bias[..., two:], value, value_weight[:, two:].transpose(1, 2))
        new.baddbmm_(reset * residual, reset_weight.transpose(1, 2)).tanh_()
        ctx.save_for_backward(
            value, residual, gates, new, value_weight, residual_weight, reset_weight
        )
        return torch.lerp(residual, new, update)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        value, residual, gates, new, value_weight, residual_weight, reset_weight = ctx.saved_tensors
        width = residual.shape[-1]
        two = 2 * width
        reset, update = gates[..., :width], gates[..., width:]
        d_new = torch.ops.aten.tanh_backward(gradient * update, new)
        d_product = torch.bmm(d_new, reset_weight)
        d_gates = torch.empty_like(gates)
        torch.mul(d_product, residual, out=d_gates[..., :width])
        torch.mul(new - residual, gradient, out=d_gates[..., width:])
        torch.ops.aten.sigmoid_backward.grad_input(d_gates, gates, grad_input=d_gates)
        d_residual = torch.bmm(d_gates, residual_weight).add_(gradient)
        d_residual.addcmul_(gradient, update, value=-1).addcmul_(d_product, reset)
        d_value = torch.bmm(d_gates, value_weight[:, :two])
        d_value.baddbmm_(d_new, value_weight[:, two:])
        by_gate, by_new = d_gates.transpose(1, 2), d_new.transpose(1, 2)
        d_bias = d_gates.sum(1)
        return (
            d_value,
            d_residual,
            torch.cat([torch.bmm(by_gate, value), torch.bmm(by_new, value)], 1),
            torch.cat([d_bias, d_new.sum(1)], 1),
            torch.bmm(by_gate, residual),
            torch.bmm(by_new, reset * residual),
            -d_bias[:, width:],
        )
