"""`RunConfig`: the one file that names the parts of a run and sets their options.

Options of a component stand flat beside its ``name``; the component's own model checks them when
the plugin that provides it has been found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hepset.schema.base import IDENTIFIER, Model, accept_null
from hepset.schema.sampling import SamplingConfig

Stage = Literal["prepare", "train", "evaluate", "export"]
STAGES: tuple[Stage, ...] = ("prepare", "train", "evaluate", "export")


class EventConfig(Model):
    """Where the event description comes from."""

    file: str | None = None
    """Path of an event file of any dialect."""
    inline: dict[str, Any] | None = None
    """The description itself, where it stands in the run file."""
    dialect: str | None = None
    """Short name of the dialect; recognised by content where null."""
    parity: bool = False
    """Keep the choices of the dialect's own system where hepset's defaults differ."""


class GroupSplit(Model):
    """A split given by file groups."""

    groups: tuple[str, ...]
    """Names of file groups."""

    @field_validator("groups", mode="before", json_schema_input_type=list[str | int])
    @classmethod
    def _numbers_are_names(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple(str(name) if isinstance(name, int) else name for name in value)


DEFAULT_FRACTIONS: Final = (0.8, 0.1, 0.1)
"""Shares of train, val and test where nothing else is said."""


class SplitConfig(Model):
    """How events are divided into training, validation and test.

    By hash of their id, by the groups of their files, or by an expression for each split, such as
    ``extra.event % 10 <= 7``.
    """

    train: float | GroupSplit | str = Field(default=DEFAULT_FRACTIONS[0])
    """Fraction, file groups, or expression of the training split."""
    val: float | GroupSplit | str = Field(default=DEFAULT_FRACTIONS[1])
    """The same of the validation split."""
    test: float | GroupSplit | str = Field(default=DEFAULT_FRACTIONS[2])
    """The same of the test split."""
    folds: int | None = Field(default=None, ge=2)
    """Number of equal folds ``fold0``, ``fold1``, … instead of the three splits."""
    key: Literal["auto", "entry", "event", "official"] = "auto"
    """What decides: ``event`` the hash of run and event number, ``entry`` that of source and entry,
    ``official`` the file, where the data set comes in splits (JetClass). ``auto`` is ``official``
    where all files are in two official splits or more and the fractions are the default ones, else
    ``event`` where the files have the numbers, else ``entry``."""

    @field_validator("train", "val", "test", mode="before")
    @classmethod
    def _numbers_in_quotes(cls, value: object) -> object:
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    @model_validator(mode="before")
    @classmethod
    def _groups_leave_out_the_rest(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        parts = [value.get(name) for name in ("train", "val", "test")]
        if any(isinstance(part, Mapping | GroupSplit) or _is_expression(part) for part in parts):
            return {"train": 0.0, "val": 0.0, "test": 0.0, **value}
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> SplitConfig:
        fractions = [part for part in (self.train, self.val, self.test) if isinstance(part, float)]
        if any(part < 0 for part in fractions):
            raise ValueError("a fraction is not negative")
        if len(fractions) == 3 and abs(sum(fractions) - 1) > 1e-9:
            parts = ", ".join(
                f"{name} {part:g}"
                + ("" if name in self.model_fields_set else " (the default, not given)")
                for name, part in zip(("train", "val", "test"), fractions, strict=True)
            )
            raise ValueError(
                f"{parts} add up to {sum(fractions):g}, expected 1; an absent split is 0.0"
            )
        if 0 < len(fractions) < 3 and any(fractions):
            raise ValueError(
                "give fractions, groups or expressions for all of train, val and test, not a mix; "
                "an absent split is 0.0"
            )
        if self.expressions and any(
            isinstance(part, GroupSplit) for part in (self.train, self.val, self.test)
        ):
            raise ValueError("give groups or expressions for all splits, not a mix")
        return self

    @property
    def expressions(self) -> dict[str, str]:
        """Split → the expression of its events; empty where something else decides."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if isinstance(part, str)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits."""
        if self.folds is not None:
            return tuple(f"fold{i}" for i in range(self.folds))
        return ("train", "val", "test")


