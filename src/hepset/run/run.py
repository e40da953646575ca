"""`Run`: the stages of one configuration in one directory."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hepset.convert import write_dataset
from hepset.convert.plan import Plan, digests_of_named_files, make_plan, open_sources
from hepset.dataset import Dataset, open_dataset
from hepset.errors import ConfigurationError, DatasetError
from hepset.events.derive import restored_event
from hepset.files import atomic_file, digest_file
from hepset.model.load import run_checkpoint
from hepset.numbers import with_error
from hepset.run.config import Resolved, dump_config, engine_of, load_config, open_readers
from hepset.run.ranks import process_rank, wait_until
from hepset.run.stages import StageRecords
from hepset.schema.config import STAGES, Stage
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

    from hepset.convert.convert import ProgressCallback
    from hepset.interfaces import Engine, Reader
    from hepset.model import Model
    from hepset.stream import SourceStream

_LOG = logging.getLogger(__name__)


class Run:
    """A run configuration with its directory; each stage is done when it is not up to date.

    Example:
        >>> run = Run.from_yaml("config.yaml")  # doctest: +SKIP
        >>> run.prepare()  # doctest: +SKIP
        >>> run.train()  # doctest: +SKIP
    """

    def __init__(self, resolved: Resolved) -> None:
        """Keep the configuration; nothing is read or written yet."""
        self.resolved = resolved
        self.config = resolved.config
        self.output = Path(resolved.config.output)
        self._readers: list[Reader] | None = None
        self._event: EventInfo | None = None
        self._contract: Contract | None = None

    @classmethod
    def from_yaml(
        cls, config: str | os.PathLike[str] | Mapping[str, Any], *, overrides: Sequence[str] = ()
    ) -> Self:
        """Load a run file (or its content), with ``key=value`` overrides.

        Raises:
            ConfigurationError: Naming every key that does not fit.
        """
        return cls(load_config(config, overrides))

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Open the run of a directory that a run has written.

        Raises:
            ConfigurationError: If the directory holds no ``config.yaml``.
        """
        path = Path(directory) / "config.yaml"
        if not path.is_file():
            raise ConfigurationError(f"{directory}: not a run: it has no config.yaml")
        run = cls(load_config(path))
        run.output = Path(directory)
        return run

    @property
    def event(self) -> EventInfo:
        """What an event is: from the configuration, the reader or the dataset.

        Raises:
            ConfigurationError: If none of them says it.
        """
        if self._event is None:
            if self.config.dataset is not None:
                self._event = open_dataset(self.config.dataset).event
            elif self.config.read:
                self._event = self._described_by_reader()
            else:
                raise ConfigurationError(
                    f"{self.resolved.where}: give 'read' (files to read) or 'dataset' (one that "
                    "exists)"
                )
        return self._event

    @property
    def contract(self) -> Contract:
        """What the arrays have to obey: that of the event and of the heads, sizes still open."""
        if self._contract is None:
            self._contract = compile_contract(self.event, self.config.model.heads)
        return self._contract

    def plan(self, *, digests: bool = True) -> Plan:
        """Plan the conversion: list the sources, digest the files, cut the work.

        Args:
            digests: Whether files are digested, for the record.

        Raises:
            ConfigurationError: If two sources have one key, or file groups do not fit the splits.
            ReadError: If a file cannot be opened (and is not to be skipped).
        """
        return make_plan(
            self.readers,
            event=self.event,
            contract=self.contract,
            config=self.config.prepare,
            seed=self.config.seed,
            digests=digests,
        )

    def _described_by_reader(self) -> EventInfo:
        """Let the first reader describe or refine the event: it has seen the files."""
        found = self._usable(self.readers[0]).event_info()
        if self.resolved.event is None:
            return found
        return restored_event(found, self.resolved.event, self.config.prepare.derive)

    def _usable(self, reader: Reader) -> Reader:
        """Return the reader without the files that cannot be opened, where they may be skipped."""
        skip = self.config.prepare.on_error == "skip"
        return open_sources(reader, skip=skip)[0] if skip else reader

    @property
    def readers(self) -> list[Reader]:
        """The readers of the configuration."""
        if self._readers is None:
            self._readers = open_readers(self.resolved)
        return self._readers

    @property
    def dataset_path(self) -> Path:
        """Directory of the dataset."""
        return Path(self.config.dataset) if self.config.dataset else self.output / "dataset"

    @property
    def dataset(self) -> Dataset:
        """The dataset.

        Raises:
            DatasetError: If it has not been prepared.
        """
        return open_dataset(self.dataset_path)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.output / "checkpoints" / "best.ckpt"

    @property
    def model(self) -> Model:
        """The trained model.

        Raises:
            ConfigurationError: If it has not been trained.
        """
        from hepset.model import load_checkpoint  # noqa: PLC0415  imports torch

        return load_checkpoint(self.checkpoint)

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; empty before evaluation."""
        path = self.output / "metrics.json"
        if not path.is_file():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def run(
        self,
        first: Stage | None = None,
        last: Stage | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Do the stages up to `last`, those from `first` on in any case.

        Raises:
            ConfigurationError: If `first` comes after `last`.
        """
        stop = STAGES.index(last) if last else len(STAGES) - 1
        start = STAGES.index(first) if first else None
        if start is not None and start > stop:
            raise ConfigurationError(f"--from {first} comes after --to {last}")
        if stop and self.config.model.heads:
            self.need_training_split()
            self.need_start()
        for index, stage in enumerate(STAGES[: stop + 1]):
            force = start is not None and index >= start
            if process_rank() and stage in {"evaluate", "export"}:
                return
            if stage == "prepare":
                self.prepare(force=force, progress=progress)
            elif not self.config.model.heads:
                _LOG.info("%s: nothing to do, the configuration names no head", stage)
            elif stage == "train":
                self._check_later_stages(stop)
                self.train(force=force)
            elif stage == "evaluate":
                self.evaluate(force=force)
            elif self.config.export.onnx:
                self.export(force=force)

    def prepare(self, *, force: bool = False, progress: ProgressCallback | None = None) -> Dataset:
        """Read, check, select, split and write the dataset.

        Raises:
            ContractError: If the data do not obey the contract.
            ReadError: If a file cannot be read.
        """
        if self.config.dataset is not None:
            dataset = open_dataset(self.config.dataset)
            _LOG.info("prepare: %s is used as it is", self.config.dataset)
            if not process_rank():
                self._write_config()
            return dataset
        if not self.config.read:
            raise ConfigurationError(
                f"{self.resolved.where}: give 'read' (files to read) or 'dataset' (one that exists)"
            )
        plan = self.plan()
        inputs = plan.inputs
        outputs = [self.dataset_path / "dataset.json"]
        if process_rank():
            wait_until(lambda: not StageRecords(self.output).why_not("prepare", inputs, outputs))
            return self.dataset
        reason = self._reason("prepare", inputs, outputs, force, self._broken_dataset)
        if reason is None:
            return self.dataset
        self._begin("prepare", reason)
        engine = self._engine()
        try:
            dataset = write_dataset(
                plan,
                self.dataset_path,
                engine=engine,
                provenance=self._provenance(),
                progress=progress,
                force=force,
            )
        finally:
            engine.close()
        self._finish("prepare", inputs)
        return dataset

    def stream(self, split: str = "train", **options: Any) -> SourceStream:  # noqa: ANN401  its own
        """Return batches of tensors straight from the files, without a dataset.

        Args:
            split: Name of the split.
            options: As `hepset.stream.SourceStream` takes them; batch size, seed and, for the
                training split, sampling are those of the configuration where not given.

        Raises:
            ConfigurationError: If an option does not fit.
            ReadError: If a file cannot be opened.
        """
        from hepset.stream import SourceStream  # noqa: PLC0415  imports torch

        plan = self.plan(digests=False)
        given: dict[str, Any] = {
            "batch_size": self.config.train.batch_size,
            "seed": self.config.seed,
            "sampling": self.config.train.sampling if split == "train" else None,
            "keep": self.output / "stream",
            **options,
        }
        return SourceStream(plan, split=split, **given)

    def _broken_dataset(self) -> str | None:
        """Say what is wrong with a dataset that is said to be finished."""
        try:
            open_dataset(self.dataset_path)
        except DatasetError as problem:
            return str(problem)
        return None

    def _provenance(self) -> dict[str, object]:
        """Say how the files were read, so that a model alone knows how to read others.

        Where they were is left out: copies of the same files give the same bytes.
        """
        apart = {"files", "chunk_size"}
        return {
            "name": self.config.name,
            "read": [{k: v for k, v in r.items() if k not in apart} for r in self.config.read],
            "readers": [self._usable(reader).provenance() for reader in self.readers],
        }

    def train(self, *, force: bool = False) -> Path:
        """Train the model; continue where an interrupted training stopped.

        Returns:
            The best checkpoint.

        Raises:
            ConfigurationError: If the configuration names no head.
            TrainingError: If the loss becomes non-finite.
        """
        from hepset.training.fit import fit  # noqa: PLC0415  imports torch
        from hepset.training.warm_start import digest_of_start  # noqa: PLC0415

        self._need_heads("train")
        dataset = self.dataset
        inputs = {
            "dataset": dataset.digest,
            "model": self.config.model.model_dump(mode="json"),
            "train": self.config.train.influences(),
            "seed": self.config.seed,
        }
        inputs |= digests_of_named_files(inputs["train"])
        if self.config.train.start_from is not None:
            inputs["start"] = digest_of_start(self.config.train.start_from)
        reason = self._reason("train", inputs, [self.checkpoint], force)
        if reason is None:
            return self.checkpoint
        self._begin("train", reason)
        fit(
            self.config.model,
            dataset,
            self.config.train,
            execution=self.config.execution.train,
            seed=self.config.seed,
            directory=self.output,
            restart=force,
        )
        self._finish("train", inputs)
        return self.checkpoint

    def evaluate(self, *, force: bool = False) -> dict[str, Any]:
        """Predict a split, evaluate it, write ``metrics.json`` and ``report.html``.

        Returns:
            The content of ``metrics.json``.

        Raises:
            ConfigurationError: If the run has not been trained.
        """
        from hepset.evaluate import evaluate_run  # noqa: PLC0415  imports torch

        self._need_heads("evaluate")
        inputs = {
            "checkpoint": digest_file(run_checkpoint(self.output)),
            "dataset": self.dataset.digest,
            "evaluate": self.config.evaluate.model_dump(mode="json", exclude={"max_objects"}),
        }
        inputs |= digests_of_named_files(inputs["evaluate"])
        outputs = [self.output / "metrics.json", self.output / "report.html"]
        reason = self._reason("evaluate", inputs, outputs, force)
        if reason is None:
            return self.metrics
        self._begin("evaluate", reason)
        evaluate_run(
            self.checkpoint,
            self.dataset,
            self.config.evaluate,
            directory=self.output,
            name=self.config.name,
            seed=self.config.seed,
        )
        self._finish("evaluate", inputs)
        return self.metrics

    def export(self, target: str | os.PathLike[str] | None = None, *, force: bool = False) -> Path:
        """Write the trained model as one ONNX graph and compare it with torch.

        Args:
            target: Where to; ``model.onnx`` in the run's directory where None.
            force: Export also where the file is up to date.

        Raises:
            ExportError: If the graph disagrees with torch.
            ConfigurationError: If the run has not been trained.
        """
        from hepset.export import export_onnx  # noqa: PLC0415  imports torch
        from hepset.model import load_checkpoint  # noqa: PLC0415

        self._need_heads("export")
        path = Path(target) if target is not None else self.output / "model.onnx"
        inputs = {
            "checkpoint": digest_file(run_checkpoint(self.output)),
            "export": self.config.export.model_dump(mode="json"),
        }
        if target is None:
            reason = self._reason("export", inputs, [path], force)
            if reason is None:
                return path
            self._begin("export", reason)
        export_onnx(
            load_checkpoint(self.checkpoint),
            path,
            layout=self.config.export.layout,
            opset=self.config.export.opset,
        )
        if target is None:
            self._finish("export", inputs)
        return path

    def show(self, console: Console) -> None:
        """Print where the results are and the numbers worth seeing."""
        from hepset.run.summary import print_summary  # noqa: PLC0415

        print_summary(console, self.config.name, self.output, self.dataset_path, self.metrics)

    def _repr_html_(self) -> str:
        """Return the state of the stages and the metrics for a notebook."""
        rows = [
            ("output", str(self.output)),
            ("heads", ", ".join(self.config.model.heads) or "none"),
            ("report", "report.html" if (self.output / "report.html").is_file() else "–"),
        ]
        for head, found in self.metrics.get("heads", {}).items():
            for metric in found["metrics"]:
                value = with_error(
                    metric["value"],
                    metric["error"],
                    metric["unit"],
                    bound=metric.get("bound", False),
                )
                rows.append((f"{head}: {metric['name']}", value))
        return Table(f"run {self.config.name}", ("", ""), tuple(rows)).to_html()

    def _engine(self) -> Engine:
        cls, config = engine_of(self.config)
        return cls(config)

    def need_training_split(self) -> None:
        """Refuse a configuration whose dataset will have nothing to train on.

        Raises:
            ConfigurationError: If `prepare.split` makes no split ``train``.
        """
        split = self.config.prepare.split
        if self.config.read and (split.folds is not None or not split.train):
            made = ", ".join(n for n in split.names if getattr(split, n, True))
            raise ConfigurationError(
                f"{self.resolved.where}: prepare.split: the heads need a split 'train', this makes "
                f"{made or 'none'}; give train, val and test, or leave the heads out and convert"
            )

    def need_start(self) -> None:
        """Refuse to begin with weights that are not there, before anything is read.

        Raises:
            ConfigurationError: If ``train.start_from`` names no checkpoint.
        """
        if self.config.train.start_from is not None:
            from hepset.training.warm_start import digest_of_start  # noqa: PLC0415  imports torch

            digest_of_start(self.config.train.start_from)

    def _check_later_stages(self, stop: int) -> None:
        """Refuse what evaluation and export cannot make, before hours of training."""
        from hepset.evaluate.columns import kept_in_dataset  # noqa: PLC0415  imports numpy
        from hepset.evaluate.evaluate import (  # noqa: PLC0415  imports torch
            choose_split,
            open_variations,
            require_drawings,
        )
        from hepset.export.onnx import parse_layout  # noqa: PLC0415  imports much

        asked, dataset = self.config.evaluate, self.dataset
        open_variations(dataset, asked)
        kept = kept_in_dataset(dataset.layouts)
        require_drawings(asked, dataset.event, self.config.model.heads, kept)
        if stop >= STAGES.index("evaluate"):
            choose_split(dataset, asked.split)
        if self.config.export.onnx:
            parse_layout(self.config.export.layout)

    def _need_heads(self, stage: str) -> None:
        if not self.config.model.heads:
            raise ConfigurationError(
                f"{self.resolved.where}: {stage} needs at least one head under model.heads"
            )

    def _reason(
        self,
        stage: Stage,
        inputs: Mapping[str, Any],
        outputs: Sequence[Path],
        force: bool,
        broken: Callable[[], str | None] = lambda: None,
    ) -> str | None:
        """Return why a stage is to be done; log that it is skipped where it is not.

        Args:
            stage: Which one.
            inputs: Everything its result depends on.
            outputs: Files that have to exist.
            force: Whether it is done in any case.
            broken: Says what is wrong with outputs that exist.
        """
        if force:
            return "asked for"
        reason = StageRecords(self.output).why_not(stage, inputs, outputs) or broken()
        if reason is None:
            _LOG.info("%s: up to date, skipped", stage)
        return reason

    def _begin(self, stage: Stage, reason: str) -> None:
        if process_rank():
            return
        self.output.mkdir(parents=True, exist_ok=True)
        self._write_config()
        StageRecords(self.output).started(stage)
        _LOG.info("%s: %s", stage, reason)

    def _finish(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        if process_rank():
            return
        StageRecords(self.output).finished(stage, inputs)

    def _write_config(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.output / "config.yaml", durable=False) as file:
            file.write(dump_config(self.config).encode())
