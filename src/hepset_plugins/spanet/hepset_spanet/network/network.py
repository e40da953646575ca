"""`SpanetNetwork`: the whole of SPANet 2.2, under the parameter names of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset_spanet.network.branch import Branch, RegressionHead, VectorHead
from hepset_spanet.network.embedding import InputEmbedding, Source
from hepset_spanet.network.encoder import StackedEncoder
from hepset_spanet.network.topology import Topology
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


class _Networks(nn.Module):
    """Heads by SPANet's key."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: head(vectors[_source(key)]) for key, head in self.networks.items()}


class _Regressions(_Networks):
    """Regression heads by SPANet's key."""

    def std(self, key: str) -> Tensor:
        """Return the standard deviation of a target in the training data."""
        head = self.networks[key]
        assert isinstance(head, RegressionHead)
        return head.std


class SpanetNetwork(nn.Module):
    """Embedding, central encoder, one branch per particle, and the heads on vectors.

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
        self.encoder = StackedEncoder(options, 0, options.num_encoder_layers)
        self.branch_decoders = nn.ModuleList(
            Branch(options, particle) for particle in topology.particles
        )
        self._check_targets()
        self.regression_decoder = _Regressions(
            {key: RegressionHead(options, kind) for key, kind in topology.regressions.items()}
        )
        self.classification_decoder = _Networks(
            {
                key: VectorHead(options, options.num_classification_layers, count)
                for key, count in topology.classifications.items()
            }
        )

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
        sequence, mask, filled = embedded.sequence, embedded.mask, embedded.filled
        length = sequence.shape[1]
        if tokens is not None:
            sequence = torch.cat([sequence, tokens], 1)
            real = torch.ones_like(tokens[..., 0], dtype=torch.bool)
            mask, filled = torch.cat([mask, real], 1), torch.cat([filled, real], 1)
        if condition is not None:
            sequence = torch.where(filled[..., None], sequence + condition[:, None], sequence)
        sequence, event = self.encoder(sequence, mask, filled)
        if condition is not None:
            event = event + condition
        extra = sequence[:, length:]
        sequence = sequence[:, :length]
        encoded = embedded._replace(sequence=sequence)
        out = SpanetOutputs(sequence, vectors={"EVENT": event}, extra=extra)
        for particle, branch in zip(self.topology.particles, self.branch_decoders, strict=True):
            found = branch(encoded)
            out.log_probabilities[particle.name] = found.log_probability
            out.detections[particle.name] = found.detection
            out.vectors[f"{particle.name}/PARTICLE"] = found.vector
            for product, vector in zip(particle.products, found.product_vectors, strict=False):
                out.vectors[f"{particle.name}/{product}"] = vector
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


def _source(key: str) -> str:
    """The vector that a target of this key is learnt from."""
    return key.rpartition("/")[0]
