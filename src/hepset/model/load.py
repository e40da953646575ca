"""Open a trained model: a run directory, a checkpoint, or an ONNX file alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hepset.errors import ConfigurationError
from hepset.model.onnx_model import OnnxModel

if TYPE_CHECKING:
    from hepset.model import Model

__all__ = ["load_checkpoint", "load_model"]

BEST_CHECKPOINT = Path("checkpoints") / "best.ckpt"
"""The checkpoint of a run directory that is used."""


def load_model(path: str | os.PathLike[str]) -> Model | OnnxModel:
    """Open a trained model.

    Args:
        path: A run directory (its best checkpoint), a checkpoint, or an ``.onnx`` file.

    Returns:
        Something with ``predict(batch)``, ``contract`` and ``event``.

    Raises:
        ConfigurationError: If the path is none of them.
        ExportError: If the ONNX file is not one that hepset wrote.
    """
    found = Path(path)
    if found.is_dir():
        return load_checkpoint(run_checkpoint(found))
    if not found.exists():
        raise ConfigurationError(
            f"{found}: there is no such file or directory; give a run directory, a checkpoint or "
            "an .onnx file"
        )
    if found.suffix == ".onnx":
        return OnnxModel(found)
    return load_checkpoint(found)


def run_checkpoint(directory: Path) -> Path:
    """Return the best checkpoint of a run directory.

    Raises:
        ConfigurationError: If the directory holds none.
    """
    path = directory / BEST_CHECKPOINT
    if path.is_file():
        return path
    if (directory / "dataset.json").is_file():
        hint = "this is a data set, not a run"
    elif (directory / "config.yaml").is_file():
        hint = f"this run has not been trained; hepset run {directory / 'config.yaml'}"
    else:
        hint = "give a run directory, a checkpoint or an .onnx file"
    raise ConfigurationError(f"{directory}: no {BEST_CHECKPOINT} in this directory; {hint}")


def load_checkpoint(path: str | os.PathLike[str]) -> Model:
    """Build the model of a checkpoint, in evaluation mode on the CPU.

    Only tensors and plain data are read, never pickled code.

    Raises:
        ConfigurationError: If the file is no checkpoint of hepset, or the weights do not fit.
        UnknownComponentError: If a plugin that the model needs is not installed.
    """
    import torch  # noqa: PLC0415

    from hepset.model import Model  # noqa: PLC0415

    found = Path(path)
    if found.is_dir():
        found = run_checkpoint(found)
    if not found.is_file():
        raise ConfigurationError(f"{found}: there is no such checkpoint")
    try:
        content = torch.load(found, map_location="cpu", weights_only=True)
    except Exception as problem:  # what is no checkpoint makes torch raise anything
        # torch goes on with advice to load the file unsafely.
        reason = str(problem).partition(". ")[0].partition("\n")[0] or type(problem).__name__
        raise ConfigurationError(
            f"{found}: not a checkpoint that can be read safely (tensors and plain data only): "
            f"{reason}; give a run directory, a checkpoint or an .onnx file"
        ) from problem
    record = content.get("model") if isinstance(content, dict) else None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(record, dict) or not isinstance(weights, dict):
        raise ConfigurationError(
            f"{found}: a file of torch, but not a checkpoint of hepset: it lacks the description "
            "of the model"
        )
    # Lightning keeps the model as the part "model" of the training module.
    own = {
        name.removeprefix("model."): value
        for name, value in weights.items()
        if name.startswith("model.")
    }
    return Model.from_record(record, own or weights, where=str(found)).eval()
