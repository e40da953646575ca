"""`WeaverLayout`: graphs with the inputs and the output of those that weaver exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hepset.arrays import Array
from hepset.dialects import load_yaml
from hepset.errors import ConfigurationError, ExportError
from hepset.export.layouts import ExportLayout
from hepset.interfaces import ComponentConfig
from hepset.schema.feature import Feature, Role
from hepset.schema.steps import AffineStep, ClipStep
from hepset_jetclass.weaver.grammar import WeaverConfig, parse_weaver

if TYPE_CHECKING:
    from torch import Tensor

    from hepset.model import Model

__all__ = ["WeaverLayout", "WeaverLayoutConfig"]

_FAR = 1e32
"""Bound that weaver writes where there is none."""
_CARTESIAN: tuple[Role, ...] = ("px", "py", "pz", "energy")


class WeaverLayoutConfig(ComponentConfig):
    """Options of the layout ``weaver``."""

    head: str | None = None
    """Head whose classes come out; needed where the model has several classifications."""
    embedding: bool = False
    """Whether the embedding of the event follows the probabilities in the output."""
    data_config: str | None = None
    """weaver's data configuration; with it ``preprocess.json`` lists its groups and labels as
    weaver writes them, else those that the event tells."""


class WeaverLayout(ExportLayout):
    """Inputs ``<stream>_features``, ``<stream>_vectors``, ``<stream>_mask``; output ``softmax``.

    For a model of one stream with px, py, pz and energy. The inputs are float32, ``(event, channel,
    slot)``, and what weaver's preprocessing gives: the fixed affine and clip steps of the event are
    not in the graph. ``preprocess.json`` beside it says what they are.
    """

    name = "weaver"
    Config: ClassVar[type[ComponentConfig]] = WeaverLayoutConfig
    config: WeaverLayoutConfig

    def bind(self, model: Model) -> None:
        """Look for the stream and the head.

        Raises:
            ExportError: If the model has other inputs, or its transforms are not weaver's.
            ConfigurationError: If the options do not fit.
        """
        layout = model.transform.layout
        seen = [name for name, width in layout.streams.items() if width]
        others = [name for name, width in layout.globals.items() if width]
        if len(seen) != 1 or others or layout.pairs or seen[0] not in layout.p4:
            raise ExportError(
                "layout weaver: one stream with a four-momentum is needed, the model has "
                f"{', '.join([*seen, *others]) or 'nothing'}; take the layout hepset"
            )
        (self.stream,) = seen
        momentum = self.event.streams[self.stream].momentum or {}
        if set(momentum) != set(_CARTESIAN):
            raise ExportError(
                f"layout weaver: {self.stream} has the four-momentum {', '.join(momentum)}; "
                f"{self.stream}_vectors needs {', '.join(_CARTESIAN)}"
            )
        self.vectors = [momentum[role] for role in _CARTESIAN]
        spec = self.contract[self.stream]
        self.features = {n: spec.features[n] for n in spec.columns if spec.features[n].input}
        for name, feature in self.features.items():
            _variable(name, feature)
        self.slots = self.contract.slots[self.stream]
        self.head = self._choose_head(model)
        self.classes = self.event.targets[model.head(self.head).config.target].classes  # type: ignore[attr-defined]
        self.transform = model.transform
        self.weaver: WeaverConfig | None = None
        if self.config.data_config is not None:
            where = self.config.data_config
            self.weaver = parse_weaver(load_yaml(Path(where)), where)
            self._check_groups(self.weaver, where)

    def _choose_head(self, model: Model) -> str:
        known = [
            n for n, options in model.config.heads.items() if options["name"] == "classification"
        ]
        if self.config.head is not None:
            if self.config.head not in known:
                raise ConfigurationError(
                    f"layout weaver: head: no classification {self.config.head!r}; the model has "
                    f"{', '.join(known) or 'none'}"
                )
            return self.config.head
        if len(known) != 1:
            raise ConfigurationError(
                f"layout weaver: the model has {len(known)} classifications "
                f"({', '.join(known) or '–'}); say which by --layout-option head=NAME"
            )
        return known[0]

    def _check_groups(self, weaver: WeaverConfig, where: str) -> None:
        """Check the order of the channels against that of the data configuration."""
        for group, own in (("features", list(self.features)), ("vectors", self.vectors)):
            name = f"{self.stream}_{group}"
            if name not in weaver.inputs:
                raise ConfigurationError(f"{where}: it has no inputs.{name}")
            theirs = [variable.name for variable in weaver.inputs[name].vars]
            if theirs != own:
                raise ConfigurationError(
                    f"{where}: inputs.{name} are {', '.join(theirs)}; the model's are "
                    f"{', '.join(own)}"
                )

    @property
    def _inputs(self) -> tuple[str, str, str]:
        return f"{self.stream}_features", f"{self.stream}_vectors", f"{self.stream}_mask"

    def axes(self) -> dict[str, dict[int, str]]:
        """Events and slots have any size."""
        return {name: {0: "event", 2: self.stream} for name in self._inputs}

    def to_model(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Not asked: the graph begins behind the model's transform, see `run`."""
        raise NotImplementedError("the layout weaver enters the model behind its transform")

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities as ``softmax``."""
        return {"softmax": predictions[f"{self.head}/probabilities"]}

    def run(self, model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give preprocessed inputs to the backbone; objects beyond the mask are left out."""
        import torch  # noqa: PLC0415

        from hepset.interfaces.backbone import Inputs  # noqa: PLC0415
        from hepset.interfaces.head import EncoderHandle  # noqa: PLC0415

        features, vectors, real = (inputs[name] for name in self._inputs)
        mask = real[:, 0] != 0
        x = Inputs(
            streams={self.stream: torch.where(mask[..., None], features.transpose(1, 2), 0.0)},
            masks={self.stream: mask},
            p4={self.stream: torch.where(mask[..., None], vectors.transpose(1, 2), 0.0)},
        )
        encoded = model.backbone(x)
        head = model.head(self.head)
        handle = EncoderHandle(model.transform, model.backbone, x)
        found = self.from_model(
            {f"{self.head}/{k}": v for k, v in head.decode(head(encoded, handle)).items()}
        )
        if self.config.embedding:
            found["softmax"] = torch.cat([found["softmax"], encoded.event], 1)
        return found

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Preprocess physical arrays by contract name."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            x = self.transform({name: torch.as_tensor(a) for name, a in arrays.items()})
        found = (x.streams[self.stream], x.p4[self.stream], x.masks[self.stream][..., None])
        return {
            name: np.ascontiguousarray(tensor.float().transpose(1, 2).numpy())
            for name, tensor in zip(self._inputs, found, strict=True)
        }

    def files(self) -> dict[str, bytes]:
        """Return ``preprocess.json`` as weaver writes it."""
        spec = self.contract[self.stream]
        known = {name: spec.features[name] for name in spec.columns}
        found = self._stated() if self.weaver is None else _of_weaver(self.weaver, known)
        return {"preprocess.json": json.dumps(found, indent=2).encode()}

    def _stated(self) -> dict[str, Any]:
        """What the event tells of the preprocessing."""
        features, vectors, mask = self._inputs
        plain = Feature()
        groups: dict[str, Mapping[str, Feature]] = {
            features: self.features,
            vectors: dict.fromkeys(self.vectors, plain),
            mask: {mask: plain},
        }
        document: dict[str, Any] = {
            "output_names": list(self.classes or ()),
            "input_names": list(groups),
        }
        for group, variables in groups.items():
            document[group] = {
                "var_names": list(variables),
                "var_infos": {name: _variable(name, each) for name, each in variables.items()},
                "var_length": self.slots,
            }
        return document


