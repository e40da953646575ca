"""SPANet's table of purities, by pencil and by brute force over permutations."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from numpy.typing import NDArray

from hepset.batch import EventBatch, PaddedStream, make_ids
from hepset.errors import ConfigurationError
from hepset.predict.predictions import SELECTED
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.symmetry import PermutationGroup
from hepset.uncertainty import Estimate
from hepset_spanet.commands import _as_text, spanet_test
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.network import Particle, SpanetInput, SpanetNetwork, Topology
from hepset_spanet.options import SpanetOptions
from hepset_spanet.purity_table import Clusters, PurityTableWriter, count_objects, purity_table

Array = NDArray[Any]
WriteFile = Callable[[Mapping[str, Any]], str]
SWAP = ((0, 1), (1, 0))
PRODUCTS = PermutationGroup(("q1", "q2", "b"), ((0, 1, 2), (1, 0, 2)))
TOPS = PermutationGroup(("t1", "t2"), SWAP)
NONE = [-1, -1, -1]
PREDICTED = {
    "t1": [[0, 1, 2], [3, 4, 5], [0, 1, 2], [0, 1, 2], NONE, [0, 1, 2]],
    "t2": [[3, 4, 5], [0, 1, 2], [3, 4, 5], [5, 4, 3], [3, 4, 5], [3, 4, 6]],
}
TRUTH = {
    # Right with q1 and q2 swapped; right with the tops swapped; only the second is there, and
    # found as the first; b and q are confused in the second; neither; the second wrong.
    "t1": [[1, 0, 2], [0, 1, 2], NONE, [1, 0, 2], NONE, [2, 1, 0]],
    "t2": [[3, 4, 5], [3, 4, 5], [0, 1, 2], [3, 4, 5], [3, -1, 5], [3, 4, 5]],
}
OBJECTS = np.array([6, 7, 6, 8, 9, 6])


def arrays(tuples: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in tuples.items()}


def table_of_tops(weight: Array | None = None) -> dict[str, dict[str, Estimate]]:
    return purity_table(
        arrays(PREDICTED),
        arrays(TRUTH),
        OBJECTS,
        event_group=TOPS,
        product_groups={"t1": PRODUCTS, "t2": PRODUCTS},
        weight=weight,
    )


def test_the_table_by_pencil() -> None:
    table = table_of_tops()
    assert list(table) == ["== 6", "== 7", ">= 8", "Full"]
    full = {name: estimate.value for name, estimate in table["Full"].items()}
    assert full["event_jet_proportion"] == 1
    assert full["*t/event_proportion"] == pytest.approx(5 / 6)
    assert full["*t/event_purity"] == pytest.approx(3 / 5)
    assert full["*t/t_purity"] == pytest.approx(6 / 9)
    assert full["2t/event_purity"] == pytest.approx(2 / 4)
    assert full["2t/t_purity"] == pytest.approx(5 / 8)
    assert full["1t/event_purity"] == 1
    assert full["0t/event_purity"] == 1
    assert math.isnan(full["0t/t_purity"])
    six = table["== 6"]
    assert six["event_jet_proportion"].value == pytest.approx(1 / 2)
    assert six["2t/event_proportion"].value == pytest.approx(2 / 3)
    assert six["2t/event_purity"].value == pytest.approx(1 / 2)
    assert math.isnan(table["== 7"]["1t/event_purity"].value)
    assert table["Full"]["*t/event_purity"].error == pytest.approx(0.2, abs=0.03)


def test_weights_are_physical() -> None:
    table = table_of_tops(np.array([2.0, 1.0, 1.0, -1.0, 5.0, 1.0]))
    assert table["Full"]["*t/event_purity"].value == pytest.approx(4 / 4)
    assert table["Full"]["*t/t_purity"].value == pytest.approx(
        (4 + 2 + 1 - 1) / (4 + 2 + 1 - 2 + 2)
    )
    assert table["Full"]["*t/event_proportion"].value == pytest.approx(4 / 9)


def test_names_of_clusters() -> None:
    def named(particles: tuple[str, ...], *elements: tuple[int, ...]) -> tuple[str, ...]:
        own = tuple(range(len(particles)))
        return Clusters.of(particles, PermutationGroup(particles, (own, *elements))).names

    assert named(("t1", "t2"), (1, 0)) == ("t",)
    assert named(("lt", "ht", "h")) == ("lt", "ht", "h")
    assert named(("atop", "btop"), (1, 0)) == ("top",)
    assert named(("a", "b"), (1, 0)) == ("",)
    assert named(("a", "b", "c", "d"), (1, 0, 3, 2)) == ("a, b", "c, d")
    clusters = Clusters(((0, 1), (2,)), ("t", "h"), ("t", "h"))
    names = [name for name, _ in clusters.categories()]
    assert names[:4] == ["*t*h", "*t0h", "*t1h", "0t*h"]
    assert len(names) == 4 * 3
    nameless = Clusters(((0, 1), (2, 3)), ("", ""), ("a, b", "c, d"))
    assert "*1" in [name for name, _ in nameless.categories()]


@pytest.mark.parametrize(
    "elements",
    [
        ((0, 1, 2, 3), (1, 0, 3, 2)),  # two pairs that swap together
        tuple(itertools.permutations(range(4))),
        ((0, 1, 2, 3), (1, 2, 0, 3), (2, 0, 1, 3)),  # three in a circle
    ],
)
def test_the_table_equals_brute_force(elements: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(4)
    names = ("a1", "a2", "a3", "a4")
    group = PermutationGroup(names, elements)
    pair = PermutationGroup(("x", "y"), SWAP)
    truth = {n: rng.integers(-1, 3, (200, 2)) for n in names}
    predicted = {n: rng.integers(0, 3, (200, 2)) for n in names}
    table = purity_table(
        predicted,
        truth,
        np.full(200, 4),
        event_group=group,
        product_groups=dict.fromkeys(names, pair),
    )["Full"]
    clusters = Clusters.of(names, group)
    right, there = [], []
    hits = []
    for event in range(200):
        wanted = [sorted(truth[n][event]) for n in names]
        own = [sorted(predicted[n][event]) for n in names]
        present = [min(each) >= 0 for each in wanted]
        equal = [[own[i] == wanted[j] and present[j] for j in range(4)] for i in range(4)]
        right.append(max(found(equal, e, range(4)) for e in elements) == sum(present))
        there.append([sum(present[i] for i in m) for m in clusters.members])
        best = []
        for members in clusters.members:
            orders = [
                dict(zip(members, order, strict=True)) for order in itertools.permutations(members)
            ]
            best.append(max(found(equal, order, members) for order in orders))
        hits.append(best)
    for category, counts in clusters.categories():
        chosen = [
            e
            for e in range(200)
            if all(
                there[e][c] == count if count >= 0 else sum(there[e]) > 0
                for c, count in enumerate(counts)
            )
        ]
        assert table[f"{category}/event_proportion"].value == pytest.approx(len(chosen) / 200)
        if not chosen:
            assert math.isnan(table[f"{category}/event_purity"].value)
            continue
        share = np.mean([right[e] for e in chosen])
        assert table[f"{category}/event_purity"].value == pytest.approx(share)
        for column, name in enumerate(clusters.names):
            total = sum(there[e][column] for e in chosen)
            value = table[f"{category}/{name}_purity"].value
            if total:
                assert value == pytest.approx(sum(hits[e][column] for e in chosen) / total)
            else:
                assert math.isnan(value)


def found(equal: list[list[bool]], order: Any, among: Iterable[int]) -> int:
    return sum(equal[i][order[i]] for i in among)


def test_many_interchangeable_particles() -> None:
    names = tuple(f"g{number}" for number in range(8))
    group = PermutationGroup(names, tuple(_swaps(8)))
    one = PermutationGroup(("x",), ((0,),))
    truth = {n: np.array([[number], [number]]) for number, n in enumerate(names)}
    predicted = {n: np.array([[7 - number], [number // 2]]) for number, n in enumerate(names)}
    table = purity_table(
        predicted,
        truth,
        np.array([8, 8]),
        event_group=group,
        product_groups=dict.fromkeys(names, one),
    )
    assert table["Full"]["8g/event_purity"].value == pytest.approx(0.5)
    assert table["Full"]["8g/g_purity"].value == pytest.approx((8 + 4) / 16)


def _swaps(size: int) -> list[tuple[int, ...]]:
    found = []
    for position in range(size - 1):
        order = list(range(size))
        order[position : position + 2] = position + 1, position
        found.append(tuple(order))
    return found


EVENT = """
INPUTS:
  SEQUENTIAL: {Jets: {pt: log_normalize}}
  GLOBAL: {Met: {met: log_normalize}}
