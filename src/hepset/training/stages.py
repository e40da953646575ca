"""The stages of a training: which heads learn, how much they count, and what stays as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.model import Model
from hepset.schema.config import TrainConfig, TrainStage

__all__ = ["BACKBONE", "StagePlan", "check_stages", "ramp"]

BACKBONE = "backbone"
"""What the backbone is called among the heads, where it gives losses."""


class StagePlan:
    """What holds in each epoch; a training without stages is one stage with all heads.

    Args:
        model: Its heads say in which stages they learn.
        config: The training options.

    Raises:
        ConfigurationError: If a name fits no stage, head or parameter, or nothing is left to learn.
    """

    def __init__(self, model: Model, config: TrainConfig) -> None:
        self.config = config
        self._heads = {name: model.head(name).config.stages for name in model.config.heads}
        check_stages(self._heads, config)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._frozen = [
            {name: trainable[name] for name in _fitting(trainable, stage)}
            for stage in config.stages
        ]
        for stage, frozen in zip(config.stages, self._frozen, strict=True):
            off = tuple(f"heads.{name}." for name in self._heads.keys() - self._active(stage))
            left = [n for n in trainable if n not in frozen and not n.startswith(off)]
            if trainable and not left:
                raise ConfigurationError(
                    f"train.stages: every parameter of what learns is frozen in {stage.name!r}, "
                    "there is nothing to train"
                )
        self._quiet = [_frozen_modules(model, set(frozen)) for frozen in self._frozen]

    def _active(self, stage: TrainStage) -> set[str]:
        return _learning(self._heads, stage)

    def stage(self, epoch: int) -> TrainStage | None:
        """Return the stage that an epoch belongs to; None without stages."""
        stages = self.config.stages
        return stages[self.config.stage_of(epoch)] if stages else None

    def starts(self, epoch: int) -> bool:
        """Whether an epoch is the first of its stage, so that its losses are a new sum."""
        return epoch == 0 or self.config.stage_of(epoch) != self.config.stage_of(epoch - 1)

    def is_last(self, epoch: int) -> bool:
        """Whether no other stage follows."""
        return self.config.stage_of(epoch) >= len(self.config.stages) - 1

    def active(self, epoch: int) -> set[str]:
        """Return the heads that learn in an epoch; the others are not computed."""
        stage = self.stage(epoch)
        return set(self._heads) if stage is None else self._active(stage)

    def factors(self, epoch: int, share: float) -> dict[str, float]:
        """Return the factors of the losses beside the heads' own, where they are not 1.

        Args:
            epoch: From 0.
            share: How much of this epoch is over, in [0, 1].
        """
        stage = self.stage(epoch)
        if stage is None:
            return {}
        before = sum(s.epochs for s in self.config.stages[: self.config.stage_of(epoch)])
        done = (epoch - before + share) / stage.epochs
        return {name: ramp(value, done, stage.ramp) for name, value in stage.loss_weights.items()}

    def final_factors(self, epoch: int) -> dict[str, float]:
        """Return the factors at the end of the stage, by which its epochs are compared."""
        stage = self.stage(epoch)
        if stage is None:
            return {}
        return {name: ramp(value, 1.0, stage.ramp) for name, value in stage.loss_weights.items()}

    def frozen(self, epoch: int) -> Mapping[str, nn.Parameter]:
        """Return the parameters that an epoch's stage keeps as they are."""
        return self._frozen[self.config.stage_of(epoch)] if self.config.stages else {}

    def quiet(self, epoch: int) -> list[nn.Module]:
        """Return the modules that are frozen as a whole: their dropout and averages are off."""
        return self._quiet[self.config.stage_of(epoch)] if self.config.stages else []

    @property
    def changing(self) -> dict[str, nn.Parameter]:
        """Parameters that some stage freezes, by name."""
        return {name: p for frozen in self._frozen for name, p in frozen.items()}


def check_stages(heads: Mapping[str, tuple[str, ...]], config: TrainConfig) -> None:
    """Check the names of stages and heads, for which no model is needed.

    Args:
        heads: Head → stages in which it learns; none = in all.
        config: The training options.

    Raises:
        ConfigurationError: If a name fits no stage or head, or no head learns in a stage.
    """
    known = [stage.name for stage in config.stages]
    for head, named in heads.items():
        for name in named:
            if name not in known:
                raise ConfigurationError(
                    f"model.heads.{head}.stages: there is no stage {name!r} in train.stages "
                    f"({', '.join(known) or 'which is empty'}){did_you_mean(name, known)}"
                )
    for number, stage in enumerate(config.stages):
        for name in stage.loss_weights:
            if name not in heads and name != BACKBONE:
                raise ConfigurationError(
                    f"train.stages.{number}.loss_weights: the model has no head {name!r}"
                    f"{did_you_mean(name, heads)}; it has {', '.join(heads)}"
                )
        for pattern in stage.freeze:
            part, _, rest = pattern.partition(".")
            head = rest.partition(".")[0]
            is_known = part == BACKBONE or (part == "heads" and (not head or head in heads))
            if not is_known and not set("*?[") & set(pattern):
                parts = [BACKBONE, *(f"heads.{name}" for name in heads)]
                raise ConfigurationError(
                    f"train.stages: {stage.name}: freeze: no parameter that is trained is called "
                    f"{pattern!r}{did_you_mean(pattern, parts)}; there are {', '.join(parts)}"
                )
        if not _learning(heads, stage):
            raise ConfigurationError(f"train.stages: no head learns in {stage.name!r}")


def _learning(heads: Mapping[str, tuple[str, ...]], stage: TrainStage) -> set[str]:
    return {
        head
        for head, named in heads.items()
        if stage.name in (named or (stage.name,)) and head not in stage.off
    }


def ramp(factor: float | tuple[float, float], done: float, kind: str) -> float:
    """Return a factor that goes from start to end.

    Args:
        factor: A constant, or start and end.
        done: How much of the way is over, in [0, 1].
        kind: ``linear``, or ``cosine``, which begins and ends gently.
    """
    if not isinstance(factor, tuple):
        return factor
    start, end = factor
    done = min(1.0, max(0.0, done))
    if kind == "cosine":
        done = 0.5 * (1 - math.cos(math.pi * done))
    return (1 - done) * start + done * end


def _fitting(parameters: Mapping[str, nn.Parameter], stage: TrainStage) -> set[str]:
    """Names of the parameters that a stage freezes."""
    found: set[str] = set()
    for pattern in stage.freeze:
        fitting = {
            name
            for name in parameters
            if f"{name}.".startswith(f"{pattern}.") or fnmatchcase(name, pattern)
        }
        if not fitting:
            parts = sorted({".".join(name.split(".")[: _depth(name)]) for name in parameters})
            raise ConfigurationError(
                f"train.stages: {stage.name}: freeze: no parameter that is trained is called "
                f"{pattern!r}{did_you_mean(pattern, parts)}; there are {', '.join(parts)}"
            )
        found |= fitting
    return found


def _depth(name: str) -> int:
    return 2 if name.startswith("heads.") else 1


def _frozen_modules(model: nn.Module, frozen: set[str]) -> list[nn.Module]:
    """Modules all of whose parameters are frozen; not those within another."""
    found: list[nn.Module] = []
    whole: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{above}.") for above in whole):
            continue
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if own and frozen.issuperset(own):
            found.append(module)
            whole.append(path)
    return found
