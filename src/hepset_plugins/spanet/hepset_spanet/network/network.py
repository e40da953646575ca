"""`SpanetNetwork`: the whole of SPANet 2.2, with the names of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset_spanet.network.branch import Branches, RegressionHeads, VectorHead
from hepset_spanet.network.embedding import InputEmbedding, Source
from hepset_spanet.network.encoder import StackedEncoder
from hepset_spanet.network.naming import Piece, pieces, rename, restore
from hepset_spanet.network.topology import RegressionKind, Topology
from hepset_spanet.options import SpanetOptions

__all__ = ["SpanetNetwork", "SpanetOutputs"]

TABLES = ("particle_index_tensor", "particle_weights_tensor", "jet_weights_tensor")
"""Constants of the balanced losses, which checkpoints hold beside the weights."""
CLASS_WEIGHTS = "classification_weights."


@dataclass
class SpanetOutputs:
    """What the network gives for a batch.

    Attributes:
        sequence: Central encoding of all inputs, ``(B, T, D)``.
        log_probabilities: Particle → log-probability of every ordered tuple of objects,
            ``(B, T, ..., T)`` with one axis per product; see `tuple_log_probability`.
        detections: Particle → logit that it can be found, ``(B,)``.
        vectors: ``EVENT``, ``<particle>/PARTICLE`` and ``<particle>/<product>`` → ``(B, D)``.
        regressions: SPANet's key → value in the target's unit, ``(B,)``.
        classifications: SPANet's key → logits, ``(B, C)``.
        extra: Central encoding of further tokens, ``(B, K, D)``; K = 0 without any.
    """

    sequence: Tensor
    log_probabilities: dict[str, Tensor] = field(default_factory=dict)
    detections: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    regressions: dict[str, Tensor] = field(default_factory=dict)
    classifications: dict[str, Tensor] = field(default_factory=dict)
    extra: Tensor = field(default_factory=lambda: torch.empty(0))


class _Regressions(nn.Module):
    """Regressions by SPANet's key, all computed at once."""

    def __init__(self, options: SpanetOptions, kinds: Mapping[str, RegressionKind]) -> None:
        super().__init__()
        self.keys = tuple(kinds)
        self.heads: RegressionHeads | None = None
        if kinds:
            self.heads = RegressionHeads(options, list(kinds.values()))

    def forward(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.heads is None:
            return {}
        found = self.heads(torch.stack([vectors[_source(key)] for key in self.keys]))
        return dict(zip(self.keys, found, strict=True))

    def std(self, key: str) -> Tensor:
        """Return the standard deviation of a target in the training data."""
        assert self.heads is not None
        return self.heads.std[self.keys.index(key)]

    def set_moments(self, key: str, mean: float, std: float) -> None:
        """Set mean and standard deviation of a target in the training data."""
        assert self.heads is not None
        with torch.no_grad():
            self.heads.mean[self.keys.index(key)] = mean
            self.heads.std[self.keys.index(key)] = std


class _Classifications(nn.Module):
    """Classifications by SPANet's key; those with equally many classes are computed at once."""

    def __init__(self, options: SpanetOptions, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.keys = tuple(classes)
        self.alike: list[list[str]] = [
            [key for key in classes if classes[key] == count]
            for count in dict.fromkeys(classes.values())
        ]
        self.heads = nn.ModuleList(
            VectorHead(options, len(keys), options.num_classification_layers, classes[keys[0]])
            for keys in self.alike
        )

    def forward(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for keys, head in zip(self.alike, self.heads, strict=True):
            logits = head(torch.stack([vectors[_source(key)] for key in keys]))
            found |= dict(zip(keys, logits.unbind(0), strict=True))
        return {key: found[key] for key in self.keys}


class SpanetNetwork(nn.Module):
    """Embedding, central encoder, a branch for every particle, and the heads on vectors.

    What has one structure is computed at once, with the parameters of all copies in one tensor:
    the branches of all particles, the encoders of all products, the regressions. The state dict
    has SPANet's own names and shapes all the same.

    Args:
        options: SPANet's options; only those of the architecture are used.
        topology: Inputs, particles and further outputs.
        tables: Constants of the balanced losses by their name in a checkpoint
            (``particle_index_tensor``, ``classification_weights.EVENT/signal``, …), so that the
            state dict is that of SPANet.

    Raises:
        ConfigurationError: If the options name what SPANet does not have, or a target belongs to a
            vector that there is not.
    """

    event_permutation_tensor: Tensor

    def __init__(
        self,
        options: SpanetOptions,
        topology: Topology,
        tables: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.topology = topology
        self._keep_tables(tables or {})
        self.embedding = InputEmbedding(options, topology)
        self.encoder = StackedEncoder(options, 1, 0, options.num_encoder_layers)
        self.branches: Branches | None = None
        if topology.particles:
            self.branches = Branches(options, topology.particles)
        self._check_targets()
        self.regression_decoder = _Regressions(options, topology.regressions)
        self.classification_decoder = _Classifications(options, topology.classifications)
        self._pieces: dict[str, list[Piece]] = pieces(self, self._groups())
        self.register_state_dict_post_hook(_save_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_names)  # type: ignore[no-untyped-call]

    def forward(
        self,
        sources: Mapping[str, Source],
        condition: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> SpanetOutputs:
        """Compute all outputs.

        Args:
            sources: Inputs by name, after logarithms and before normalisation.
            condition: ``(B, D)``, added to the embedding of every real object and global, and to
                the tokens. SPANet has no such thing.
            tokens: ``(B, K, D)``, further members of the sequence that cannot be assigned; they
                come back in ``extra``. SPANet has no such thing.
        """
        embedded = self.embedding(sources)
        x, rows = embedded.x, embedded.rows
        count = 0
        if tokens is not None:
            count = tokens.shape[1]
            x, rows = rows.append(x, tokens)
        if condition is not None:
            x = x + rows.spread(condition)
        x, events = self.encoder(x, rows)
        event = events[0] if condition is None else events[0] + condition
        sequence, extra = rows.padded(x)[0], torch.empty(0)
        if tokens is not None:
            length = sequence.shape[1] - count
            sequence, extra = sequence[:, :length], sequence[:, length:]
            x = rows.without_last(x, count)
        out = SpanetOutputs(sequence, vectors={"EVENT": event}, extra=extra)
        if self.branches is not None:
            found = self.branches(embedded._replace(x=x))
            for particle, *values in zip(self.topology.particles, *found, strict=True):
                name = particle.name
                out.log_probabilities[name], out.detections[name], vector, products = values
                out.vectors[f"{name}/PARTICLE"] = vector
                for product, product_vector in zip(particle.products, products, strict=False):
                    out.vectors[f"{name}/{product}"] = product_vector
        out.regressions = self.regression_decoder(out.vectors)
        out.classifications = self.classification_decoder(out.vectors)
        return out

    def tables(self) -> dict[str, list[float]]:
        """Return the constants of the balanced losses, by their name in a checkpoint."""
        return {
            name: value.tolist()
            for name, value in self.state_dict().items()
            if name in TABLES or name.startswith(CLASS_WEIGHTS)
        }

    def _groups(self) -> dict[str, Sequence[str]]:
        """Beginnings of our names, and of SPANet's for each copy."""
        branches = [f"branch_decoders.{i}." for i in range(len(self.topology.particles))]
        products = [
            (branch, number)
            for branch, particle in zip(branches, self.topology.particles, strict=True)
            for number in range(len(particle.products))
        ]
        regressions = [f"regression_decoder.networks.{key}." for key in self.topology.regressions]
        found: dict[str, Sequence[str]] = {
            "branches.": branches,
            "branches.encoders.": [f"{b}attention.encoders.{n}." for b, n in products],
            "branches.linear_layers.": [f"{b}attention.linear_layers.{n}." for b, n in products],
            "regression_decoder.heads.": regressions,
        }
        for number, branch in enumerate(branches):
            found[f"branches.weights.{number}."] = [f"{branch}attention."]
        for number, keys in enumerate(self.classification_decoder.alike):
            found[f"classification_decoder.heads.{number}."] = [
                f"classification_decoder.networks.{key}." for key in keys
            ]
        return found

    def _keep_tables(self, tables: Mapping[str, Tensor]) -> None:
        def constant(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.detach().clone(), requires_grad=False)

        permutations = torch.tensor(self.topology.permutations, dtype=torch.int64)
        self.event_permutation_tensor = constant(permutations)
        for name in TABLES:
            if name in tables:
                setattr(self, name, constant(tables[name]))
        weights = {
            name.removeprefix(CLASS_WEIGHTS): constant(value)
            for name, value in tables.items()
            if name.startswith(CLASS_WEIGHTS)
        }
        if weights:
            self.classification_weights = nn.ParameterDict(weights)

    def _check_targets(self) -> None:
        known = {"EVENT"}
        for particle in self.topology.particles:
            known.add(f"{particle.name}/PARTICLE")
            if self.options.split_symmetric_attention:
                known |= {f"{particle.name}/{product}" for product in particle.products}
        for key in (*self.topology.regressions, *self.topology.classifications):
            if _source(key) not in known:
                raise ConfigurationError(
                    f"{key}: the network has no vector {_source(key)!r} to learn this from"
                    + (
                        ""
                        if self.options.split_symmetric_attention
                        else "; full attention (split_symmetric_attention: false) has none for "
                        "products"
                    )
                )


def _save_names(
    network: SpanetNetwork, state: dict[str, Any], prefix: str, metadata: object
) -> None:
    """Called after the state dict is made."""
    del metadata
    rename(state, prefix, network._pieces)


def _load_names(network: SpanetNetwork, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Called before a state dict is loaded."""
    restore(state, prefix, network._pieces)


def _source(key: str) -> str:
    """The vector that a target of this key is learnt from."""
    return key.rpartition("/")[0]