def _is_expression(part: object) -> bool:
    """Whether a part of a split is a string that is no number."""
    if not isinstance(part, str):
        return False
    try:
        float(part)
    except ValueError:
        return True
    return False


class PrepareConfig(Model):
    """Selection, derived features, splits, shards."""

    select: dict[str, str] = Field(default_factory=dict)
    """Cut name → expression; an event passes when all are true. One expression is named ``cut``."""
    predict_select: dict[str, str] | None = None
    """Cuts of `hepset predict`, in the place of `select`; null = the same."""
    derive: dict[str, str] = Field(default_factory=dict)
    """``<stream or global>.<feature>`` → expression, computed on real objects before padding."""
    affine_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each source, from its beginning, whose training events ``affine: auto`` sees."""
    split: SplitConfig = SplitConfig()
    """How events are divided."""
    shard_size: PositiveInt = 65_536
    """Events per shard, bounded by 128 MB decoded."""
    codec: Literal["lz4", "zstd", "none"] = "lz4"
    """Compression of the shards: lz4 for training, zstd for slow storage."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a file that cannot be read does; skipped files are counted and named."""
    check: Literal["strict", "report"] = "strict"
    """Whether a violated contract stops the conversion or is only reported."""

    @field_validator("select", mode="before", json_schema_input_type=str | dict[str, str] | None)
    @classmethod
    def _one_or_named(cls, value: object) -> object:
        if value is None:
            return {}
        return {"cut": value} if isinstance(value, str) else value

    @field_validator(
        "predict_select", mode="before", json_schema_input_type=str | dict[str, str] | None
    )
    @classmethod
    def _one_alone(cls, value: object) -> object:
        return {"cut": value} if isinstance(value, str) else value


class ModelConfig(Model):
    """Backbone and heads by name, with their options."""

    backbone: dict[str, Any] = Field(default_factory=lambda: {"name": "transformer"})
    """``{name: transformer, width: 64, …}``."""
    heads: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Head name → ``{name: classification, target: signal}``."""

    @field_validator("backbone", mode="before", json_schema_input_type=str | dict[str, Any])
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("heads", mode="before", json_schema_input_type=dict[str, str | dict[str, Any]])
    @classmethod
    def _names_alone(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {k: {"name": v} if isinstance(v, str) else v for k, v in value.items()}

    @field_validator("heads")
    @classmethod
    def _identifiers(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            if not IDENTIFIER.match(name):
                raise ValueError(f"{name!r}: the name of a head is made of letters, digits and '_'")
        return value


class AugmentConfig(Model):
    """Symmetries of the detector that turn inputs and vector targets together."""

    rotate_phi: bool = False
    """Rotate each event by a random angle around the beam."""
    flip_eta: bool = False
    """Reflect each event along the beam with probability one half."""


class TrainStage(Model):
    """A part of the training with its own losses, learning rates and frozen parameters."""

    name: str
    """What heads call it in their ``stages``."""
    epochs: PositiveInt
    """Passes over the training split."""
    loss_weights: dict[str, NonNegativeFloat | tuple[NonNegativeFloat, NonNegativeFloat]] = Field(
        default_factory=dict
    )
    """Head, or ``backbone`` for losses of its own → factor of its losses beside its
    ``loss_weight``: a number, or ``[start, end]`` over the stage. A head with 0 throughout is not
    computed."""
    ramp: Literal["linear", "cosine"] = "linear"
    """How factors go from start to end."""
    freeze: tuple[str, ...] = ()
    """What stays as it is in this stage: ``backbone``, ``heads.<name>``, another start of the name
    of parameters, or a pattern such as ``backbone.*norm*``."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate in this stage; null = ``train.learning_rate``."""
    learning_rate_factors: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """As ``train.learning_rate_factors``, and instead of those that name the same."""

    @property
    def off(self) -> frozenset[str]:
        """Heads whose losses count nothing throughout."""
        return frozenset(
            name for name, factor in self.loss_weights.items() if factor in {0, (0, 0)}
        )


