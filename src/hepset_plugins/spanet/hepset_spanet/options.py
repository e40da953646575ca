"""SPANet's training options (a flat JSON file) and what they are in a run configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from hepset.errors import ConfigurationError, did_you_mean
from hepset.schema.base import Model

_LOG = logging.getLogger(__name__)


class SpanetOptions(Model):
    """All options that SPANet 2 knows, with its defaults."""

    hidden_dim: int = 128
    """Width of the embeddings."""
    transformer_dim: int = 128
    """Not used by SPANet."""
    transformer_dim_scale: float = 2.0
    """Expansion of feed-forward and block hidden layers."""
    initial_embedding_dim: int = 16
    """Width after the first embedding block."""
    position_embedding_dim: int = 32
    """Width of the learned vector of each input."""
    num_embedding_layers: int = 10
    """Largest number of doubling blocks."""
    num_encoder_layers: int = 4
    """Layers of the central encoder."""
    num_branch_embedding_layers: int = 4
    """Blocks before each branch encoder."""
    num_branch_encoder_layers: int = 4
    """Layers of each branch encoder."""
    num_jet_embedding_layers: int = 0
    """Blocks before each product encoder."""
    num_jet_encoder_layers: int = 0
    """Layers of each product encoder."""
    num_detector_layers: int = 1
    """Blocks of the detection head."""
    num_regression_layers: int = 1
    """Blocks of each regression head."""
    num_classification_layers: int = 1
    """Blocks of each classification head."""
    split_symmetric_attention: bool = True
    """Low-rank instead of full attention weights."""
    num_attention_heads: int = 4
    """Attention heads of all transformers."""
    transformer_activation: str = "gelu"
    """Activation of the feed-forward layers."""
    skip_connections: bool = True
    """Skip connections in all blocks but the embedding stack."""
    initial_embedding_skip_connections: bool = True
    """Skip connections in the embedding stack."""
    linear_block_type: str = "GRU"
    """``Basic``, ``Resnet``, ``Gated`` or ``GRU``."""
    transformer_type: str = "Gated"
    """``Standard``, ``NormFirst`` or ``Gated``."""
    linear_activation: str = "GELU"
    """Activation of the blocks."""
    normalization: str = "LayerNorm"
    """Normalisation of the blocks."""
    masking: str = "Filling"
    """How padded positions are kept at zero."""
    linear_prelu_activation: bool = True
    """Not used by SPANet."""
    event_info_file: str = ""
    """Path of the event file."""
    training_file: str = ""
    """Path of the training file."""
    validation_file: str = ""
    """Path of the validation file; empty cuts the training file."""
    testing_file: str = ""
    """Path of the test file."""
    normalize_features: bool = True
    """Whether tagged features are standardised; SPANet 2 breaks off where it is false."""
    limit_to_num_jets: int = Field(default=0, ge=0)
    """Keep only events with exactly so many objects, present globals included; 0 = all."""
    balance_particles: bool = False
    """Weight events by how rare their set of present particles is."""
    balance_jets: bool = False
    """Weight events by how rare their number of objects is."""
    balance_classifications: bool = False
    """Weight classes by how rare they are."""
    partial_events: bool = False
    """Train on events in which some particles are missing, too."""
    dataset_limit: float | tuple[float, float] = 1.0
    """Fraction of the file that is used: the first, the last where negative, or from one to the
    other."""
    dataset_randomization: int = 0
    """Seed of the shuffle before the cut into training and validation; 0 = no shuffle."""
    train_validation_split: float = Field(default=0.95, ge=0, le=1)
    """Fraction of the events to train on."""
    batch_size: int = Field(default=4096, gt=0)
    """Events per batch and device."""
    num_dataloader_workers: int = 4
    """Processes that hold the data set."""
    mask_sequence_vectors: bool = True
    """Whether padded objects are masked in the embedding."""
    combine_pair_loss: str = "min"
    """How the losses of the event's permutations are combined."""
    optimizer: str = "AdamW"
    """Name of an optimizer of torch, or of apex."""
    learning_rate: float = Field(default=0.001, gt=0)
    """Peak learning rate."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss of the assignment."""
    combinatorial_scale: float = 0.0
    """Not used by SPANet."""
    learning_rate_warmup_epochs: float = Field(default=1.0, ge=0)
    """Length of the linear warm-up, in epochs."""
    learning_rate_cycles: int = Field(default=0, ge=0)
    """0 = linear decay, n = cosine with n restarts."""
    assignment_loss_scale: float = Field(default=1.0, ge=0)
    """Factor of the assignment loss."""
    detection_loss_scale: float = Field(default=0.0, ge=0)
    """Factor of the detection loss."""
    kl_loss_scale: float = Field(default=0.0, ge=0)
    """Factor of the divergence between symmetric particles."""
    regression_loss_scale: float = Field(default=0.0, ge=0)
    """Factor of the regression losses."""
    classification_loss_scale: float = Field(default=0.0, ge=0)
    """Factor of the classification losses."""
    balance_losses: bool = True
    """Not used by SPANet."""
    l2_penalty: float = Field(default=0.0, ge=0)
    """Weight decay."""
    gradient_clip: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient; 0 = no clipping."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability."""
    epochs: int = Field(default=100, gt=0)
    """Passes over the training data."""
    num_gpu: int = Field(default=1, ge=0)
    """Number of GPUs."""
    verbose_output: bool = True
    """Bookkeeping."""
    usable_gpus: str | int = ""
    """Bookkeeping."""
    trial_time: str | float = ""
    """Bookkeeping."""
    trial_output_dir: str = "./test_output"
    """Bookkeeping."""

    @field_validator("normalize_features")
    @classmethod
    def _normalized(cls, value: bool) -> bool:
        if not value:
            raise ValueError(
                "SPANet itself cannot build a network with normalize_features: false; leave it "
                "out, and give features that are not to be standardised the tag `none` in the "
                "event file"
            )
        return value

    @field_validator("dataset_limit")
    @classmethod
    def _part_of_the_file(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if isinstance(value, tuple):
            low, high = value
            if not 0 <= low < high <= 1:
                raise ValueError(
                    f"from {low:g} to {high:g} of the file is no part of it; give two ascending "
                    "fractions between 0 and 1"
                )
        elif not 0 < abs(value) <= 1:
            raise ValueError(
                f"{value:g} is no fraction of a file; give one above 0 and at most 1 for its "
                "first part, or one from -1 to below 0 for its last"
            )
        return value


_USED = {
    "hidden_dim",
    "num_encoder_layers",
    "transformer_dim_scale",
    "dropout",
    "num_attention_heads",
    "training_file",
    "validation_file",
    "testing_file",
    "limit_to_num_jets",
    "dataset_limit",
    "dataset_randomization",
    "train_validation_split",
    "partial_events",
    "batch_size",
    "optimizer",
    "learning_rate",
    "learning_rate_warmup_epochs",
    "learning_rate_cycles",
    "focal_gamma",
    "combine_pair_loss",
    "assignment_loss_scale",
    "detection_loss_scale",
    "kl_loss_scale",
    "regression_loss_scale",
    "classification_loss_scale",
    "balance_particles",
    "balance_jets",
    "balance_classifications",
    "l2_penalty",
    "gradient_clip",
    "epochs",
    "num_gpu",
}
_NETWORK = {
    "hidden_dim",
    "transformer_dim_scale",
    "initial_embedding_dim",
    "position_embedding_dim",
    "num_embedding_layers",
    "num_encoder_layers",
    "num_branch_embedding_layers",
    "num_branch_encoder_layers",
    "num_jet_embedding_layers",
    "num_jet_encoder_layers",
    "num_detector_layers",
    "num_regression_layers",
    "num_classification_layers",
    "split_symmetric_attention",
    "num_attention_heads",
    "transformer_activation",
    "skip_connections",
    "initial_embedding_skip_connections",
    "linear_block_type",
    "transformer_type",
    "linear_activation",
    "normalization",
    "masking",
    "mask_sequence_vectors",
    "dropout",
}
"""Options of the architecture."""
_WITHOUT_EFFECT = {
    "transformer_dim",
    "linear_prelu_activation",
    "combinatorial_scale",
    "balance_losses",
    "verbose_output",
    "usable_gpus",
    "trial_time",
    "trial_output_dir",
    "event_info_file",
    "num_dataloader_workers",
}


def parse_options_file(document: Mapping[str, Any], *, where: str) -> SpanetOptions:
    """Read SPANet's options; names are compared in lower case without ``_`` and spaces.

    Raises:
        ConfigurationError: If an option is unknown or given twice, or a value does not fit.
    """
    known = {folded(name): name for name in SpanetOptions.model_fields}
    plain: dict[str, Any] = {}
    problems = []
    for key, value in document.items():
        name = known.get(folded(key))
        if name is None:
            hint = did_you_mean(str(key), SpanetOptions.model_fields)
            problems.append(f"{where}: {key}: SPANet has no such option{hint}")
        elif name in plain:
            problems.append(f"{where}: {key}: this option is given twice")
        elif value is not None:
            plain[name] = value
    if problems:
        raise ConfigurationError("\n".join(problems))
    return SpanetOptions.parse(plain, where)


def run_defaults(
    options: SpanetOptions,
    heads: Mapping[str, Mapping[str, Any]],
    counted: tuple[list[str], list[str]],
    *,
    particles: int = 0,
    interchangeable: bool = False,
    network: bool = False,
) -> dict[str, Any]:
    """Return the options as defaults of a run configuration.

    Args:
        options: The options.
        heads: The heads that the event file gives, by name.
        counted: Streams and globals, the objects that ``limit_to_num_jets`` counts.
        particles: Number of particles of the event.
        interchangeable: Whether some of them may be exchanged.
        network: Whether SPANet's own network is trained instead of hepset's.
    """
    train = {
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "warmup_epochs": options.learning_rate_warmup_epochs,
        "weight_decay": options.l2_penalty,
        "gradient_clip": options.gradient_clip,
        "optimizer": _optimizer(options.optimizer),
        "schedule": "cosine" if options.learning_rate_cycles else "linear",
    }
    if options.learning_rate_cycles > 1:
        train["cycles"] = options.learning_rate_cycles
    overlap = options.kl_loss_scale > 0 and interchangeable
    learnt = _heads(options, heads, _assignment_terms(options, particles) + overlap)
    backbone = _backbone(options)
    if network:
        backbone, learnt = _network(options, learnt)
    defaults: dict[str, Any] = {
        "model": {"backbone": backbone, "heads": learnt},
        "train": train,
        "prepare": {"split": _split(options)},
    }
    if options.limit_to_num_jets:
        defaults["prepare"]["select"] = {"num_vectors": _limit(options.limit_to_num_jets, *counted)}
    if options.dataset_randomization > 0:
        defaults["seed"] = options.dataset_randomization
    if options.training_file:
        defaults["read"] = {"reader": "spanet-hdf5", "files": _files(options)}
        most = _max_events(options)
        if most is not None:
            defaults["read"]["max_events"] = most
    elif options.dataset_limit != 1.0:
        _LOG.info(
            "dataset_limit = %r is left out: there is no training_file; use read.max_events",
            options.dataset_limit,
        )
    if options.num_gpu > 1:
        defaults["execution"] = {"train": {"devices": options.num_gpu}}
    _log_the_rest(options, network=network)
    return defaults


def assignment_options(options: SpanetOptions) -> dict[str, Any]:
    """Return what SPANet's options mean for the losses of an assignment head."""
    scale = options.assignment_loss_scale or 1.0
    combination = folded(options.combine_pair_loss)
    if combination not in {"min", "softmin", "mean"}:
        _LOG.warning(
            "combine_pair_loss = %r acts as 'min', as in SPANet; known: min, softmin, mean",
            options.combine_pair_loss,
        )
    return {
        "detection_loss_weight": options.detection_loss_scale / scale,
        "overlap_loss_weight": options.kl_loss_scale / scale,
        "focal_gamma": options.focal_gamma,
        "combination": combination if combination in {"softmin", "mean"} else "min",
        "partial_events": options.partial_events,
        "balance_particles": options.balance_particles and options.partial_events,
        "balance_objects": options.balance_jets,
    }


def _backbone(options: SpanetOptions) -> dict[str, Any]:
    return {
        "name": "transformer",
        "width": options.hidden_dim,
        "depth": options.num_encoder_layers,
        "attention_heads": options.num_attention_heads,
        "mlp_ratio": options.transformer_dim_scale,
        "dropout": options.dropout,
    }


def _heads(
    options: SpanetOptions, heads: Mapping[str, Mapping[str, Any]], assignment_terms: int
) -> dict[str, dict[str, Any]]:
    scale_of = {
        "assignment": options.assignment_loss_scale or options.detection_loss_scale,
        "regression": options.regression_loss_scale,
        "classification": options.classification_loss_scale,
    }
    parity = any(head.get("parity") == "spanet" for head in heads.values())
    # SPANet minimises the mean of all its terms.
    terms = _number_of_terms(options, heads, assignment_terms) if parity else 1
    found = {}
    for name, head in heads.items():
        scale = scale_of[head["name"]]
        if scale == 0:
            _LOG.info("head %r is left out: its loss scale is 0 in SPANet's options", name)
            continue
        found[name] = {**head, "loss_weight": scale / terms}
        if head["name"] == "assignment":
            found[name] |= assignment_options(options)
            if options.kl_loss_scale > 0:
                found[name]["particle_queries"] = True
            if options.assignment_loss_scale == 0:
                _LOG.info(
                    "assignment_loss_scale = 0 has no counterpart: the assignment trains beside "
                    "the detection"
                )
        elif head["name"] == "classification" and options.balance_classifications:
            found[name]["class_balance"] = "inverse"
    return found


def _assignment_terms(options: SpanetOptions, particles: int) -> int:
    used = [options.assignment_loss_scale > 0, options.detection_loss_scale > 0]
    return particles * sum(used)


def _number_of_terms(
    options: SpanetOptions, heads: Mapping[str, Mapping[str, Any]], assignment_terms: int
) -> int:
    """Terms whose mean SPANet minimises."""
    count = assignment_terms
    for head in heads.values():
        if head["name"] == "regression" and options.regression_loss_scale > 0:
            count += len(head["targets"])
        elif head["name"] == "classification" and options.classification_loss_scale > 0:
            count += 1
    return max(count, 1)


def _network(
    options: SpanetOptions, heads: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """SPANet's own network: its backbone, and the heads that read it."""
    plain = SpanetOptions()
    stated = {
        name: getattr(options, name)
        for name in SpanetOptions.model_fields
        if name in _NETWORK and getattr(options, name) != getattr(plain, name)
    }
    found: dict[str, dict[str, Any]] = {}
    regressions: list[str] = []
    parity = {"parity": "spanet"} if any("parity" in head for head in heads.values()) else {}
    for name, head in heads.items():
        own: dict[str, Any] = {"loss_weight": head["loss_weight"], **parity}
        if head["name"] == "assignment":
            own |= {"name": "spanet-assignment", **assignment_options(options)}
            found[name] = own
        elif head["name"] == "classification":
            own |= {"name": "spanet-classification", "target": head["target"]}
            if options.balance_classifications:
                own["class_balance"] = "effective"
            found[name] = own
        else:
            regressions += head["targets"]
            found["regression"] = own | {"name": "spanet-regression", "targets": regressions}
    return {"name": "spanet", "options": stated}, found


def _split(options: SpanetOptions) -> dict[str, Any]:
    if options.training_file and options.validation_file:
        test = {"groups": ["test"]} if options.testing_file else 0.0
        return {"train": {"groups": ["train"]}, "val": {"groups": ["val"]}, "test": test}
    train = options.train_validation_split
    return {"train": train, "val": round(1 - train, 9), "test": 0.0}


def _files(options: SpanetOptions) -> list[str] | dict[str, list[str]]:
    if not options.validation_file:
        if options.testing_file:
            _LOG.info(
                "testing_file %r is left out: without validation_file the split is by fractions; "
                "use hepset predict on it",
                options.testing_file,
            )
        return [options.training_file]
    files = {"train": [options.training_file], "val": [options.validation_file]}
    if options.testing_file:
        files["test"] = [options.testing_file]
    return files


def _optimizer(name: str) -> str:
    folded = name.lower()
    return "adamw" if folded.startswith("apex") else folded


def _limit(count: int, streams: list[str], globals_: list[str]) -> str:
    total = " + ".join(f"count({stream})" for stream in streams)
    return f"{total} == {count - len(globals_)}"


def _max_events(options: SpanetOptions) -> int | None:
    """The number of events that ``dataset_limit`` leaves; None where it leaves all."""
    limit = options.dataset_limit
    if limit in (1.0, -1.0, (0.0, 1.0)):
        return None
    plain = isinstance(limit, float) and limit > 0
    if not plain or options.dataset_randomization > 0 or options.validation_file:
        _LOG.info(
            "dataset_limit = %r is left out: only the first part of one file can be taken; use "
            "read.max_events or prepare.select",
            limit,
        )
        return None
    if not Path(options.training_file).is_file():
        _LOG.info(
            "dataset_limit = %r is left out: the training_file %r that it is a part of is not "
            "there; use read.max_events",
            limit,
            options.training_file,
        )
        return None
    from hepset_spanet.layout import number_of_events  # noqa: PLC0415  opens files

    return round(float(limit) * number_of_events(options.training_file))  # type: ignore[arg-type]


def _log_the_rest(options: SpanetOptions, *, network: bool) -> None:
    defaults = SpanetOptions()
    known = _USED | _WITHOUT_EFFECT | (_NETWORK if network else set())
    for name in SpanetOptions.model_fields:
        value = getattr(options, name)
        if name not in known and value != getattr(defaults, name):
            _LOG.info("SPANet's option %s = %r has no counterpart and is left out", name, value)
    if not options.partial_events:
        _LOG.info(
            "partial_events = false: events with a missing particle do not train the assignment; "
            "they train the other heads all the same"
        )
        if options.balance_particles:
            _LOG.info("balance_particles is left out: it needs partial_events, as in SPANet")


def folded(name: object) -> str:
    """Return a name as SPANet compares it: lower case, without ``_`` and spaces."""
    return str(name).lower().replace("_", "").replace(" ", "")
