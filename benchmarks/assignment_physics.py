"""What the head ``assignment`` gains on top pairs, and what each of its ingredients brings.

    python -m benchmarks.assignment_physics tail --seeds 0 1 2    # first 9500 events, last 500
    python -m benchmarks.assignment_physics folds                 # five-fold cross-prediction
    python -m benchmarks.assignment_physics fold0 --variants default separate no-masses --seeds 0 1
    python -m benchmarks.assignment_physics dataset --path runs/ttbar/dataset --variants default
    python -m benchmarks.assignment_physics show

Every training is kept in ``--output`` and made once; ``show`` prints the tables of all there are.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import hepset
from hepset.interfaces.head import Evaluation
from hepset.model import Model, build_model
from hepset.schema.config import AugmentConfig, ModelConfig, TrainConfig
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.testing.batches import make_statistics
from hepset.training.augment import Augmentation
from hepset.training.losses import WeightedLoss
from hepset.training.schedule import create_optimizer, learning_rate_factor
from hepset_assignment.evaluation.baseline import simple_assignment
from hepset_assignment.topology import make_topology

Array = NDArray[Any]

EXAMPLE: Final = Path(os.environ.get("HEPSET_SPANET_DATA", "../shared/data/spanet"))
SLOTS: Final = 10
"""Jets of the example file."""
TAIL: Final = 9500
FOLDS: Final = ("fold0", "fold1", "fold2", "fold3", "fold4")
BOOTSTRAPS: Final = 1000


@dataclass(frozen=True)
class Recipe:
    """Model and training.

    Attributes:
        head: Options of the head.
        backbone: Options of the transformer.
        epochs: Passes over the training events.
        batch_size: Events per step.
        learning_rate: Peak.
        augment: Whether to rotate and reflect.
    """

    head: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=lambda: {"pair_bias": True})
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 2e-3
    augment: bool = True


DEFAULT: Final = Recipe()
VARIANTS: Final = {
    "default": DEFAULT,
    "separate": replace(DEFAULT, head={"likelihood": "separate"}),
    "no-masses": replace(DEFAULT, head={"mass_features": False}),
    "no-pair-bias": replace(DEFAULT, backbone={"pair_bias": False}),
    "no-masses-no-pair-bias": replace(
        DEFAULT, head={"mass_features": False}, backbone={"pair_bias": False}
    ),
    "complete-only": replace(DEFAULT, head={"partial_products": False}),
    "no-augmentation": replace(DEFAULT, augment=False),
    "no-detection": replace(DEFAULT, head={"detection_loss_weight": 0.0}),
}
"""The default, and what differs from it in one thing."""


@dataclass(frozen=True)
class Sample:
    """Events in memory.

    Attributes:
        event: What they are.
        contract: Their tensors.
        statistics: For the input transform.
        tensors: By contract name.
        stream: The jets.
    """

    event: EventInfo
    contract: Contract
    statistics: Statistics
    tensors: dict[str, torch.Tensor]
    stream: str

    def __len__(self) -> int:
        return len(self.tensors[self.stream])


def model_config(recipe: Recipe) -> ModelConfig:
    """Return the part ``model`` of a configuration."""
    return ModelConfig(
        backbone={"name": "transformer", **recipe.backbone},
        heads={"assignment": {"name": "assignment", **recipe.head}},
    )


def example() -> Sample:
    """Read SPANet's all-hadronic example file."""
    event = hepset.load_event(EXAMPLE / "full_hadronic_ttbar.yaml")
    batches = list(
        hepset.open_reader(
            "spanet-hdf5", files=[str(EXAMPLE / "full_hadronic_ttbar.h5")], event=event
        )
    )
    stream = next(iter(event.streams))
    contract = compile_contract(event).resolve(slots={stream: SLOTS})
    tensors = {}
    for name, spec in contract.tensors.items():
        parts = [batch.get(name) for batch in batches]
        known = [np.asarray(part, spec.dtype) for part in parts if part is not None]
        if len(known) == len(parts):
            tensors[name] = torch.from_numpy(np.concatenate(known))
    return Sample(event, contract, make_statistics(contract, batches[0]), tensors, stream)


def from_dataset(path: Path, split: str) -> Sample:
    """Read a split of a data set of all-hadronic top pairs."""
    dataset = hepset.open_dataset(path)
    stream = next(iter(dataset.event.streams))
    wanted = [*dataset.contract.inputs().tensors, *dataset.layouts]
    names = [n for n in dict.fromkeys(wanted) if not n.startswith(("extra/", "weight"))]
    tensors = {n: torch.from_numpy(a) for n, a in dataset.split(split).read(names).items()}
    return Sample(dataset.event, dataset.contract, dataset.statistics, tensors, stream)