class StepSchedule(Model):
    """A learning rate that falls in equal steps."""

    epochs: PositiveFloat = 10.0
    """Epochs from one step to the next; may be a fraction."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """Learning rate after a step, as a fraction of the one before."""


class StartFrom(Model):
    """Weights that a training begins with."""

    path: str
    """A run directory or a checkpoint, whose backbone has the same options and inputs."""
    heads: tuple[str, ...] = ()
    """Heads whose weights are taken over too; all others start from scratch."""
    freeze: bool = False
    """Whether the backbone stays as it is: its weights, its dropout off, its running averages."""


class EarlyStopping(Model):
    """Stop when the validation loss no longer falls."""

    patience: PositiveInt = 10
    """Epochs without improvement."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change that counts as improvement."""


_NO_INFLUENCE = {"progress", "loader_threads", "compile"}
"""Options that change nothing a continued training depends on; the cache shuffles otherwise."""


class TrainConfig(Model):
    """The training loop."""

    epochs: PositiveInt = 20
    """Passes over the training split; with `stages` their sum counts instead."""
    stages: tuple[TrainStage, ...] = ()
    """Parts of the training, one after the other; a head without ``stages`` learns in all."""
    loss_combination: str | dict[str, Any] = "fixed"
    """How the losses of the heads become one: short name, or ``{name: …, <options>}``."""
    callbacks: tuple[dict[str, Any], ...] = ()
    """Additions to the training loop, ``{name: …, <options>}`` each, such as an average of the
    weights: ``[{name: ema}]``."""
    batch_size: PositiveInt = 512
    """Events per batch and device."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    optimizer: str | dict[str, Any] = "adamw"
    """Short name, or ``{name: …, <options>}``."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay, on matrices only: not on biases, norms and embeddings."""
    scale_learning_rate: Literal["none", "linear", "sqrt"] = "none"
    """Whether the peak grows with the number of devices, or with its square root."""
    learning_rate_factors: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Part of the model → factor of its learning rate: ``backbone``, ``heads.<name>``, or any
    start of the name of parameters; the longest that fits counts."""
    schedule: Literal["cosine", "linear", "constant", "flat_decay", "step"] = "cosine"
    """After the warm-up: cosine to zero, a line to zero, constant, constant for 70 % of the epochs
    and then down to 1 % by an equal factor at each of the others, or down in `steps`."""
    steps: StepSchedule = StepSchedule()
    """Length and height of the steps of the schedule ``step``."""
    cycles: PositiveInt = 1
    """Number of cosines, each from the peak to zero."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Length of the linear warm-up, in epochs; may be a fraction."""
    gradient_clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 = no clipping."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """Arithmetic of the forward pass; ``auto`` is bf16 on a GPU that has it, else 32."""
    early_stopping: EarlyStopping | None = None
    """Stop early; null trains all epochs."""
    start_from: StartFrom | None = None
    """Begin with the backbone of another training: a path, or ``{path: …, heads: […], freeze:
    true}``; null = start from scratch."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training batches."""
    sampling: SamplingConfig | None = None
    """How often each training event is shown; null = once per epoch."""
    negative_weights: Literal["keep", "abs", "drop", "error"] = "keep"
    """What negative event weights do to the loss; ``keep`` warns above 5 %."""
    batch_by_length: bool = False
    """Whether events of similar length stand in one batch, which has no more slots than its longest
    event needs."""
    max_objects: PositiveInt | None = None
    """Most objects of a batch, padding included, for streams of very different length: batches have
    events of similar length, at most `batch_size`. It implies ``cache: mmap``; null = no limit."""
    cache: Literal["none", "mmap"] = "none"
    """``mmap`` expands the shards once to memory-mapped arrays."""
    loader_threads: int = Field(default=1, ge=0)
    """Threads that decode shards; the order of the events does not depend on it."""
    compile: bool = False
    """Whether to use ``torch.compile``: worth it on a GPU, not on a CPU."""
    progress: bool = True
    """Whether to show a progress bar with the time left."""

    @field_validator(
        "precision",
        mode="before",
        json_schema_input_type=Literal["auto", "32", "bf16", "16", 32, 16],
    )
    @classmethod
    def _number_of_bits(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @field_validator("start_from", mode="before", json_schema_input_type=str | StartFrom | None)
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_name_each(self) -> TrainConfig:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages {names}: a name is given twice")
        return self

    def influences(self) -> dict[str, Any]:
        """Return what trained weights depend on, as JSON-ready data.

        Options that came later are left out where they are not used, so that trainings which were
        made before them are still up to date.
        """
        document = self.model_dump(mode="json", exclude=_NO_INFLUENCE)
        unused = {
            "loss_combination": "fixed",
            "callbacks": [],
            "batch_by_length": False,
            "max_objects": None,
        }
        if self.schedule != "step":
            unused["steps"] = document["steps"]
        plain = TrainStage(name="", epochs=1).model_dump(mode="json")
        document["stages"] = [
            {k: v for k, v in stage.items() if k in {"name", "epochs"} or v != plain[k]}
            for stage in document["stages"]
        ]
        return {
            key: value
            for key, value in document.items()
            if key not in unused or value != unused[key]
        }

    @property
    def total_epochs(self) -> int:
        """Passes over the training split in all stages together."""
        return sum(stage.epochs for stage in self.stages) or self.epochs

    def stage_of(self, epoch: int) -> int:
        """Return the index of the stage that an epoch belongs to, 0 without stages."""
        last = 0
        for index, stage in enumerate(self.stages):
            last += stage.epochs
            if epoch < last:
                return index
        return max(len(self.stages) - 1, 0)


class ConvertExecution(Model):
    """Where the conversion runs; options of the engine stand beside its name."""

    model_config = ConfigDict(extra="allow")

    engine: str = "local"
    """Short name of the engine."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Number of worker processes; ``auto`` = number of cores."""


class TrainExecution(Model):
    """Where the training runs: handed to Lightning."""

    accelerator: str = "auto"
    """``cpu``, ``gpu``, …"""
    devices: PositiveInt | Literal["auto"] = "auto"
    """Number of devices per node."""
    nodes: PositiveInt = 1
    """Number of nodes."""
    strategy: str = "auto"
    """``ddp``, ``fsdp``, …"""
    threads: PositiveInt | None = None
    """Threads of torch on the CPU; null leaves torch's choice."""


class ExecutionConfig(Model):
    """Where things run."""

    convert: ConvertExecution = ConvertExecution()
    """The conversion."""
    train: TrainExecution = TrainExecution()
    """The training."""


class SculptingConfig(Model):
    """What a cut on a score makes of a column in the background."""

    score: str
    """``<head>/<score>``, as predictions are called, or ``<head>/<class>`` for the probability of
    a class against the rest."""
    against: str
    """Column that is looked at: ``<global>.<feature>``, ``extra.<name>``, or ``<stream>.<feature>``
    where objects are judged."""
    mistag: float = Field(default=0.01, gt=0, lt=1)
    """Share of the background that passes the cut."""


class DisplayConfig(Model):
    """Events that are drawn object by object, one panel for each."""

    stream: str
    """Stream whose objects are drawn."""
    x: str | None = None
    """Feature of the horizontal place; null = η of the four-momentum."""
    y: str | None = None
    """Feature of the vertical place; null = φ of the four-momentum in rad."""
    size: str | None = None
    """Feature that the area of a marker grows with; null = pT, if there is a four-momentum."""
    kinds: dict[str, str] = Field(default_factory=dict)
    """What a kind of object is called → feature that is 1 for it: they differ by colour and
    marker."""
    values: tuple[str, ...] = ()
    """Columns of the event whose values stand in its panel, such as ``extra.jet_pt``."""
    per_class: int = Field(default=1, ge=1, le=12)
    """Events of each class."""


class EvaluateConfig(Model):
    """Predictions and report."""

    split: str = "test"
    """Split to evaluate; ``val`` instead where no event fell into it."""
    batch_size: PositiveInt = 1024
    """Events per batch."""
    max_objects: PositiveInt | None = None
    """Most objects of a batch, padding included, which bounds the memory of long streams; null = no
    limit."""
    max_events: PositiveInt | None = None
    """Judge at most so many events; null = all."""
    variations: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Name → input feature → expression of the unchanged inputs: the events are predicted and
    judged again with each. ``{jes_up: {jets.pt: "1.02 * jets.pt"}}`` is one."""
    sculpting: tuple[SculptingConfig, ...] = ()
    """Scores that are asked whether a cut on them gives background the shape of signal; one
    mapping or a list."""
    displays: tuple[DisplayConfig, ...] = ()
    """Streams of which some events are drawn; one mapping or a list."""

    @field_validator(
        "sculpting", mode="before", json_schema_input_type=SculptingConfig | list[SculptingConfig]
    )
    @classmethod
    def _one_or_many_scores(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping) else value

    @field_validator(
        "displays", mode="before", json_schema_input_type=DisplayConfig | list[DisplayConfig]
    )
    @classmethod
    def _one_or_many_streams(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping) else value


class ExportConfig(Model):
    """Exported models."""

    onnx: bool = True
    """Whether to write ``model.onnx``."""
    layout: str | dict[str, Any] = "hepset"
    """Names and axes of the graph's inputs and outputs: a layout, or ``{name: …, <options>}``."""
    opset: int = Field(default=18, ge=18)
    """ONNX operator set."""


class RunConfig(Model):
    """A run: what to read, how to prepare, what to learn, where to put it."""

    name: str = "run"
    """Name of the run in logs and figures."""
    seed: int = Field(default=0, ge=0)
    """Seed of splits, shuffles, initial weights and augmentation."""
    event: EventConfig | None = None
    """Path of an event file, its content, or ``{file: …, dialect: …}``; null where the reader
    or the dataset says what an event is."""
    options: str | None = None
    """Path of training options in the dialect of the event, taken as defaults."""
    read: tuple[dict[str, Any], ...] = ()
    """Readers with their options, one per sample; one mapping or a list."""
    dataset: str | None = None
    """Path of an existing dataset, instead of `read` and `prepare`."""
    prepare: PrepareConfig = PrepareConfig()
    """How the dataset is made."""
    model: ModelConfig = ModelConfig()
    """What is learnt."""
    train: TrainConfig = TrainConfig()
    """How it is learnt."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How it is evaluated."""
    execution: ExecutionConfig = ExecutionConfig()
    """Where it runs."""
    export: ExportConfig = ExportConfig()
    """What is exported."""
    output: str = "runs/run"
    """Directory of the run."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the file as it may be written: with empty sections."""
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        accept_null(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: object) -> object:
        """Take a section without content, ``train:`` in YAML, for one that is not there."""
        if not isinstance(value, Mapping):
            return value
        return {key: part for key, part in value.items() if part is not None}

    @field_validator(
        "read", mode="before", json_schema_input_type=dict[str, Any] | list[dict[str, Any]]
    )
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping) else value

    @field_validator(
        "event", mode="before", json_schema_input_type=str | EventConfig | dict[str, Any]
    )
    @classmethod
    def _path_or_content(cls, value: object) -> object:
        if isinstance(value, str):
            return {"file": value}
        if isinstance(value, Mapping) and not {"file", "inline"} & set(value):
            return {"inline": dict(value)}
        return value
