from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hepset.errors import ConfigurationError
from hepset.interfaces.dialect import Description
from hepset.schema.config import RunConfig
from hepset.schema.event import EventInfo
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
        translate(event, {"focal_gamma": 2.0, "balance_losses": False})
    assert "focal_gamma = 2.0" in caplog.text
    assert "balance_losses" not in caplog.text


@pytest.mark.skipif(not (SHARED / "fixtures/spanet").is_dir(), reason="no reference numbers here")
def test_public_options(event: EventInfo) -> None:
    import json

    text = (SHARED / "fixtures/spanet/tiny_ttH/options.json").read_text()
    found = translate(event, json.loads(text))
    assert found["model"]["heads"]["signal"]["loss_weight"] == 0.6
    assert found["model"]["heads"]["signal"]["class_balance"] == "inverse"
    assert found["model"]["heads"]["regression"]["loss_weight"] == 0.8
    assert found["train"]["batch_size"] == 32
