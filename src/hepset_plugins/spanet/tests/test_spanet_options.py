from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hepset.errors import ConfigurationError
from hepset.interfaces.dialect import Description
from hepset.interfaces.head import create_head
from hepset.schema.config import RunConfig
from hepset.schema.event import EventInfo
from hepset_assignment.config import AssignmentConfig
from hepset_spanet.dialect import SpanetDialect
from hepset_spanet.options import SpanetOptions, parse_options_file

SHARED = Path(__file__).parents[5] / "shared"


def translate(event: EventInfo, options: dict[str, Any]) -> dict[str, Any]:
    heads = {
        "signal": {"name": "classification", "target": "signal"},
        "regression": {"name": "regression", "targets": ["mass"], "loss": "laplace"},
    }
    described = Description(event, {"model": {"heads": heads}})
    defaults = SpanetDialect().options(options, described, where="options.json")
    RunConfig.parse(defaults, "options.json")
    return defaults


def test_names_ignore_case_underscores_and_spaces() -> None:
    found = parse_options_file({"Hidden DIM": 32, "batchsize": 7}, where="options.json")
    assert (found.hidden_dim, found.batch_size) == (32, 7)


def test_missing_and_null_options_take_spanets_defaults() -> None:
    assert parse_options_file({"validation_file": None}, where="o") == SpanetOptions()
    assert SpanetOptions().batch_size == 4096
    assert SpanetOptions().epochs == 100


def test_unknown_and_repeated_options_are_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_options_file({"batch_sise": 1, "epochs": 1, "Epochs": 2}, where="options.json")
    message = str(caught.value)
    assert (
        "options.json: batch_sise: SPANet has no such option; did you mean 'batch_size'" in message
    )
    assert "Epochs: this option is given twice" in message


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="learning_rate"):
        parse_options_file({"learning_rate": -1}, where="options.json")


def test_training_options(event: EventInfo) -> None:
    options = {
        "batch_size": 32,
        "epochs": 5,
        "learning_rate": 0.0015,
        "learning_rate_warmup_epochs": 0.5,
        "l2_penalty": 2e-4,
        "gradient_clip": 0.3,
        "optimizer": "apex_lamb",
        "hidden_dim": 64,
        "num_encoder_layers": 6,
        "num_attention_heads": 8,
        "dropout": 0.1,
        "dataset_randomization": 11,
        "num_gpu": 2,
        "learning_rate_cycles": 5,
    }
    found = translate(event, options)
    assert found["train"] == {
        "batch_size": 32,
        "epochs": 5,
        "learning_rate": 0.0015,
        "warmup_epochs": 0.5,
        "weight_decay": 2e-4,
        "gradient_clip": 0.3,
        "optimizer": "adamw",
        "schedule": "cosine",
        "cycles": 5,
    }
    assert found["model"]["backbone"] == {
        "name": "transformer",
        "width": 64,
        "depth": 6,
        "attention_heads": 8,
        "mlp_ratio": 2.0,
        "dropout": 0.1,
    }
    assert found["seed"] == 11
    assert found["execution"] == {"train": {"devices": 2}}


def test_heads_carry_loss_scales_and_zero_leaves_them_out(event: EventInfo) -> None:
    found = translate(event, {"regression_loss_scale": 0.8})
    assert found["model"]["heads"] == {
        "regression": {
            "name": "regression",
            "targets": ["mass"],
            "loss": "laplace",
            "loss_weight": 0.8,
        }
    }


def test_one_file_is_split_by_fractions(event: EventInfo) -> None:
    found = translate(event, {"training_file": "a.h5", "train_validation_split": 0.9})
    assert found["read"] == {"reader": "spanet-hdf5", "files": ["a.h5"]}
    assert found["prepare"]["split"] == {"train": 0.9, "val": 0.1, "test": 0.0}


