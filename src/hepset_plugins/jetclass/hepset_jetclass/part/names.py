"""Names and layouts of the Particle Transformer's parameters in weaver's state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hepset.errors import ConfigurationError

__all__ = ["WeaverVersion", "WeaverWeights", "convert_head_layout", "read_weights"]

WeaverVersion = Literal["0.4", "0.5"]
"""Versions between which the meaning of the weights changed: up to 0.4.17, and from 0.5.0 on."""

_PREFIXES = ("module.", "mod.")
_OLD_PROJECTION = re.compile(r"\.attn\.in_proj_(weight|bias)$")


class WeaverWeights(NamedTuple):
    """The parameters of a network, under the names of weaver 0.5.

    Attributes:
        backbone: What `PartBackbone` loads.
        hidden: Weight and bias of the hidden layers after the class token.
        last: Weight and bias of the layer that gives the classes.
        version: The weaver that the weights are written for.
        options: Options of `PartConfig` that the shapes tell.
    """

    backbone: dict[str, Tensor]
    hidden: list[tuple[Tensor, Tensor]]
    last: tuple[Tensor, Tensor]
    version: WeaverVersion
    options: dict[str, Any]


def read_weights(
    state_dict: Mapping[str, Tensor], version: WeaverVersion | None = None, where: str = "weights"
) -> WeaverWeights:
    """Sort the parameters of one of weaver's Particle Transformers.

    Args:
        state_dict: weaver's state dict, with or without the prefixes of its wrappers.
        version: The weaver it was trained with; null = as the names of the projections say. They
            mislead where 0.5 has loaded and stored weights of 0.4.
        where: Name of the checkpoint, for messages.

    Raises:
        ConfigurationError: If this is another network, or its numbers are not finite.
    """
    named = dict(state_dict)
    for prefix in _PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    is_old = any(_OLD_PROJECTION.search(name) for name in named)
    broken = [name for name, value in named.items() if not torch.isfinite(value).all()]
    if broken:
        raise ConfigurationError(
            f"{where}: {len(broken)} of {len(named)} parameters hold NaN or infinities (first: "
            f"{broken[0]}): the training broke down; take the weights of an earlier epoch"
        )
    named = {_OLD_PROJECTION.sub(r".attn.in_proj.\1", name): v for name, v in named.items()}
    backbone = {name: value for name, value in named.items() if not name.startswith("fc.")}
    stated: WeaverVersion = version or ("0.4" if is_old else "0.5")
    options = _options(backbone, where)
    options["head_layout"] = "interleaved" if stated == "0.4" else "grouped"
    hidden, last = _classifier(named, where)
    return WeaverWeights(backbone, hidden, last, stated, options)


def convert_head_layout(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn weights written for weaver up to 0.4 into such that 0.5 gives the same numbers with.

    Every factor per head moves into the projection after the attention, whose channels change
    from ``head · size + channel`` to ``channel · heads + head``; the factors become 1.

    Args:
        state_dict: weaver's state dict, with any prefix and either naming.
    """
    found = {
        _OLD_PROJECTION.sub(r".attn.in_proj.\1", name): value for name, value in state_dict.items()
    }
    for name in [name for name in found if name.endswith(".c_attn")]:
        scale, block = found[name], name.removesuffix("c_attn")
        for part in ("weight", "bias"):
            key = f"{block}attn.out_proj.{part}"
            rows = torch.unflatten(found[key], 0, (len(scale), -1))
            scaled = rows * scale.reshape(-1, *[1] * (rows.dim() - 1))
            found[key] = scaled.transpose(0, 1).flatten(0, 1)
        found[name] = torch.ones_like(scale)
    return found


def _options(backbone: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """What the shapes say of the network."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in backbone:
            raise ConfigurationError(
                f"{where}: no {name!r}, so these are not the weights of a Particle Transformer of "
                f"weaver (version 1 of its blocks); found {', '.join(list(backbone)[:4])}, …"
            )
        return tuple(backbone[name].shape)

    def numbers(pattern: str) -> list[int]:
        found = {int(m[1]) for name in backbone if (m := re.match(pattern, name))}
        return sorted(found)

    shape("cls_token")
    linear = [n for n in numbers(r"embed\.embed\.(\d+)\.") if _ndim(backbone, f"embed.embed.{n}")]
    blocks = numbers(r"blocks\.(\d+)\.")
    class_blocks = numbers(r"cls_blocks\.(\d+)\.")
    first = "cls_blocks.0" if not blocks else "blocks.0"
    heads, width = shape(f"{first}.c_attn")[0], shape("cls_token")[-1]
    options: dict[str, Any] = {
        "embedding": [shape(f"embed.embed.{n}.weight")[0] for n in linear],
        "depth": len(blocks),
        "class_depth": len(class_blocks),
        "attention_heads": heads,
        "mlp_ratio": shape(f"{first}.fc1.weight")[0] // width,
        "pair_bias": any(name.startswith("pair_embed.") for name in backbone),
    }
    if options["pair_bias"]:
        pairs = shape("pair_embed.embed.0.weight")
        if pairs != (4,):
            raise ConfigurationError(
                f"{where}: {pairs[0]} features of a pair, expected ln kT, ln z, ln Δ and ln m²"
            )
        layers = [
            n for n in numbers(r"pair_embed\.embed\.(\d+)\.")
            if _ndim(backbone, f"pair_embed.embed.{n}")
        ]  # fmt: skip
        options["pair_embedding"] = [shape(f"pair_embed.embed.{n}.weight")[0] for n in layers[:-1]]
    return options


def _ndim(weights: Mapping[str, Tensor], layer: str) -> bool:
    """Whether a layer has a matrix, so that it is not a norm."""
    weight = weights.get(f"{layer}.weight")
    return weight is not None and weight.dim() > 1


def _classifier(
    named: Mapping[str, Tensor], where: str
) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    hidden = []
    number = 0
    while f"fc.{number}.0.weight" in named:
        hidden.append((named[f"fc.{number}.0.weight"], named[f"fc.{number}.0.bias"]))
        number += 1
    expected = {f"fc.{n}.0.{part}" for n in range(number) for part in ("weight", "bias")}
    expected |= {f"fc.{number}.weight", f"fc.{number}.bias"}
    found = {name for name in named if name.startswith("fc.")}
    if found != expected:
        raise ConfigurationError(
            f"{where}: the layers after the class token are {', '.join(sorted(found)) or 'missing'}"
            f", expected {', '.join(sorted(expected))}"
        )
    return hidden, (named[f"fc.{number}.weight"], named[f"fc.{number}.bias"])
