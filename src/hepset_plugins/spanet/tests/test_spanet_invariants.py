"""What may not change an assignment, on the public example files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.batch import EventBatch
from hepset.dialects import load_event
from hepset.interfaces.head import LossTerm
from hepset.model import Model, build_model
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.testing.batches import make_statistics, resolved
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig

DATA = Path(__file__).parents[5] / "shared/data/spanet"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public files are not here")

EVENTS = 16
ALIKE = {
    "full_hadronic_ttbar": [(("t1", "q1"), ("t1", "q2")), (("t2", "q1"), ("t2", "q2"))],
    "semi_leptonic_ttH": [(("ht", "q1"), ("ht", "q2")), (("h", "b1"), ("h", "b2"))],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "separate": {"likelihood": "separate", "particle_queries": True, "selection": "greedy"},
    "limited": {"max_tuples": 60},
}
Array = NDArray[Any]
CASES = pytest.mark.parametrize(
    ("file", "kind"), [(file, kind) for file in ALIKE for kind in OPTIONS]
)


@cache
def events(file: str) -> tuple[EventInfo, EventBatch]:
    config = SpanetReaderConfig(files=[str(DATA / f"{file}.h5")], chunk_size=EVENTS)
    reader = SpanetReader(config, load_event(DATA / f"{file}.yaml"))
    return reader.event_info(), next(iter(reader))


@cache
def model_of(file: str, kind: str) -> Model:
    event, batch = events(file)
    head = {"name": "assignment", "hidden": 8, **OPTIONS[kind]}
    has_momentum = any(stream.momentum for stream in event.streams.values())
    config = ModelConfig.model_validate(
        {
            "backbone": {
                "name": "transformer",
                "width": 16,
                "depth": 1,
                "attention_heads": 2,
                "pair_bias": has_momentum,
            },
            "heads": {"assignment": head},
        }
    )
    plain = compile_contract(event)
    wanted = [name for name in plain.tensors if not name.startswith("target/")]
    wanted += [each.tensor for each in event.assignments()]
    contract = resolved(plain.keep(set(wanted)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = build_model(config, event, contract, make_statistics(contract, batch))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def tensors_of(file: str) -> dict[str, Tensor]:
    batch = events(file)[1]
    return {name: torch.from_numpy(np.array(batch[name])) for name in batch.names()}


def run(
    model: Model, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, LossTerm]]:
    head = model.head("assignment")
    with torch.no_grad():
        outputs = model(tensors)["assignment"]
        return head.decode(outputs), head.loss(outputs, tensors)


def require_same(
    found: tuple[dict[str, Tensor], dict[str, LossTerm]],
    expected: tuple[dict[str, Tensor], dict[str, LossTerm]],
    particles: list[str],
) -> None:
    """Numbers agree to 1e-5; the particles' objects are compared by the caller."""
    for name, value in expected[0].items():
        if name not in particles:
            torch.testing.assert_close(found[0][name], value, atol=1e-5, rtol=1e-5, msg=name)
    for name, term in expected[1].items():
        assert torch.equal(found[1][name].valid, term.valid), name
        for mine, true in zip(
            found[1][name].value[term.valid], term.value[term.valid], strict=True
        ):
            assert float(mine) == pytest.approx(float(true), abs=1e-5, rel=1e-5), name


def sets_of(file: str, decided: Mapping[str, Tensor], particles: list[str]) -> list[list[Any]]:
    """Per event and particle its objects, interchangeable products in ascending order."""
    event = events(file)[0]
    products = {each.particle: list(each.products) for each in event.assignments()}
    found = []
    for number in range(EVENTS):
        row = []
        for particle in particles:
            place = dict(zip(products[particle], decided[particle][number].tolist(), strict=True))
            for (owner, a), (_, b) in ALIKE[file]:
                if owner == particle:
                    place[a], place[b] = sorted((place[a], place[b]))
            row.append(tuple(place.values()))
        found.append(row)
    return found


def names_of(file: str) -> list[str]:
    return [each.particle for each in events(file)[0].assignments()]


