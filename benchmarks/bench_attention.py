"""Benchmark 8: what padding costs in attention, and what trimming, bucketing and packing give back.

Two pre-norm layers of width 128 with 8 heads, one training step and one inference of a batch of
events whose number of objects follows the physics: 18 slots (7.5 real on average), 50 (24) and 128
(48).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Cell, Floor, Options, Report, cost_table, interleave
from hepset.nn.attention import TransformerEncoder, attention_logit_bias
from hepset.nn.buckets import run_in_buckets

CASES = {18: 7.5, 50: 24.0, 128: 48.0}
PACKED = -1
CONTENDERS = {
    "padded": 0,
    "trimmed": 1,
    "bucketed 2": 2,
    "bucketed 4": 4,
    "bucketed 8": 8,
    "packed": PACKED,
}


def make_events(batch: int, slots: int, mean: float, width: int) -> tuple[Tensor, Tensor]:
    """Objects and a mask with a spread of lengths like that of real events."""
    generator = torch.Generator().manual_seed(slots)
    spread = torch.randn(batch, generator=generator) * mean**0.5 * (1 if slots < 40 else 2.5)
    lengths = (mean + spread).round().clamp(1, slots)
    mask = torch.arange(slots) < lengths[:, None]
    return torch.randn(batch, slots, width, generator=generator), mask


def encode_packed(encoder: TransformerEncoder, mask: Tensor, x: Tensor) -> Tensor:
    """The encoder with every linear on the real objects alone, and padded attention between."""
    batch, slots, width = x.shape
    kept = mask.flatten().nonzero()[:, 0]

    def unpack(tokens: Tensor) -> Tensor:
        empty = tokens.new_zeros(batch * slots, tokens.shape[-1])
        return empty.index_copy(0, kept, tokens).unflatten(0, (batch, slots))

    tokens = x.flatten(0, 1).index_select(0, kept)
    for layer in encoder.layers:
        attention = layer.attention
        normed = layer.attention_norm(tokens)
        padded = unpack(torch.cat([attention.query(normed), attention.key_value(normed)], -1))
        q, k, v = (
            part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for part in padded.chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=attention_logit_bias(mask)
        )
        attended = attended.transpose(1, 2).reshape(-1, width).index_select(0, kept)
        tokens = tokens + attention.out(attended)
        tokens = tokens + layer.feed_forward(layer.feed_forward_norm(tokens))
    return unpack(encoder.norm(tokens))


def run_mode(encoder: TransformerEncoder, buckets: int, mask: Tensor, x: Tensor) -> Tensor:
    """Encode a batch in one of the ways of `CONTENDERS`."""

    def encode(mask: Tensor, x: Tensor) -> tuple[Tensor]:
        return (encoder(x, mask).objects,)

    if buckets == PACKED:
        return encode_packed(encoder, mask, x)
    return run_in_buckets(encode, mask, [x], buckets=buckets)[0]


def step(encoder: TransformerEncoder, mode: str, buckets: int, mask: Tensor, x: Tensor) -> None:
    """Infer once, or train one step."""
    with torch.set_grad_enabled(mode == "train"):
        out = run_mode(encoder, buckets, mask, x)
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
            reference = run_mode(encoder, 0, mask, x)
            for name, buckets in CONTENDERS.items():
                found = run_mode(encoder, buckets, mask, x)
                largest = float((found - reference)[mask].abs().max())
                difference[name], worst = largest, max(worst, largest)
        for mode in ("train", "infer"):
            tasks = {
                name: partial(step, encoder, mode, buckets, mask, x)
                for name, buckets in CONTENDERS.items()
            }
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
                    f"{slots} slots, {mode}: bucketed 4 / padded, CPU",
                    costs["bucketed 4"].over(costs["padded"]).cpu,
                    1.0,
                    at_least=False,
                )
            )
    report.floors.append(Floor("largest difference on real slots", worst, 1e-4, at_least=False))
    yield report