def train(sample: Sample, rows: torch.Tensor, recipe: Recipe, seed: int) -> tuple[Model, float]:
    """Train a model as ``hepset run`` does; with it the CPU seconds that it took."""
    torch.manual_seed(seed)
    model = build_model(model_config(recipe), sample.event, sample.contract, sample.statistics)
    config = TrainConfig(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        augment=AugmentConfig(rotate_phi=recipe.augment, flip_eta=recipe.augment),
    )
    optimizer = create_optimizer(model, config, fused=True)
    loss_of = WeightedLoss(model, {}, config.negative_weights)
    turn = None
    if recipe.augment:
        turn = Augmentation(sample.event, sample.contract, config.augment, list(sample.tensors))
    steps = len(rows) // config.batch_size
    total, warmup = config.epochs * steps, config.warmup_epochs * steps
    start, step = time.process_time(), 0
    model.train()
    for _ in range(config.epochs):
        order = rows[torch.randperm(len(rows))]
        for part in order[: steps * config.batch_size].split(config.batch_size):
            batch = {name: tensor[part] for name, tensor in sample.tensors.items()}
            if turn is not None:
                batch = turn(batch)
            factor = learning_rate_factor(
                step, warmup=warmup, total=total, schedule=config.schedule
            )
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            loss, _ = loss_of(model.losses(batch, model(batch)), batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
    return model, time.process_time() - start


def predict(model: Model, sample: Sample, rows: torch.Tensor) -> dict[str, Array]:
    """Assign jets to the tops of some events."""
    wanted = [name for name in sample.contract.inputs().tensors if name in sample.tensors]
    found = model.predict({name: sample.tensors[name][rows].numpy() for name in wanted})
    return {name.removeprefix("assignment/"): array for name, array in found.items()}


def chi_square(sample: Sample, rows: torch.Tensor) -> dict[str, Array]:
    """Assign by the mass χ²."""
    topology = make_topology(sample.event, queries=False, where="benchmark")
    evaluation = Evaluation(
        event=sample.event,
        contract=sample.contract,
        predictions={},
        targets={n: t[rows].numpy() for n, t in sample.tensors.items() if n.startswith("target/")},
        inputs={n: sample.tensors[n][rows].numpy() for n in (sample.stream, _mask(sample))},
        weight=np.ones(len(rows)),
    )
    return dict(simple_assignment(topology.processes[0], topology, evaluation).predictions)


def judge(found: dict[str, Array], sample: Sample, rows: torch.Tensor) -> dict[str, Array]:
    """Count the reconstructable tops of each event, those that are right, and its jets.

    Written anew, so that it checks the report's own numbers.
    """
    names = [n for n in sample.tensors if n.startswith("target/assignment/")]
    roles = next(iter(next(iter(sample.event.processes.values())).particles.values()))
    place = {role: number for number, role in enumerate(roles)}
    light, bottom = [place["q1"], place["q2"]], place["b"]

    def key(index: Array) -> Array:
        pair = np.sort(index[:, light], 1)
        return np.stack([pair[:, 0], pair[:, 1], index[:, bottom]], 1)

    true = [sample.tensors[name][rows].numpy() for name in names]
    there = np.stack([(index >= 0).all(1) for index in true], 1)
    guess = [key(found[name.removeprefix("target/assignment/")]) for name in names]
    same = np.stack(
        [np.stack([(g == key(t)).all(1) for t in true], 1) for g in guess], 1
    )  # event, guess, truth
    right = np.maximum(
        (same[:, 0, 0] & there[:, 0]) * 1 + (same[:, 1, 1] & there[:, 1]),
        (same[:, 1, 0] & there[:, 0]) * 1 + (same[:, 0, 1] & there[:, 1]),
    )
    return {
        "rows": rows.numpy(),
        "there": there.sum(1),
        "right": right,
        "jets": sample.tensors[_mask(sample)][rows].sum(1).numpy(),
        **{n: found[n] for n in ("probability", "certified") if n in found},
    }


def _mask(sample: Sample) -> str:
    return f"{sample.stream}.mask"


def measure(
    where: str, variant: str, seed: int, sample: Sample, rows: tuple[torch.Tensor, torch.Tensor],
    options: argparse.Namespace, test: Sample | None = None,
) -> None:  # fmt: skip
    """Train and judge once, unless that has been done."""
    path = options.output / f"{where}-{variant}-{seed}.npz"
    if path.is_file():
        return
    recipe = VARIANTS[variant]
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs)
    model, seconds = train(sample, rows[0], recipe, seed)
    judged = judge(predict(model, test or sample, rows[1]), test or sample, rows[1])
    _keep(path, seconds, judged)
    torch.save(model.state_dict(), path.with_suffix(".pt"))
    print(f"{path.stem}: {line(judged)}, {seconds:.0f} CPU s", flush=True)
    if variant == "default":
        # The same scores, decided greedily.
        head = model.head("assignment")
        head.config = head.config.model_copy(update={"selection": "greedy"})
        other = judge(predict(model, test or sample, rows[1]), test or sample, rows[1])
        _keep(options.output / f"{where}-default-greedily-{seed}.npz", seconds, other)