def _variable(name: str, feature: Feature) -> dict[str, float]:
    """Say how a variable is preprocessed."""
    centre, scale, low, high = 0.0, 1.0, -_FAR, _FAR
    clipped = False
    for step in feature.transform:
        if (
            isinstance(step, AffineStep)
            and not isinstance(step.affine, str)
            and not clipped
            and (centre, scale) == (0.0, 1.0)
        ):
            centre, scale = step.affine.subtract, step.affine.multiply
        elif isinstance(step, ClipStep) and not clipped:
            low, high = (
                far if bound is None else bound
                for far, bound in zip((-_FAR, _FAR), step.clip, strict=True)
            )
            clipped = True
        else:
            raise ExportError(
                f"layout weaver: {name} is transformed by {' → '.join(map(str, feature.transform))}"
                "; weaver's preprocessing is one affine step and one clip. Derive the logarithm "
                "(prepare.derive), or take the layout hepset"
            )
    return _entry(centre, scale, low, high, 0)


def _entry(centre: float, scale: float, low: float, high: float, pad: float) -> dict[str, float]:
    return {
        "median": centre,
        "norm_factor": scale,
        "replace_inf_value": 0,
        "lower_bound": low,
        "upper_bound": high,
        "pad": pad,
    }


def _of_weaver(config: WeaverConfig, known: Mapping[str, Feature]) -> dict[str, Any]:
    """Write what a data configuration says, as weaver does.

    Args:
        config: The data configuration.
        known: The model's features, which hold the scales that were computed from data.
    """
    document: dict[str, Any] = {
        "output_names": config.labels.value,
        "input_names": list(config.inputs),
    }
    for name, group in config.inputs.items():
        document[name] = {"var_names": [v.name for v in group.vars], "var_infos": {}}
        for variable in group.vars:
            scale = config.scales[variable.name]
            document[name]["var_length"] = scale.length
            if scale.center == "auto":
                if variable.name not in known:
                    raise ExportError(
                        f"{variable.name}: its scale is computed from data, and the model has no "
                        "such variable; leave data_config out"
                    )
                found = _variable(variable.name, known[variable.name])
                document[name]["var_infos"][variable.name] = {**found, "pad": scale.pad_value}
                continue
            plain = scale.center is None
            document[name]["var_infos"][variable.name] = _entry(
                0 if scale.center is None else scale.center,
                scale.scale,
                -_FAR if plain or scale.min is None else scale.min,
                _FAR if plain or scale.max is None else scale.max,
                scale.pad_value,
            )
    return document
