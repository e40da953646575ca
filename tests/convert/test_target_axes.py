"""Targets beside class and number: they follow their objects from reader to loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hepset.batch import EventBatch
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, ContractError, HepsetError
from hepset.interfaces import Chunk
from hepset.interfaces.head import create_head
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from synthetic_events import SyntheticConfig, SyntheticReader

TARGETS: dict[str, Any] = {
    "harder": {"kind": "classification", "pairs": "jets", "classes": ["no", "yes"]},
    "gap": {"kind": "regression", "axes": ["jets", "side", "jets"], "sizes": {"side": 2}},
    "segments": {"kind": "mask", "axes": ["segment", "jets"], "sizes": {"segment": 3}},
    "tags": {
        "kind": "classification",
        "axes": ["segment", "tag"],
        "sizes": {"segment": 3, "tag": 2},
    },
    "vertex": {"kind": "index", "stream": "jets"},
    "process_id": {"kind": "index"},
}
SLOTS = 8


def expected(jets: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What the targets are for jets (event, slot, (pt, eta)), by loops."""
    events, slots = mask.shape
    found = {
        "harder": np.full((events, slots, slots), -1),
        "gap": np.full((events, slots, 2, slots), np.nan, np.float32),
        "segments": np.zeros((events, 3, slots), bool),
        "vertex": np.full((events, slots), -1),
    }
    for e in range(events):
        for i in np.flatnonzero(mask[e]):
            pt, eta = jets[e, i]
            found["vertex"][e, i] = -2 if eta > 2 else int(pt * 1000)
            found["segments"][e, :, i] = [eta < -1, eta > 0, pt > 50]
            for j in np.flatnonzero(mask[e]):
                found["harder"][e, i, j] = pt > jets[e, j, 0]
                found["gap"][e, i, :, j] = [eta - jets[e, j, 1], pt]
    return found


class Reader(SyntheticReader):
    targets: ClassVar[dict[str, Any]] = TARGETS

    def event_info(self) -> EventInfo:
        document = super().event_info().model_dump(mode="json")
        document["streams"]["jets"] |= {"slots": 5, "order": "-pt"}
        document["targets"] |= self.targets
        return EventInfo.model_validate(document)

    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        mask = batch["jets.mask"]
        jets = batch["jets"][..., :2]
        found = expected(jets, mask)
        found["harder"][~(mask[:, :, None] & mask[:, None, :])] = 7  # Padding holds anything.
        arrays = {
            f"target/{name}": values for name, values in found.items() if name in self.targets
        }
        entries = batch.ids["entry"]
        arrays["target/tags"] = (entries[:, None, None] + np.arange(6).reshape(3, 2)) % 3 - 1
        missing = -7 if self.targets["process_id"]["kind"] == "index" else -1
        arrays["target/process_id"] = np.where(entries % 3, 2**40 + entries, missing)
        return EventBatch(
            batch.ids, batch.streams, {**batch.arrays, **arrays}, batch.slots, batch.sources
        )


def convert(output: Path, reader: type[Reader] = Reader, **options: Any) -> Dataset:
    made = reader(SyntheticConfig(**{"events": 300, "chunk_size": 80, "slots": SLOTS, **options}))
    event = made.event_info()
    engine = LocalEngine(LocalEngineConfig(workers=1))
    try:
        return prepare_dataset(
            [made], event=event, contract=compile_contract(event), config=PrepareConfig(), seed=1,
            output=output, engine=engine,
        )  # fmt: skip
    finally:
        engine.close()


@pytest.mark.parametrize("flat", [True, False])
def test_they_follow_sorting_and_cutting_on_every_axis(tmp_path: Path, flat: bool) -> None:
    """Sorted by pt and cut from eight slots to five."""
    dataset = convert(tmp_path / "set", flat=flat)
    assert dataset.manifest.truncated["jets"].objects > 50
    (batch,) = dataset.loader("train", batch_size=1000, ids=True, drop_last=False)
    jets, mask = batch["jets"].numpy()[..., :2], batch["jets.mask"].numpy()
    assert mask.shape[1] == 5
    for name, values in expected(jets, mask).items():
        found = batch[f"target/{name}"].numpy()
        if name in {"gap", "vertex"}:
            np.testing.assert_allclose(found, values, rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found, values, err_msg=name)
    entries = batch["ids"][:, 1].numpy()
    tags = (entries[:, None, None] + np.arange(6).reshape(3, 2)) % 3 - 1
    np.testing.assert_array_equal(batch["target/tags"].numpy(), tags)
    process = batch["target/process_id"].numpy()
    np.testing.assert_array_equal(process, np.where(entries % 3, 2**40 + entries, -7))
    counts = dataset.statistics.labels
    real = mask[:, :, None] & mask[:, None, :]
    assert sum(counts["target/harder"].events) == real.sum()
    assert counts["target/tags"].events == [(tags == label).sum() for label in (0, 1)]
    assert "target/vertex" not in counts
    assert "target/vertex" not in dataset.manifest.class_names


class Unpadded(Reader):
    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        segments = batch.arrays["target/segments"][..., :-1]
        return EventBatch(
            batch.ids, batch.streams, {**batch.arrays, "target/segments": segments}, batch.slots,
            batch.sources,
        )  # fmt: skip


def test_another_number_of_entries_than_slots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HepsetError, match=r"target/segments: .*an entry for every slot of jets"):
        convert(tmp_path / "set", Unpadded, flat=False)


class Identifiers(Reader):
    targets: ClassVar[dict[str, Any]] = {"process_id": {"kind": "classification"}}


def test_identifiers_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"process_id.* reach from .*\{kind: index\}"):
        convert(tmp_path / "set", Identifiers)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classification", {"target": "harder"}),
        ("regression", {"targets": ["gap"]}),
    ],
)
def test_heads_of_events_and_objects_refuse_tables(name: str, options: dict[str, Any]) -> None:
    event = Reader(SyntheticConfig(events=1)).event_info()
    head = create_head("x", {"name": name, **options})
    with pytest.raises(ConfigurationError, match=r"has the axes jets, .*per object of a stream"):
        head.contract(event)