def test_several_files_are_groups(event: EventInfo) -> None:
    found = translate(event, {"training_file": "a.h5", "validation_file": "b.h5"})
    assert found["read"]["files"] == {"train": ["a.h5"], "val": ["b.h5"]}
    assert found["prepare"]["split"]["val"] == {"groups": ["val"]}
    assert found["prepare"]["split"]["test"] == 0.0


def test_number_of_objects_counts_globals(event: EventInfo) -> None:
    found = translate(event, {"limit_to_num_jets": 7})
    assert found["prepare"]["select"] == {"num_vectors": "count(Jets) + count(Leptons) == 6"}


def test_options_without_counterpart_are_logged(
    event: EventInfo, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="hepset_spanet"):
        translate(event, {"initial_embedding_dim": 8, "balance_losses": False})
    assert "initial_embedding_dim = 8" in caplog.text
    assert "balance_losses" not in caplog.text
    assert "partial_events = false: events with a missing particle do not train" in caplog.text


ASSIGNMENT: dict[str, Any] = {
    "assignment_loss_scale": 0.5,
    "detection_loss_scale": 0.25,
    "kl_loss_scale": 0.1,
    "focal_gamma": 1.5,
    "combine_pair_loss": "softmin",
    "partial_events": True,
    "balance_particles": True,
    "balance_jets": True,
    "regression_loss_scale": 0.3,
    "classification_loss_scale": 0.7,
    "balance_classifications": True,
}


