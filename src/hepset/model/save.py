"""Store a model so that `hepset.load_model` opens it, without a training of hepset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from hepset.errors import ConfigurationError
from hepset.files import atomic_file
from hepset.model import Model
from hepset.model.load import BEST_CHECKPOINT

__all__ = ["save_run", "write_checkpoint"]


def save_run(
    model: Model, output: str | os.PathLike[str], config: Mapping[str, Any] | None = None
) -> Path:
    """Write a run directory that holds a model, such as one that another system has trained.

    Args:
        model: The model.
        output: The directory to write; it must not hold a checkpoint yet.
        config: What its ``config.yaml`` says; without it none is written.

    Returns:
        The checkpoint that was written, ``checkpoints/best.ckpt``.

    Raises:
        ConfigurationError: If the output holds a checkpoint.
    """
    path = Path(output) / BEST_CHECKPOINT
    if path.exists():
        raise ConfigurationError(f"{path}: there is a checkpoint already; choose another directory")
    text = None
    if config is not None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    if text is not None:
        (Path(output) / "config.yaml").write_text(text, encoding="utf-8")
    write_checkpoint({"model": model.record(), "state_dict": weights}, path)
    return path


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint in one step: there is never a part of one under its name."""
    with atomic_file(path, durable=False) as file:
        torch.save(dict(content), file)
