"""The whole model: sets, padding, empty events, storage, prediction, and that it learns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.errors import ConfigurationError, ContractError, UnknownComponentError
from hepset.model import Model, build_model
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, LabelCounts, Statistics, TensorStatistics
from hepset.uncertainty import auc_value

Array = NDArray[Any]
SLOTS = 10


def make_event(slots: int = SLOTS) -> EventInfo:
    return EventInfo.parse(
        {
            "streams": {
                "jets": {
                    "slots": slots,
                    "features": {
                        "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                        "eta": {"transform": "standardise"},
                        "phi": {"unit": "rad"},
                        "mass": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                    },
                }
            },
            "globals": {
                "met": {"features": {"pt": {"unit": "GeV", "transform": ["log1p", "standardise"]}}}
            },
            "targets": {
                "signal": {"kind": "classification", "classes": ["background", "signal"]},
                "ht": {"kind": "regression", "unit": "GeV", "transform": ["log1p", "standardise"]},
                "hard": {
                    "kind": "classification",
                    "classes": ["soft", "hard"],
                    "stream": "jets",
                },
            },
        },
        "event",
    )


def make_arrays(n: int, seed: int, slots: int = SLOTS) -> dict[str, Array]:
    """Signal: the jets of an event lie together in eta, which no single jet tells."""
    random = np.random.default_rng(seed)
    counts = random.integers(2, slots, n)
    mask = np.arange(slots) < counts[:, None]
    signal = random.integers(0, 2, n)
    pt = np.sort(random.exponential(40, (n, slots)) + 20, axis=1)[:, ::-1]
    phi, mass = random.uniform(-np.pi, np.pi, (n, slots)), random.exponential(8, (n, slots))
    alone, together = random.normal(0, 1.25, (n, slots)), random.normal(0, 1.2, (n, 1))
    together = together + random.normal(0, 0.35, (n, slots))
    eta = np.where(signal[:, None] == 1, together, alone)
    jets = np.stack([pt, eta, phi, mass], -1) * mask[..., None]
    ht = jets[..., 0].sum(1) * np.exp(random.normal(0, 0.1, n))
    return {
        "jets": jets.astype(np.float32),
        "jets.mask": mask,
        "met": random.exponential(40, (n, 1)).astype(np.float32),
        "target/signal": signal,
        "target/ht": ht.astype(np.float32),
        "target/hard": np.where(mask, (pt > 60).astype(np.int64), -1),
    }


def column(values: Array) -> ColumnStatistics:
    values = values.astype(float)
    return ColumnStatistics(
        count=len(values), mean=values.mean(), m2=((values - values.mean()) ** 2).sum()
    )


def make_statistics(arrays: Mapping[str, Array]) -> Statistics:
    real = arrays["jets"][arrays["jets.mask"]]
    names = ["pt", "eta", "phi", "mass"]
    jets = TensorStatistics(
        columns={name: column(real[:, i]) for i, name in enumerate(names)},
        transformed={name: column(np.log1p(real[:, names.index(name)])) for name in ("pt", "mass")},
    )
    met = TensorStatistics(
        columns={"pt": column(arrays["met"][:, 0])},
        transformed={"pt": column(np.log1p(arrays["met"][:, 0]))},
    )
    ht = TensorStatistics(
        columns={"": column(arrays["target/ht"])},
        transformed={"": column(np.log1p(arrays["target/ht"]))},
    )
    n = len(arrays["met"])
    half = LabelCounts(events=[n // 2, n // 2], weights=[n / 2, n / 2])
    return Statistics(
        events=n,
        tensors={"jets": jets, "met": met, "target/ht": ht},
        labels={"target/signal": half, "target/hard": half},
    )


CONFIG = {
    "backbone": {"name": "transformer", "width": 32, "depth": 2, "attention_heads": 4},
    "heads": {
        "signal": {"name": "classification", "target": "signal"},
        "energy": {"name": "regression", "target": "ht", "loss": "gaussian"},
        "jets": {"name": "classification", "target": "hard"},
    },
}
ARRAYS = make_arrays(512, 1)
STATISTICS = make_statistics(ARRAYS)


def make_model(config: Mapping[str, Any] = CONFIG, slots: int = SLOTS, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    event = make_event(slots)
    return build_model(
        ModelConfig.parse(dict(config), "model"), event, compile_contract(event), STATISTICS
    )


def inputs_of(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: values for name, values in arrays.items() if not name.startswith("target/")}


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in arrays.items()}


def close(found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name], values, rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_fields_and_shapes() -> None:
    model = make_model()
    predictions = model.predict(inputs_of(ARRAYS))
    assert {name: values.shape for name, values in predictions.items()} == {
        "signal/probabilities": (512, 2),
        "energy/ht": (512,),
        "energy/ht.sigma": (512,),
        "jets/probabilities": (512, SLOTS, 2),
    }
    terms = model.losses(tensors_of(ARRAYS), model(tensors_of(ARRAYS)))
    assert list(terms) == ["signal/cross_entropy", "energy/ht", "jets/cross_entropy"]
    assert all(term.value.shape == term.valid.shape == (512,) for term in terms.values())
    assert model.contract["target/ht"].required


def test_objects_are_a_set() -> None:
    model = make_model()
    expected = model.predict(inputs_of(ARRAYS))
    order = np.random.default_rng(0).permutation(SLOTS)
    turned = inputs_of(ARRAYS)
    turned["jets"], turned["jets.mask"] = turned["jets"][:, order], turned["jets.mask"][:, order]
    found = model.predict(turned)
    expected["jets/probabilities"] = expected["jets/probabilities"][:, order]
    close(found, expected, 1e-5)


def test_padding_changes_nothing_whatever_it_holds() -> None:
    expected = make_model().predict(inputs_of(ARRAYS))
    wide = inputs_of(ARRAYS)
    wide["jets"] = np.pad(wide["jets"], ((0, 0), (0, 4), (0, 0)), constant_values=-999.0)
    wide["jets.mask"] = np.pad(wide["jets.mask"], ((0, 0), (0, 4)))
    wide["jets"][~wide["jets.mask"]] = np.nan
    found = make_model(slots=14).predict(wide)
    assert (found["jets/probabilities"][:, SLOTS:] == 0).all()
    found["jets/probabilities"] = found["jets/probabilities"][:, :SLOTS]
    close(found, expected, 1e-5)


def test_an_empty_event_changes_no_other_and_batches_do_not_matter() -> None:
    model = make_model()
    data = inputs_of(ARRAYS)
    expected = model.predict(data)
    data = {name: values.copy() for name, values in data.items()}
    data["jets"][3], data["jets.mask"][3] = 0, False
    found = model.predict(data, batch_size=7)
    assert all(np.isfinite(values).all() for values in found.values())
    others = np.arange(512) != 3
    close(
        {k: v[others] for k, v in found.items()}, {k: v[others] for k, v in expected.items()}, 1e-5
    )


def test_no_events() -> None:
    model = make_model()
    some = model.predict(inputs_of(ARRAYS))
    none = model.predict({name: values[:0] for name, values in inputs_of(ARRAYS).items()})
    assert {k: (v.shape[1:], v.dtype) for k, v in none.items()} == {
        k: (v.shape[1:], v.dtype) for k, v in some.items()
    }
    assert {len(values) for values in none.values()} == {0}


def test_an_event_batch_gives_the_same_as_arrays() -> None:
    model = make_model()
    data = inputs_of(ARRAYS)
    counts = data["jets.mask"].sum(1)
    real = data["jets"][data["jets.mask"]]
    # Another order of the columns, and one more.
    columns = {
        name: real[:, i] for i, name in reversed(list(enumerate(["pt", "eta", "phi", "mass"])))
    }
    columns["charge"] = np.ones(len(real))
    batch = EventBatch(
        make_ids(0, range(512)),
        {"jets": FlatStream(np.concatenate([[0], np.cumsum(counts)]), columns)},
        {"met": data["met"], "target/signal": ARRAYS["target/signal"], "weight": np.ones(512)},
    )
    close(model.predict(batch), model.predict(data), 1e-6)


def test_prediction_leaves_the_model_as_it_was() -> None:
    model = make_model().train()
    model.predict(inputs_of(ARRAYS))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_broken_inputs_are_refused() -> None:
    model = make_model()

    def broken(**changes: Array) -> dict[str, Array]:
        return {**inputs_of(ARRAYS), **{k.replace("__", "."): v for k, v in changes.items()}}

    with pytest.raises(ContractError, match="jets"):
        model.predict(broken(jets=ARRAYS["jets"][:, :, :3]))
    more = {"jets": np.tile(ARRAYS["jets"], (1, 2, 1)), "jets__mask": ARRAYS["jets.mask"]}
    more["jets__mask"] = np.tile(more["jets__mask"], (1, 2))
    with pytest.raises(ContractError, match=r"was trained on at most 10 objects, .* have more"):
        model.predict(broken(**more))
    with pytest.raises(ContractError, match="disagree in length"):
        model.predict(broken(met=ARRAYS["met"][:100]))
    bad = ARRAYS["jets"].copy()
    bad[5, 0, 1] = np.nan
    with pytest.raises(ContractError, match="jets"):
        model.predict(broken(jets=bad))
    lacking = inputs_of(ARRAYS)
    lacking["mett"] = lacking.pop("met")
    with pytest.raises(ContractError, match="met"):
        model.predict(lacking)
    batch = EventBatch(
        make_ids(0, range(1)),
        {"jets": FlatStream(np.array([0, 1]), {"pt": np.ones(1), "eta": np.ones(1)})},
        {"met": np.ones((1, 1), np.float32)},
    )
    with pytest.raises(
        ContractError,
        match=r"jets\.phi: features: expected the feature 'phi', found features pt, eta",
    ):
        model.predict(batch)


def test_it_is_stored_as_plain_data_and_weights() -> None:
    model = make_model()
    model.provenance["run"] = "test"
    record = json.loads(json.dumps(model.record()))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    again = Model.from_record(record, weights)
    close(again.predict(inputs_of(ARRAYS)), model.predict(inputs_of(ARRAYS)), 1e-6)
    assert again.contract == model.contract
    assert again.event == model.event
    assert again.provenance == {"run": "test"}
    assert again.record() == record
    assert {"hepset", "torch", "numpy", "python"} <= set(record["versions"])
    with pytest.raises(ConfigurationError, match="not one that this hepset reads"):
        Model.from_record({**record, "format": 99}, weights)
    with pytest.raises(ConfigurationError, match="the record lacks statistics"):
        Model.from_record({k: v for k, v in record.items() if k != "statistics"}, weights)
    weights.pop("backbone.event_token")
    with pytest.raises(ConfigurationError, match=r"ckpt: the weights do not fit"):
        Model.from_record(record, weights, "ckpt")


def test_wrong_options_are_named_with_their_place() -> None:
    def changed(**parts: Any) -> dict[str, Any]:
        return {**CONFIG, **parts}

    with pytest.raises(ConfigurationError, match=r"model\.backbone: widht: unknown key; did you"):
        make_model(changed(backbone={"name": "transformer", "widht": 3}))
    with pytest.raises(UnknownComponentError, match="transfomer"):
        make_model(changed(backbone="transfomer"))
    with pytest.raises(
        ConfigurationError, match="'name' is missing or not a string; available backbones"
    ):
        make_model(changed(backbone={"width": 3}))
    with pytest.raises(ConfigurationError, match=r"model\.heads\.x: target: this key is required"):
        make_model(changed(heads={"x": "classification"}))
    for name in ("forward", "training"):
        with pytest.raises(ConfigurationError, match="cannot have this name"):
            make_model(changed(heads={name: {"name": "classification", "target": "signal"}}))
    with pytest.raises(ConfigurationError, match="no head 'sgnal'; did you mean 'signal'"):
        make_model().head("sgnal")


def test_it_learns() -> None:
    torch.manual_seed(0)
    train, test = make_arrays(4000, 11), make_arrays(1000, 12)
    model = make_model(seed=3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    everything = tensors_of(train)
    for _ in range(5):
        for rows in torch.randperm(4000, generator=generator).split(128):
            batch = {name: values[rows] for name, values in everything.items()}
            terms = model.losses(batch, model(batch))
            loss = sum(
                (term.value * term.valid).sum() / term.valid.sum() for term in terms.values()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = model.predict(inputs_of(test))
    assert auc_value(found["signal/probabilities"][:, 1], test["target/signal"] == 1) > 0.85
    ht = test["target/ht"]
    # The target is smeared by 10 %.
    assert np.std(np.log(found["energy/ht"] / ht)) < 0.14
    pull = (found["energy/ht"] - ht) / found["energy/ht.sigma"]
    assert 0.55 < (np.abs(pull) < 1).mean() < 0.85
    mask = test["jets.mask"]
    correct = found["jets/probabilities"].argmax(-1)[mask] == test["target/hard"][mask]
    assert correct.mean() > 0.95


def test_padding_is_free() -> None:
    model = make_model()
    wider = {
        "jets": np.pad(ARRAYS["jets"], ((0, 0), (0, 3), (0, 0)), constant_values=np.nan),
        "jets.mask": np.pad(ARRAYS["jets.mask"], ((0, 0), (0, 3))),
    }
    found = model.predict({**inputs_of(ARRAYS), **wider})
    assert (found["jets/probabilities"][:, 10:] == 0).all()
    found["jets/probabilities"] = found["jets/probabilities"][:, :10]
    close(found, model.predict(inputs_of(ARRAYS)), 1e-5)
