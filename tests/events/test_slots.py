from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.batch import EventBatch, FlatStream, PaddedStream, make_ids
from hepset.events.slots import conform
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo


def event_info(slots: tuple[int, int], order: str | None, pairs: bool) -> EventInfo:
    jets: dict[str, Any] = {"slots": slots[0], "order": order, "features": ["pt", "tag"]}
    if pairs:
        jets["pairs"] = ["dr"]
    return EventInfo.model_validate(
        {
            "streams": {"jets": jets, "leptons": {"slots": slots[1], "features": ["pt"]}},
            "particles": {"t": {"b": "jets", "l": "leptons", "x": None}},
            "targets": {"flavour": {"kind": "classification", "stream": "jets"}},
        }
    )


def expect(
    jets: list[tuple[int, float]], order: str | None, slots: int, slots_before: int
) -> list[int | None]:
    """New slot of every old slot by brute force: None = cut, −1 = padding."""
    real = dict(jets)
    places: list[int | None] = [-1] * slots_before
    ranked = sorted(real)
    if order is not None:
        sign = -1 if order.startswith("-") else 1
        ranked = sorted(real, key=lambda slot: (sign * real[slot], slot))
    elif all(slot < slots for slot in real):
        for slot in real:
            places[slot] = slot
        return places
    for new, slot in enumerate(ranked):
        places[slot] = new if new < slots else None
    return places


@st.composite
def events(draw: st.DrawFn) -> Any:
    before = draw(st.integers(1, 6))
    rows = draw(
        st.lists(st.lists(st.booleans(), min_size=before, max_size=before), min_size=1, max_size=5)
    )
    pt = draw(
        st.lists(
            st.lists(st.integers(0, 3), min_size=before, max_size=before),
            min_size=len(rows),
            max_size=len(rows),
        )
    )
    return np.array(rows), np.array(pt, np.float32)


@given(
    events(), st.integers(1, 7), st.sampled_from([None, "pt", "-pt"]), st.booleans(), st.booleans(),
    st.randoms(use_true_random=False),
)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_objects_targets_and_pairs_follow_the_order(
    drawn: Any, slots: int, order: str | None, flat: bool, pairs: bool, random: Any
) -> None:
    mask, pt = drawn
    if flat:  # A flat stream has no gaps.
        counts = mask.sum(axis=1)
        mask = np.arange(mask.shape[1]) < counts[:, None]
    rows, before = mask.shape
    tag = np.arange(rows * before, dtype=np.float32).reshape(rows, before)
    leptons = np.ones((rows, 2), bool)
    stream: Any = PaddedStream(
        {"pt": pt, "tag": tag}, mask, {"target/flavour": tag.astype(np.int64)}
    )
    dr = (100 * np.arange(before)[:, None] + np.arange(before)).astype(np.float32)
    dr = np.broadcast_to(dr[None, :, :, None], (rows, before, before, 1))
    real = [[j for j in range(before) if mask[i, j]] for i in range(rows)]
    pick = [
        [
            random.choice([*r, -1]),
            random.choice([0, 1, -1]),
            random.choice([*r, before, before + 1, -1]),
        ]
        for r in real
    ]
    arrays: dict[str, Any] = {"target/assignment/t": np.array(pick)}
    if pairs:
        arrays["jets.pairs"] = dr
    batch = EventBatch(
        ids=make_ids(0, range(rows)),
        streams={
            "jets": stream.flat() if flat else stream,
            "leptons": PaddedStream({"pt": np.ones((rows, 2), np.float32)}, leptons),
        },
        arrays=arrays,
        slots={"jets": before, "leptons": 2},
    )
    info = event_info((slots, 1), order, pairs)
    found, truncated = conform(batch, info, compile_contract(info))
    assert found["jets"].shape == (rows, slots, 2)
    lost = 0
    for i in range(rows):
        places = expect([(j, float(pt[i, j])) for j in real[i]], order, slots, before)
        for old, new in enumerate(places):
            if new is None or new < 0:
                continue
            assert found["jets.mask"][i, new]
            assert found["jets"][i, new, 1] == tag[i, old]
            assert found["target/flavour"][i, new] == tag[i, old]
            if pairs:
                for other, other_new in enumerate(places):
                    if other_new is not None and other_new >= 0:
                        assert found["jets.pairs"][i, new, other_new, 0] == dr[i, old, other, 0]
        assert found["jets.mask"][i].sum() == min(len(real[i]), slots)
        b, lepton, anything = pick[i]
        new_b = places[b] if b >= 0 else -1
        new_any: int | None = -1
        if 0 <= anything < before:
            new_any = places[anything]
        elif anything >= before:
            new_any = slots if anything == before else None  # the second lepton is cut
        new_lepton = {0: 0, 1: None, -1: -1}[lepton]
        lost += sum(new is None for new in (new_b, new_lepton, new_any))
        wanted = [-1 if new is None else new for new in (new_b, new_lepton, new_any)]
        assert list(found["target/assignment/t"][i]) == wanted
    cut = np.maximum(mask.sum(axis=1) - slots, 0)
    assert truncated["jets"].objects == cut.sum()
    assert truncated["jets"].events == (cut > 0).sum()
    assert truncated["jets"].longest == mask.sum(axis=1).max()
    assert truncated["leptons"].objects == rows
    assert truncated["jets"].targets + truncated["leptons"].targets == lost


def test_nan_is_sorted_last_and_an_invalid_index_becomes_missing() -> None:
    info = event_info((3, 2), "-pt", pairs=False)
    batch = EventBatch(
        ids=make_ids(0, [0]),
        streams={
            "jets": FlatStream(
                np.array([0, 3]),
                {"pt": np.array([np.nan, 1, 2]), "tag": np.array([0.0, 1, 2])},
            ),
            "leptons": FlatStream(np.array([0, 0]), {"pt": np.zeros(0)}),
        },
        arrays={"target/assignment/t": np.array([[7, 0, -1]])},
    )
    found, _ = conform(batch, info, compile_contract(info))
    assert list(found["jets"][0, :, 1]) == [2, 1, 0]
    assert list(found["target/assignment/t"][0]) == [-1, -1, -1]
    assert pytest.approx(found["leptons"]) == np.zeros((1, 2, 1))
