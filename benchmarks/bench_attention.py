"""Benchmark 8: what padding costs in attention, and what leaving it out gives back.

Two pre-norm layers of width 128 with 8 heads, one training step and one inference of a batch of
events whose number of objects follows the physics: 18 slots (7.5 real on average), 50 (24) and 128
(48). ``trimmed`` cuts the batch at its longest event, ``packed`` is what the encoder does on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Cell, Floor, Options, Report, cost_table, interleave
from hepset.nn.attention import TransformerEncoder

CASES = {18: 7.5, 50: 24.0, 128: 48.0}
CONTENDERS = ("padded", "trimmed", "packed")


def make_events(batch: int, slots: int, mean: float, width: int) -> tuple[Tensor, Tensor]:
    """Objects and a mask with a spread of lengths like that of real events."""
    generator = torch.Generator().manual_seed(slots)
    spread = torch.randn(batch, generator=generator) * mean**0.5 * (1 if slots < 40 else 2.5)
    lengths = (mean + spread).round().clamp(1, slots)
    mask = torch.arange(slots) < lengths[:, None]
    return torch.randn(batch, slots, width, generator=generator), mask


def encode(encoder: TransformerEncoder, contender: str, mask: Tensor, x: Tensor) -> Tensor:
    """Encode a batch in one of the ways of `CONTENDERS`."""
    encoder.skip_padding = contender == "packed"
    slots = mask.shape[1]
    if contender == "trimmed":
        longest = int(mask.sum(1).max())
        mask, x = mask[:, :longest], x[:, :longest]
    out = encoder(x, mask).objects
    return functional.pad(out, (0, 0, 0, slots - mask.shape[1]))


def step(encoder: TransformerEncoder, mode: str, contender: str, mask: Tensor, x: Tensor) -> None:
    """Infer once, or train one step."""
    with torch.set_grad_enabled(mode == "train"):
        out = encode(encoder, contender, mask, x)
    if mode == "train":
        encoder.zero_grad()
        out.square().mean().backward()


def run(options: Options) -> Iterator[Report]:
    torch.manual_seed(0)
    encoder = TransformerEncoder(128, 2, 8)
    report = Report(8, "attention over padded events")
    worst = 0.0
    for slots, mean in CASES.items():
        batch = max(options.events(256) * 18 // slots, 32)
        x, mask = make_events(batch, slots, mean, 128)
        difference: dict[str, Cell] = {}
        with torch.no_grad():
            reference = encode(encoder, "padded", mask, x)
            for name in CONTENDERS:
                found = encode(encoder, name, mask, x)
                largest = float((found - reference)[mask].abs().max())
                difference[name], worst = largest, max(worst, largest)
        for mode in ("train", "infer"):
            tasks = {name: partial(step, encoder, mode, name, mask, x) for name in CONTENDERS}
            costs = interleave(tasks, options.repeats, warm_up=True)
            title = f"{slots} slots, {float(mask.sum()) / batch:.1f} real, {mode}"
            report.tables.append(
                cost_table(
                    title,
                    {name: cost.per(batch) for name, cost in costs.items()},
                    "padded",
                    more={"difference": difference},
                )
            )
            report.floors.append(
                Floor(
                    f"{slots} slots, {mode}: packed / padded, CPU",
                    costs["packed"].over(costs["padded"]).cpu,
                    1.0,
                    at_least=False,
                )
            )
    report.floors.append(Floor("largest difference on real slots", worst, 1e-4, at_least=False))
    yield report