def run_lines(event: EventInfo, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    heads = {
        "assignment": {"name": "assignment", **more.pop("assignment", {})},
        "signal": {"name": "classification", "target": "signal"},
        "regression": {"name": "regression", "targets": ["mass", "scale"]},
        "regression_laplace": {"name": "regression", "targets": ["t1/pt"], "loss": "laplace"},
    }
    described = Description(event, {"model": {"heads": heads}}, stated=more)
    defaults = SpanetDialect().options(options, described, where="options.json")
    RunConfig.parse(defaults, "options.json")
    return defaults


def test_options_of_the_assignment(event: EventInfo, caplog: pytest.LogCaptureFixture) -> None:
    found = run_lines(event, ASSIGNMENT)["model"]["heads"]["assignment"]
    assert found == {
        "name": "assignment",
        "loss_weight": 0.5,
        "detection_loss_weight": 0.5,
        "overlap_loss_weight": 0.2,
        "particle_queries": True,
        "focal_gamma": 1.5,
        "combination": "softmin",
        "partial_events": True,
        "balance_particles": True,
        "balance_objects": True,
    }
    AssignmentConfig.model_validate({k: v for k, v in found.items() if k != "name"})
    plain = run_lines(event, {"balance_particles": True, "combine_pair_loss": "typo"})
    head = plain["model"]["heads"]["assignment"]
    assert not head["balance_particles"]
    assert not head["partial_events"]
    assert head["combination"] == "min"
    assert head["detection_loss_weight"] == 0
    assert "combine_pair_loss = 'typo' acts as 'min', as in SPANet" in caplog.text


def test_one_line_chooses_spanets_own_network(event: EventInfo) -> None:
    stated = {"backbone": {"name": "spanet"}}
    options = {**ASSIGNMENT, "hidden_dim": 64, "num_jet_encoder_layers": 2, "focal_gamma": 0.0}
    model = run_lines(event, options, model=stated)["model"]
    assert model["backbone"] == {
        "name": "spanet",
        "options": {"hidden_dim": 64, "num_jet_encoder_layers": 2},
    }
    heads = model["heads"]
    assert heads["assignment"]["name"] == "spanet-assignment"
    assert heads["assignment"]["overlap_loss_weight"] == 0.2
    assert heads["regression"] == {
        "name": "spanet-regression",
        "targets": ["mass", "scale", "t1/pt"],
        "loss_weight": 0.3,
    }
    assert heads["signal"] == {
        "name": "spanet-classification",
        "target": "signal",
        "loss_weight": 0.7,
        "class_balance": "effective",
    }
    for head in heads.values():
        create_head("x", head)


def test_parity_divides_by_the_number_of_terms(event: EventInfo) -> None:
    """Two particles, assignment and detection each; three regressions; one class.

    Only where particles may be exchanged SPANet adds a term for their overlap.
    """
    parity = {"parity": "spanet"}
    heads = run_lines(event, ASSIGNMENT, assignment=parity)["model"]["heads"]
    assert heads["assignment"]["loss_weight"] == pytest.approx(0.5 / 8)
    assert heads["regression"]["loss_weight"] == pytest.approx(0.3 / 8)
    alike = {"t1": ["q1", "q2"], "t2": ["q1", "q2"]}
    plain = event.model_dump(exclude={"targets", "processes"})
    symmetric = EventInfo.model_validate(
        {**plain, "particles": alike, "symmetries": {"event": [["t1", "t2"]]}}
    )
    heads = run_lines(symmetric, ASSIGNMENT, assignment=parity)["model"]["heads"]
    assert heads["assignment"]["loss_weight"] == pytest.approx(0.5 / 9)
    stated = {"backbone": {"name": "spanet"}}
    heads = run_lines(event, ASSIGNMENT, assignment=parity, model=stated)["model"]["heads"]
    assert {head["parity"] for head in heads.values()} == {"spanet"}


def test_a_part_of_the_file(event: EventInfo, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["INPUTS/Jets/MASK"] = np.ones((40, 3), bool)
    options = {"training_file": str(tmp_path / "a.h5"), "dataset_limit": 0.3}
    assert translate(event, options)["read"]["max_events"] == 12


def test_a_part_of_a_file_that_is_not_there(
    event: EventInfo, caplog: pytest.LogCaptureFixture
) -> None:
    """The run file may name other files, which win."""
    with caplog.at_level(logging.INFO, logger="hepset_spanet"):
        found = translate(event, {"training_file": "away.h5", "dataset_limit": 0.3})
    assert "max_events" not in found["read"]
    assert "'away.h5' that it is a part of is not there" in caplog.text


@pytest.mark.parametrize("limit", [-0.5, [0.1, 0.3]])
def test_parts_that_cannot_be_read_alone_are_named(
    event: EventInfo, limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="hepset_spanet"):
        found = translate(event, {"training_file": "a.h5", "dataset_limit": limit})
    assert "max_events" not in found["read"]
    assert "only the first part of one file can be taken" in caplog.text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dataset_limit": 0}, "dataset_limit: .*0 is no fraction of a file"),
        ({"dataset_limit": 1.5}, "dataset_limit: .*1.5 is no fraction of a file"),
        ({"dataset_limit": -2}, "dataset_limit: .*-2 is no fraction of a file"),
        ({"dataset_limit": [0.3, 0.1]}, "dataset_limit: .*from 0.3 to 0.1 of the file is no part"),
        ({"dataset_limit": [0.5, 1.2]}, "dataset_limit: .*from 0.5 to 1.2 of the file is no part"),
        ({"normalize_features": False}, "normalize_features: .*SPANet itself cannot build"),
    ],
)
def test_what_spanet_cannot_do_is_refused(
    event: EventInfo, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        translate(event, option)


@pytest.mark.parametrize("limit", [1, -1.0, [0, 1]])
def test_the_whole_file_is_no_limit(event: EventInfo, limit: Any) -> None:
    found = translate(event, {"training_file": "away.h5", "dataset_limit": limit})
    assert "max_events" not in found["read"]


@pytest.mark.skipif(not (SHARED / "fixtures/spanet").is_dir(), reason="no reference numbers here")
def test_public_options(event: EventInfo) -> None:
    import json

    text = (SHARED / "fixtures/spanet/tiny_ttH/options.json").read_text()
    found = translate(event, json.loads(text))
    assert found["model"]["heads"]["signal"]["loss_weight"] == 0.6
    assert found["model"]["heads"]["signal"]["class_balance"] == "inverse"
    assert found["model"]["heads"]["regression"]["loss_weight"] == 0.8
    assert found["train"]["batch_size"] == 32
