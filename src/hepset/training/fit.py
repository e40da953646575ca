"""`fit`: train a model on a data set, and continue where an interrupted training stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError
from hepset.model import build_model
from hepset.plugins import registry
from hepset.sampling.split import SplitSampler
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training.calibration import calibrate_checkpoint
from hepset.training.checkpoints import BEST, LAST, Checkpoints, StopEarly, stored_key
from hepset.training.history import History
from hepset.training.malloc import keep_freed_memory
from hepset.training.module import TrainingModule
from hepset.training.preflight import check_dataset
from hepset.training.warm_start import digest_of_start, start_from

__all__ = ["fit"]

_LOG = logging.getLogger(__name__)


def fit(
    model_config: ModelConfig,
    dataset: Dataset,
    config: TrainConfig,
    *,
    execution: TrainExecution | None = None,
    seed: int,
    directory: Path,
    restart: bool = False,
) -> Path:
    """Train a model.

    Writes ``checkpoints/best.ckpt`` and ``last.ckpt``, ``logs/metrics.csv`` and ``history.json``
    (one row per epoch, `hepset.training.history`), and TensorBoard's files in ``logs``. Where
    ``last.ckpt`` was made with the same model, data, options and seed, the training continues
    there, and ends with the same weights as one that was never interrupted. From then on the
    process keeps memory that it frees (`hepset.training.malloc`).

    Args:
        model_config: Backbone and heads.
        dataset: Splits ``train`` and, for the choice of the best, ``val``.
        config: The training options.
        execution: Devices and threads.
        seed: Seed of weights, order, dropout and augmentation.
        directory: The run's directory.
        restart: Train from scratch in any case.

    Returns:
        The checkpoint with the lowest validation loss (training loss where no event is in
        ``val``).

    Raises:
        ConfigurationError: If an option does not fit.
        TrainingError: If there is nothing to train, or a loss is not finite.
    """
    execution = execution or TrainExecution()
    check_dataset(model_config, dataset)
    checkpoints, logs = directory / "checkpoints", directory / "logs"
    key = training_key(model_config, dataset, config, seed)
    resume = _resume_from(checkpoints / LAST, key, restart=restart)
    if resume is None and getattr(rank_zero_only, "rank", 0) == 0:
        _remove_old(checkpoints, logs)
    checkpoints.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    sampler = None
    if config.sampling is not None:
        sampler = SplitSampler(dataset.split("train"), config.sampling, seed)
    with torch.random.fork_rng(), _threads(execution.threads), _quiet_lightning():
        torch.manual_seed(seed)
        model = build_model(
            model_config,
            dataset.event,
            dataset.contract,
            dataset.statistics,
            provenance={
                "dataset": dataset.digest,
                "prepare": dataset.manifest.prepare,
                "class_names": {k: list(v) for k, v in dataset.manifest.class_names.items()},
                "prior": _prior(dataset, sampler),
                "sources": {part.key: part.digest for part in dataset.manifest.sources},
                "data": dataset.manifest.provenance,
                "seed": seed,
                "train": config.model_dump(mode="json"),
            },
        )
        if config.start_from is not None and resume is None:
            start_from(model, config.start_from)
        module = TrainingModule(
            model, dataset, config, seed=seed, directory=logs, key=key, sampler=sampler
        )
        trainer = create_trainer(module, execution, directory)
        _announce(module, resume)
        try:
            trainer.fit(module, ckpt_path=resume, weights_only=True)
        finally:
            module.close()
        if trainer.is_global_zero:
            calibrate_checkpoint(checkpoints / BEST, dataset)
    return checkpoints / BEST


def training_key(
    model_config: ModelConfig, dataset: Dataset, config: TrainConfig, seed: int
) -> str:
    """Return the digest of everything that the trained weights depend on."""
    document: dict[str, Any] = {
        "model": model_config.model_dump(mode="json"),
        "dataset": dataset.digest,
        "train": config.influences(),
        "seed": seed,
    }
    if config.start_from is not None:
        document["start"] = digest_of_start(config.start_from)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def create_trainer(
    module: TrainingModule, execution: TrainExecution, directory: Path, *callbacks: Callback
) -> Trainer:
    """Build Lightning's trainer for a module.

    Raises:
        ConfigurationError: If the precision does not fit the accelerator.
    """
    config = module.config
    chosen: list[Callback] = [
        Checkpoints(directory / "checkpoints"),
        *(
            registry().create("callbacks", options, f"train.callbacks.{number}")
            for number, options in enumerate(config.callbacks)
        ),
        *callbacks,
    ]
    if config.early_stopping is not None:
        chosen.append(
            StopEarly(
                module.monitored,
                mode="min",
                patience=config.early_stopping.patience,
                min_delta=config.early_stopping.min_delta,
                check_on_train_epoch_end=True,
            )
        )
    if config.progress and sys.stdout.isatty():
        chosen.append(RichProgressBar(leave=True))
    shows = any(isinstance(callback, RichProgressBar) for callback in chosen)
    return Trainer(
        accelerator=execution.accelerator,
        devices=execution.devices,
        num_nodes=execution.nodes,
        strategy=execution.strategy,
        precision=cast(Any, _precision(config, execution)),
        max_epochs=config.total_epochs,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=chosen,
        logger=TensorBoardLogger(directory, name="logs", version="", default_hp_metric=False),
        log_every_n_steps=1,
        limit_val_batches=None if module.batches.validates else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=shows,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=directory,
    )


def _precision(config: TrainConfig, execution: TrainExecution) -> str:
    uses_gpu = execution.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    if config.precision == "auto":
        return "bf16-mixed" if uses_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if config.precision == "16" and not uses_gpu:
        raise ConfigurationError(
            "train.precision: 16 needs a GPU; use auto, which takes what the machine has"
        )
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[config.precision]


def _resume_from(path: Path, key: str, *, restart: bool) -> Path | None:
    if not path.is_file():
        return None
    if restart:
        _LOG.info("restarting from scratch (--restart); %s is removed", path)
        return None
    if stored_key(path) != key:
        _LOG.info(
            "starting from scratch: %s has another model, data set, configuration or seed",
            path,
        )
        return None
    return path


def _remove_old(checkpoints: Path, logs: Path) -> None:
    for path in (
        *checkpoints.glob(".*.tmp"),
        checkpoints / BEST,
        checkpoints / LAST,
        logs / History.CSV,
        logs / History.JSON,
    ):
        path.unlink(missing_ok=True)
    for path in logs.glob("events.out.tfevents.*"):
        path.unlink(missing_ok=True)
    if not any(checkpoints.glob("*")):
        shutil.rmtree(checkpoints, ignore_errors=True)


def _announce(module: TrainingModule, resume: Path | None) -> None:
    trainable = [p for p in module.model.parameters() if p.requires_grad]
    config, sampler = module.config, module.batches.sampler
    events = len(module.dataset.split("train")) if sampler is None else sampler.events
    size = config.batch_size
    _LOG.info(
        "training %d parameters on %d events, %d for validation; %d epochs of %d batches of %d%s%s",
        sum(p.numel() for p in trainable),
        events,
        len(module.dataset.split("val")) if module.batches.validates else 0,
        config.total_epochs,
        max(1, events // size),
        min(size, events),
        f", dropping {events % size} events per epoch (different ones each time)"
        if events > size and events % size
        else "",
        f"; continues {resume}" if resume is not None else "",
    )


def _prior(dataset: Dataset, sampler: SplitSampler | None) -> dict[str, list[float]]:
    """Share of each class among the events that are shown, by target tensor."""
    prior = {name: list(shares) for name, shares in dataset.manifest.prior.items()}
    if sampler is None:
        return prior
    # A target of every object of a stream has no share that follows from the events' alone.
    own = [name for name in prior if dataset.layouts[name].shape == ()]
    labels = dataset.split("train").read(own)
    return prior | {n: sampler.fractions(labels[n], len(prior[n])).tolist() for n in own}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Leave the announcements of devices and tips out of the log; warnings stay.

    One does not: torch deprecates a check that Lightning 2.6 makes at every batch.
    """
    loggers = [
        logging.getLogger(name)
        for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero",
                     "lightning.fabric.utilities.seed")
    ]  # fmt: skip
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