@CASES
def test_the_order_of_objects_changes_nothing(file: str, kind: str) -> None:
    model, tensors, particles = model_of(file, kind), tensors_of(file), names_of(file)
    (stream,) = events(file)[0].streams
    rng = np.random.default_rng(3)
    slots = tensors[stream].shape[1]
    order = torch.from_numpy(np.argsort(rng.random((EVENTS, slots)), 1))
    new = order.argsort(1)
    moved = dict(tensors)
    moved[stream] = tensors[stream].gather(
        1, order[..., None].expand(-1, -1, tensors[stream].shape[2])
    )
    moved[f"{stream}.mask"] = tensors[f"{stream}.mask"].gather(1, order)
    for particle in particles:
        name = f"target/assignment/{particle}"
        old = tensors[name]
        moved[name] = torch.where(old >= 0, new.gather(1, old.clamp(min=0)), -1)
    expected, found = run(model, tensors), run(model, moved)
    require_same(found, expected, particles)
    back = {
        particle: torch.where(
            found[0][particle] >= 0, order.gather(1, found[0][particle].clamp(min=0)), -1
        )
        for particle in particles
    }
    assert sets_of(file, back, particles) == sets_of(file, expected[0], particles)


@CASES
def test_padding_changes_nothing(file: str, kind: str) -> None:
    model, tensors, particles = model_of(file, kind), tensors_of(file), names_of(file)
    (stream,) = events(file)[0].streams
    padded = dict(tensors)
    # What stands in padded slots must not matter either.
    padded[stream] = torch.nn.functional.pad(tensors[stream], (0, 0, 0, 4), value=7.0)
    padded[f"{stream}.mask"] = torch.nn.functional.pad(tensors[f"{stream}.mask"], (0, 4))
    expected, found = run(model, tensors), run(model, padded)
    assert padded[stream].shape[1] == tensors[stream].shape[1] + 4
    require_same(found, expected, particles)
    for particle in particles:
        assert torch.equal(found[0][particle], expected[0][particle])


@CASES
def test_exchanging_alike_targets_changes_no_loss(file: str, kind: str) -> None:
    model, tensors, particles = model_of(file, kind), tensors_of(file), names_of(file)
    products = {each.particle: list(each.products) for each in events(file)[0].assignments()}
    expected = run(model, tensors)
    swapped = dict(tensors)
    for (owner, a), (_, b) in ALIKE[file]:
        columns = list(range(len(products[owner])))
        i, j = products[owner].index(a), products[owner].index(b)
        columns[i], columns[j] = j, i
        name = f"target/assignment/{owner}"
        swapped[name] = swapped[name][:, columns]
    if file == "full_hadronic_ttbar":
        first, second = "target/assignment/t1", "target/assignment/t2"
        swapped[first], swapped[second] = swapped[second], swapped[first]
    assert any(not torch.equal(swapped[name], tensors[name]) for name in tensors)
    require_same(run(model, swapped), expected, particles)


@CASES
def test_exchanging_what_is_not_alike_changes_the_loss(file: str, kind: str) -> None:
    """So that the test above would notice if nothing depended on the targets."""
    model, tensors, particles = model_of(file, kind), tensors_of(file), names_of(file)
    name = f"target/assignment/{particles[1]}"
    wrong = {**tensors, name: tensors[name].roll(1, 1)}
    expected, found = run(model, tensors)[1]["assignment"], run(model, wrong)[1]["assignment"]
    assert float((found.value - expected.value).abs().max()) > 1e-3


@CASES
def test_no_object_is_used_twice_and_none_is_padding(file: str, kind: str) -> None:
    model, tensors, particles = model_of(file, kind), tensors_of(file), names_of(file)
    (stream,) = events(file)[0].streams
    few = dict(tensors)
    # From no object to all of them.
    number = torch.arange(EVENTS)[:, None] % (tensors[stream].shape[1] + 1)
    few[f"{stream}.mask"] = tensors[f"{stream}.mask"] & (
        torch.arange(tensors[stream].shape[1]) < number
    )
    for given in (tensors, few):
        with torch.no_grad():
            decided = model.decode(model(_inputs(given)))
        chosen = [decided[f"assignment/{particle}"] for particle in particles]
        for row, mask in zip(torch.cat(chosen, 1).tolist(), given[f"{stream}.mask"], strict=True):
            used = [place for place in row if place >= 0]
            assert len(used) == len(set(used))
            assert all(bool(mask[place]) for place in used)
        for each in chosen:
            # All products of a particle, or none.
            assert torch.equal((each >= 0).all(1), (each >= 0).any(1))


def _inputs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith("target/")}
