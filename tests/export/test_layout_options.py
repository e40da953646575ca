"""Options of export layouts, and the files that a layout writes beside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from hepset import Component, hookimpl
from hepset.cli import main
from hepset.errors import ConfigurationError
from hepset.export import export_onnx
from hepset.export.layouts import HepsetLayout
from hepset.interfaces.component import ComponentConfig
from hepset.model import Model
from hepset.plugins import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor


class ScaledConfig(ComponentConfig):
    """Options of the layout of this test."""

    factor: int = 1


class Scaled(HepsetLayout):
    """Multiplies every output, and writes down by how much."""

    name = "scaled"
    Config = ScaledConfig
    config: ScaledConfig

    def bind(self, model: Model) -> None:
        self.heads = list(model.heads)

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # An output may be called as the exporter calls what it is made of.
        return {"softmax": self.config.factor * predictions["toy/probabilities"]}

    def files(self) -> dict[str, bytes]:
        return {"scale.txt": f"{self.config.factor} {self.heads}".encode()}


class _Layouts:
    hepset_interface = 1

    @hookimpl
    def hepset_components(self) -> list[Component]:
        return [Component("export_layouts", "scaled", Scaled)]


@pytest.fixture(autouse=True)
def layouts() -> Iterator[None]:
    registry().register(_Layouts(), name="scaled-layouts")
    yield
    registry().unregister("scaled-layouts")


def test_a_layout_has_options_looks_at_the_model_and_writes_files(
    model: Model, tmp_path: Path
) -> None:
    check = export_onnx(model, tmp_path / "m.onnx", layout={"name": "scaled", "factor": 3})
    assert check.layout == "scaled"
    assert (tmp_path / "scale.txt").read_text() == "3 ['toy']"


def test_an_option_that_does_not_fit_is_named(model: Model, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"export\.layout: facto: unknown key; did you mean 'factor'"
    ):
        export_onnx(model, tmp_path / "m.onnx", layout={"name": "scaled", "facto": 3})
    with pytest.raises(ConfigurationError, match=r"'name' is missing .* available export layouts"):
        export_onnx(model, tmp_path / "m.onnx", layout={"factor": 3})
    assert not list(tmp_path.iterdir())


def test_the_command_takes_only_pairs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    options = ["export", str(run), "-o", str(tmp_path / "m.onnx"), "--layout-option", "factor"]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 2
    assert "expected KEY=VALUE" in found.output
