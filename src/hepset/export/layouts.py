"""`ExportLayout`: how the inputs and outputs of an exported graph are called and shaped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hepset.arrays import Array
from hepset.interfaces.component import ComponentConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

if TYPE_CHECKING:
    from torch import Tensor

    from hepset.model import Model

__all__ = ["ExportLayout", "HepsetLayout"]


class ExportLayout(ABC):
    """Maps hepset's tensors to those of a graph and back.

    A plugin that serves other programs names its layouts by the hook ``hepset_export_layouts``.
    The two methods on tensors become part of the graph; the one on arrays feeds it for the
    comparison with torch.
    """

    name: ClassVar[str]
    """Short name, as in ``hepset export --layout NAME``."""
    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    """Model of the options, as in ``hepset export --layout-option KEY=VALUE``."""

    def __init__(
        self, contract: Contract, event: EventInfo, config: ComponentConfig | None = None
    ) -> None:
        """Keep the contract of the model's inputs, the event and the options."""
        self.contract = contract
        self.event = event
        self.config = self.Config() if config is None else config

    def bind(self, model: Model) -> None:
        """Look at the model before anything else, where a layout needs more than its contract.

        Raises:
            ExportError: If the layout cannot hold this model.
        """
        del model

    def run(self, model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn the graph's inputs into its outputs: torch only, exportable."""
        return self.from_model(model.decode(model(self.to_model(inputs))))

    def files(self) -> dict[str, bytes]:
        """Return files to write beside the graph, name → content."""
        return {}

    @abstractmethod
    def axes(self) -> dict[str, dict[int, str]]:
        """Name the graph's inputs in order, each with its axes of any size: position → name.

        Axes of one name have one size; ``event`` is the number of events, a stream's name its
        number of slots.
        """

    @abstractmethod
    def to_model(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn the graph's inputs into the model's: torch only, exportable."""

    @abstractmethod
    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn ``<head>/<field>`` predictions into the graph's outputs: torch only, exportable."""

    @abstractmethod
    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Turn arrays by contract name into what the graph is fed with."""


class HepsetLayout(ExportLayout):
    """Inputs ``jets``, ``jets.mask``, ``met``, ``met.mask``; outputs ``<head>/<field>``."""

    name = "hepset"

    def axes(self) -> dict[str, dict[int, str]]:
        """Every input of the contract; the event and the slots of the streams have any size."""
        streams = set(self.contract.slots)
        return {
            spec.name: {
                axis: dim for axis, dim in enumerate(spec.dims) if dim == "event" or dim in streams
            }
            for spec in self.contract.tensors.values()
        }

    def to_model(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs as they are."""
        return dict(inputs)

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the predictions as they are."""
        return dict(predictions)

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays as they are."""
        return dict(arrays)
