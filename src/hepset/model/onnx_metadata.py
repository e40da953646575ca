"""What an exported graph says about itself, as text under fixed keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hepset.errors import ExportError
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

__all__ = ["ONNX_FORMAT", "GraphMetadata"]

ONNX_FORMAT: Final = 1
"""Format of the metadata in an ONNX file."""


@dataclass(frozen=True)
class GraphMetadata:
    """The metadata of an ONNX file.

    Attributes:
        contract: Inputs and outputs.
        event: What an event is.
        layout: Name of the layout of the graph.
        classes: ``<head>/<field>`` or target → class names, where they are known.
        derive: Derived feature → expression, to be computed before the graph is run.
        select: Cut → expression of the events that the model was trained on.
        provenance: Versions, configuration, seed, digest of the dataset.
    """

    contract: Contract
    event: EventInfo
    layout: str = "hepset"
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    derive: Mapping[str, str] = field(default_factory=dict)
    select: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, str]:
        """Return the properties to store, key → text."""
        return {
            "hepset.format": str(ONNX_FORMAT),
            "hepset.layout": self.layout,
            "hepset.contract": json.dumps(self.contract.dump()),
            "hepset.event": json.dumps(self.event.model_dump(mode="json", exclude_none=True)),
            "hepset.classes": json.dumps(dict(self.classes)),
            "hepset.derive": json.dumps(dict(self.derive)),
            "hepset.select": json.dumps(dict(self.select)),
            "hepset.provenance": json.dumps(dict(self.provenance)),
        }

    @classmethod
    def load(cls, properties: Mapping[str, str], where: str) -> GraphMetadata:
        """Read the properties of a stored graph.

        Raises:
            ExportError: If hepset did not write the graph, or a newer one did.
        """
        found = properties.get("hepset.format")
        if found is None:
            raise ExportError(
                f"{where}: no hepset metadata in this ONNX file, so nothing says what its inputs "
                "mean; export the model with hepset export"
            )
        if not found.isdigit() or int(found) > ONNX_FORMAT:
            raise ExportError(
                f"{where}: ONNX metadata format {found} is newer than this hepset reads "
                f"({ONNX_FORMAT}); update hepset"
            )

        def part(name: str) -> Any:  # noqa: ANN401  JSON content
            try:
                return json.loads(properties[f"hepset.{name}"])
            except (KeyError, ValueError):
                raise ExportError(
                    f"{where}: the metadata hepset.{name} is missing or no JSON; export the model "
                    "again"
                ) from None

        return cls(
            contract=Contract.load(part("contract"), where),
            event=EventInfo.parse(part("event"), where),
            layout=properties.get("hepset.layout", "hepset"),
            classes=part("classes"),
            derive=part("derive"),
            select=part("select"),
            provenance=part("provenance"),
        )
