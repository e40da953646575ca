"""Benchmark 8: what padding costs in attention, and what trimming, bucketing and packing give back.

    python benchmarks/bench_attention.py [--repeats 3] [--events 256]

Two pre-norm layers of width 128 with 8 heads, one training step and one inference of a batch of
events whose number of objects follows the physics: 18 slots (7.5 real on average), 50 (24) and 128
(48). The contenders take turns in shuffled order; the least CPU time and the least wall time of
each are reported as ratios to plain padding.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

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


def measure(
    contenders: dict[str, Callable[[], None]], repeats: int
) -> dict[str, tuple[float, float]]:
    """Least CPU and wall seconds of each contender, taking turns in shuffled order."""
    order = random.Random(0)
    best = dict.fromkeys(contenders, (float("inf"), float("inf")))
    for turn in range(repeats + 1):
        names = list(contenders)
        order.shuffle(names)
        for name in names:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn:  # the first turn warms up
                best[name] = (min(best[name][0], cpu), min(best[name][1], wall))
    return best


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--events", type=int, default=256, help="events of a batch at 18 slots")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder = TransformerEncoder(128, 2, 8)

    def encode(mask: Tensor, x: Tensor) -> tuple[Tensor]:
        return (encoder(x, mask).objects,)

    def run(buckets: int, mask: Tensor, x: Tensor) -> Tensor:
        if buckets == PACKED:
            return encode_packed(encoder, mask, x)
        return run_in_buckets(encode, mask, [x], buckets=buckets)[0]

    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.repeats} repeats")
    header = f"{'slots':>5} {'real':>5} {'mode':>6} {'contender':>11} {'CPU us/event':>13}"
    print(f"{header} {'CPU ratio':>10} {'wall ratio':>10} {'largest difference':>19}")
    for slots, mean in CASES.items():
        batch = max(options.events * 18 // slots, 32)
        x, mask = make_events(batch, slots, mean, 128)
        with torch.no_grad():
            reference = run(0, mask, x)
        for mode in ("train", "infer"):

            def step(buckets: int, mode: str = mode, x: Tensor = x, mask: Tensor = mask) -> None:
                with torch.set_grad_enabled(mode == "train"):
                    out = run(buckets, mask, x)
                if mode == "train":
                    encoder.zero_grad()
                    out.square().mean().backward()

            contenders = {
                name: lambda buckets=buckets, step=step: step(buckets)
                for name, buckets in CONTENDERS.items()
            }
            best = measure(contenders, options.repeats)
            base = best["padded"]
            for name, (cpu, wall) in best.items():
                with torch.no_grad():
                    out = run(CONTENDERS[name], mask, x)
                difference = float((out - reference).abs().max())
                print(
                    f"{slots:5d} {float(mask.sum()) / batch:5.1f} {mode:>6} {name:>11} "
                    f"{1e6 * cpu / batch:13.1f} {cpu / base[0]:10.2f} {wall / base[1]:10.2f} "
                    f"{difference:19.1e}"
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of all contenders together: {peak:.0f} MB")


if __name__ == "__main__":
    main()