EVENT: {t1: [q1, q2, b], t2: [q1, q2, b]}
PERMUTATIONS: {EVENT: [[t1, t2]], t1: [[q1, q2]], t2: [[q1, q2]]}
"""


@pytest.fixture
def tops() -> EventInfo:
    return parse_event_file(yaml.safe_load(EVENT), where="event.yaml")


def batch_of(predictions: Mapping[str, Array], mask: Array) -> EventBatch:
    size = len(mask)
    streams = {"Jets": PaddedStream({"pt": np.ones(mask.shape, np.float32)}, mask)}
    arrays = {"Met": np.ones((size, 1), np.float32), "Met.mask": np.arange(size) % 2 == 0}
    truth = {f"target/assignment/{name}": np.asarray(v) for name, v in TRUTH.items()}
    return EventBatch(
        make_ids(0, range(size)),
        streams,
        {**arrays, **truth},
        sources=("events.h5",),
        predictions=dict(predictions),
    )


def test_events_come_batch_by_batch_and_those_cut_away_do_not_count(
    tops: EventInfo, tmp_path: Path
) -> None:
    mask = np.arange(9) < OBJECTS[:, None]
    batch = batch_of({f"a/{n}": np.asarray(v) for n, v in PREDICTED.items()}, mask)
    assert count_objects(batch, ["Jets"], ["Met"]).tolist() == [7, 7, 7, 8, 10, 6]
    writer = PurityTableWriter(tops, lines=1)
    with writer:
        writer.open(tmp_path / "more" / "table.json", Contract())
        keep = np.array([True, True, False, True, True, True])
        kept = batch.with_arrays({SELECTED: keep})
        writer.write(kept)
        writer.write(batch_of(batch.predictions, mask))
    document = json.loads((tmp_path / "more" / "table.json").read_text())
    assert list(document[""]) == ["== 6", ">= 7", "Full"]
    assert document[""]["Full"]["2t/event_proportion"][0] == pytest.approx(8 / 11)
    assert document[""]["Full"]["0t/t_purity"] == [None, None]


@pytest.mark.parametrize("only_inputs", [False, True])
@pytest.mark.parametrize(("order", "slots"), [("-pt", 6), ("-pt", 3), (None, 3), (None, None)])
def test_truth_is_judged_in_the_order_and_slots_of_the_model(
    tops: EventInfo, order: str | None, slots: int | None, *, only_inputs: bool
) -> None:
    rng = np.random.default_rng(7)
    places = np.stack([rng.permutation(6) for _ in range(50)])
    truth = {"t1": places[:, :3], "t2": places[:, 3:]}
    jets = tops.streams["Jets"].model_copy(update={"order": order})
    event = tops.model_copy(update={"streams": {"Jets": jets}})
    contract = compile_contract(event)
    if slots is None:
        slots = 6  # any number: as many as the file has
    else:
        contract = contract.resolve(slots={"Jets": slots})
    if only_inputs:
        contract = contract.inputs()
    pt = np.stack([rng.permutation(6) for _ in range(50)]).astype(np.float32)
    rank = np.argsort(np.argsort(-pt, axis=1), axis=1) if order else np.tile(np.arange(6), (50, 1))
    moved = {name: np.take_along_axis(rank, each, 1) for name, each in truth.items()}
    whole = {n: np.all(each < slots, axis=1, keepdims=True) for n, each in moved.items()}
    perfect = {f"a/{n}": np.where(whole[n], each, -1) for n, each in moved.items()}
    mask = np.ones((50, 6), bool)
    batch = EventBatch(
        make_ids(0, range(50)),
        {"Jets": PaddedStream({"pt": pt}, mask)},
        {
            "Met": np.ones((50, 1), np.float32),
            **{f"target/assignment/{name}": each for name, each in truth.items()},
        },
        sources=("events.h5",),
        predictions=perfect,
    )
    writer = PurityTableWriter(event, lines=1)
    writer.open(Path(), contract)
    writer.write(batch)
    writer.close()
    full = writer.tables[""]["Full"]
    there = np.hstack([whole["t1"], whole["t2"]]).sum(axis=1)
    assert there.sum() > 0
    assert next(iter(writer.tables[""])) == f"== {slots + 1}"
    for number in range(3):
        share = (there == number).mean()
        assert full[f"{number}t/event_proportion"].value == pytest.approx(share)
        assert not share or full[f"{number}t/event_purity"].value == 1
    assert full["*t/t_purity"].value == 1


def test_an_unknown_error_is_not_printed() -> None:
    assert _as_text(Estimate(1.0, math.nan)) == "1.000"
    assert _as_text(Estimate(0.5, 0.25)) == "0.500 ± 0.250"
    assert _as_text(Estimate(math.nan, math.nan)) == ""


def test_what_cannot_be_judged_is_said(tops: EventInfo) -> None:
    mask = np.arange(9) < OBJECTS[:, None]
    right = {f"a/{n}": np.asarray(v) for n, v in PREDICTED.items()}
    writer = PurityTableWriter(tops, head="b")
    with pytest.raises(ConfigurationError, match="no head 'b' that assigns; it has a"):
        writer.write(batch_of(right, mask))
    both = {**right, **{name.replace("a/", "b/"): value for name, value in right.items()}}
    writer = PurityTableWriter(tops)
    with pytest.raises(ConfigurationError, match="several heads assign, a, b"):
        writer.write(batch_of(both, mask))
    with pytest.raises(ConfigurationError, match="no head of the model assigns t1, t2"):
        writer.write(batch_of({"c/probabilities": np.zeros(6)}, mask))
    known = batch_of(right, mask)
    without = {n: a for n, a in known.arrays.items() if not n.startswith("target/")}
    blind = replace(known, arrays=without)
    with pytest.raises(ConfigurationError, match=r"events.h5: no target/assignment/t1"):
        writer.write(blind)
    with pytest.raises(ConfigurationError, match="no event passes"):
        writer.close()
    with pytest.raises(ConfigurationError, match="predicted: no 't2'; there are t1"):
        purity_table({"t1": right["a/t1"]}, {}, OBJECTS, event_group=TOPS, product_groups={})


def test_the_command_prints_spanets_table(tmp_path: Path, write_file: WriteFile) -> None:
    rng = np.random.default_rng(1)
    mask = np.arange(9) < rng.integers(6, 10, 40)[:, None]
    places = np.stack([rng.permutation(6) for _ in range(40)])
    content = {
        "INPUTS/Jets/MASK": mask,
        "INPUTS/Jets/pt": (20 + 50 * rng.random(mask.shape) * mask).astype(np.float32),
        "INPUTS/Met/met": rng.random(40).astype(np.float32),
    }
    for particle, start in (("t1", 0), ("t2", 3)):
        for number, product in enumerate(("q1", "q2", "b")):
            content[f"TARGETS/{particle}/{product}"] = places[:, start + number]
    data = write_file(content)
    options = {
        "hidden_dim": 8,
        "initial_embedding_dim": 4,
        "num_encoder_layers": 1,
        "num_branch_embedding_layers": 0,
        "num_branch_encoder_layers": 0,
        "num_attention_heads": 2,
    }
    torch.manual_seed(2)
    topology = Topology(
        inputs=(
            SpanetInput(name="Jets", kind="sequential", features=1),
            SpanetInput(name="Met", kind="global", features=1),
        ),
        particles=tuple(
            Particle(name=n, products=("q1", "q2", "b"), group=((0, 1, 2), (1, 0, 2)))
            for n in ("t1", "t2")
        ),
        permutations=SWAP,
    )
    network = SpanetNetwork(SpanetOptions.model_validate(options), topology)
    folder = tmp_path / "spanet"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "options.json").write_text(json.dumps(options))
    (folder / "event.yaml").write_text(EVENT)
    torch.save({"state_dict": network.state_dict()}, folder / "checkpoints" / "last.ckpt")
    from hepset_spanet.checkpoint import import_spanet

    import_spanet(folder, tmp_path / "run")
    arguments = [str(tmp_path / "run"), data, "-l", "3", "-o", str(tmp_path / "table.json")]
    done = CliRunner().invoke(spanet_test, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "event purity" in done.output
    heading = next(line for line in done.output.splitlines() if "objects" in line)
    assert all(name in heading for name in ("share of events", "event purity", "t purity"))
    assert "nan" not in done.output
    assert "the training data set is not available" in done.output
    assert "2t" in done.output
    assert "40 of 40 events" in done.output
    table = json.loads((tmp_path / "table.json").read_text())[""]
    assert list(table) == ["== 7", "== 8", "== 9", ">= 10", "Full"]
    assert table["Full"]["2t/event_proportion"][0] == 1