def baseline(where: str, sample: Sample, rows: torch.Tensor, options: argparse.Namespace) -> None:
    """Judge the mass χ²."""
    path = options.output / f"{where}-chi2-0.npz"
    if not path.is_file():
        _keep(path, 0.0, judge(chi_square(sample, rows), sample, rows))


def _keep(path: Path, seconds: float, judged: dict[str, Array]) -> None:
    everything: dict[str, Any] = {"cpu": seconds, **judged}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **everything)


def purity(judged: dict[str, Array], *, both: bool, most: int = 99) -> tuple[Array, Array]:
    """Which events count, and which of them are right."""
    there = judged["there"]
    counted = ((there == 2) if both else (there > 0)) & (judged["jets"] <= most)
    return counted, counted & (judged["right"] == there)


def line(judged: dict[str, Array]) -> str:
    """Event purities with binomial errors."""
    parts = []
    for label, both, most in (("*t", False, 99), ("2t", True, 99), ("*t ≤7", False, 7),
                              ("2t ≤7", True, 7)):  # fmt: skip
        counted, right = purity(judged, both=both, most=most)
        value = right.sum() / max(1, counted.sum())
        error = np.sqrt(value * (1 - value) / max(1, counted.sum()))
        parts.append(f"{label} {value:.3f} ± {error:.3f}")
    return ", ".join(parts)


def show(folder: Path) -> None:
    """Print every result, and differences to the default on the same events."""
    groups: dict[str, dict[str, dict[str, Array]]] = {}
    for path in sorted(folder.glob("*.npz")):
        where, _, rest = path.stem.partition("-")
        with np.load(path) as file:
            groups.setdefault(where, {})[rest] = dict(file)
    folds = sorted(name for name in groups if name.startswith("fold"))
    if len(folds) > 1:
        names = set.intersection(*(set(groups[name]) for name in folds))
        groups["folds"] = {
            name: {
                key: np.concatenate([np.atleast_1d(groups[fold][name][key]) for fold in folds])
                for key in groups[folds[0]][name]
            }
            for name in names
        }
    for where, results in groups.items():
        print(f"\n{where}")
        reference = results.get("default-0")
        for name, judged in sorted(results.items()):
            print(f"  {name:28s} {line(judged)}  CPU {np.sum(judged['cpu']):.0f} s")
            if reference is not None and name != "default-0":
                print(f"  {'':28s} default − this, paired: {paired(reference, judged)}")


def paired(first: dict[str, Array], second: dict[str, Array]) -> str:
    """Differences of purities on the same events, with errors by bootstrap over events."""
    order = [np.argsort(judged["rows"]) for judged in (first, second)]
    if not np.array_equal(first["rows"][order[0]], second["rows"][order[1]]):
        return "other events"
    generator = np.random.default_rng(1)
    parts = []
    for label, both, most in (("*t", False, 99), ("2t", True, 99), ("*t ≤7", False, 7),
                              ("2t ≤7", True, 7)):  # fmt: skip
        counted, right = purity(first, both=both, most=most)
        _, other = purity(second, both=both, most=most)
        difference = right[order[0]].astype(float) - other[order[1]]
        values = difference[counted[order[0]]]
        draws = generator.integers(0, len(values), (BOOTSTRAPS, len(values)), dtype=np.int32)
        parts.append(f"{label} {values.mean():+.3f} ± {values[draws].mean(1).std():.3f}")
    return ", ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.assignment_physics")
    parser.add_argument("what", choices=["tail", "folds", *FOLDS, "dataset", "show"])
    parser.add_argument("--variants", nargs="+", default=["default"], choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--path", type=Path, help="data set with splits train and test")
    parser.add_argument("--events", type=int, help="train on so many events of the data set")
    parser.add_argument("--output", type=Path, default=Path("build/assignment_physics"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "show":
        show(options.output)
        return 0
    if options.what == "dataset":
        training, test = (from_dataset(options.path, split) for split in ("train", "test"))
        most = min(options.events or len(training), len(training))
        rows = torch.arange(most), torch.arange(len(test))
        baseline("dataset", test, rows[1], options)
        for variant in options.variants:
            for seed in options.seeds:
                measure("dataset", variant, seed, training, rows, options, test)
        return 0
    sample = example()
    every = torch.arange(len(sample))
    splits = {"tail": (every[:TAIL], every[TAIL:])}
    if options.what != "tail":
        folds = {
            name: (every[every % len(FOLDS) != n], every[every % len(FOLDS) == n])
            for n, name in enumerate(FOLDS)
        }
        splits = folds if options.what == "folds" else {options.what: folds[options.what]}
    for where, rows in splits.items():
        baseline(where, sample, rows[1], options)
        for variant in options.variants:
            for seed in options.seeds:
                measure(where, variant, seed, sample, rows, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
