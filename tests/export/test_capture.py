"""What is done to a traced program, so that the exporter does not trace it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hepset.export.capture import _is_ready, capture

FREE = {0: torch.export.Dim.DYNAMIC}


class Renamed(nn.Module):
    """Operators with another name, one of them writing into memory of its own."""

    def forward(self, *given: Tensor) -> tuple[Tensor]:
        x, y = given
        near = (x > 0) & (y > 0) | (x < -1)
        total = (2 * x).add_(torch.arctan2(x, y))
        return (torch.where(near, total, torch.arcsinh(y)).to(torch.float64),)


class Viewed(nn.Module):
    """A view sees what is written into the memory that it shares."""

    def forward(self, *given: Tensor) -> tuple[Tensor]:
        (x,) = given
        own = 2 * x
        row = own[:, :1]
        own.mul_(3)
        return (row + own,)


class Copied(nn.Module):
    def forward(self, *given: Tensor) -> tuple[Tensor]:
        (x,) = given
        places = torch.tensor([2, 0])
        return (x.index_copy(1, places, x[:, 1:3]),)


def operators(module: nn.Module, *inputs: Tensor) -> tuple[Any, set[Any]]:
    program = capture(module.eval(), inputs, [FREE] * len(inputs))
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return program, {node.target for node in nodes}


@pytest.mark.parametrize(
    ("module", "count"), [(Renamed(), 2), (Copied(), 1)], ids=lambda x: type(x).__name__
)
def test_a_program_without_anything_to_replace_is_left_alone(module: nn.Module, count: int) -> None:
    inputs = tuple(torch.randn(5, 3) for _ in range(count))
    program, targets = operators(module, *inputs)
    aten = torch.ops.aten
    table = torch.export.default_decompositions()
    assert not targets & {aten.arctan2.default, aten.__and__.Tensor, aten.index_copy.default}
    table = {operator: None for operator in table if operator not in targets}
    assert program.run_decompositions(table) is program
    for size in (1, 5, 8):
        again = tuple(torch.randn(size, 3) for _ in range(count))
        torch.testing.assert_close(program.module()(*again), module(*again))


def test_a_view_of_what_is_written_is_left_to_torch() -> None:
    x = torch.randn(5, 3)
    program, targets = operators(Viewed(), x)
    assert any(getattr(target, "_schema", None) and target._schema.is_mutable for target in targets)
    assert not _is_ready(program, {})
    done = program.run_decompositions({})
    torch.testing.assert_close(done.module()(x)[0], 6 * x[:, :1] + 6 * x)


def test_an_operator_to_replace_is_replaced() -> None:
    program, _ = operators(Renamed(), torch.randn(5, 3), torch.randn(5, 3))
    done = program.run_decompositions()
    names = {str(node.target) for node in done.graph.nodes}
    assert "aten.where.self" in names
    assert done is not program
