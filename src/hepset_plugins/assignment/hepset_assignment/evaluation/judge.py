"""`AssignmentsJudge`: which objects are the products of which particle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest

from hepset.interfaces.judge import Drawing, Judge, Metric
from hepset_assignment.evaluation.metrics import Case, baselines, compared, metrics
from hepset_assignment.evaluation.particle_target_quality import (
    quantity_baselines,
    quantity_metrics,
)
from hepset_assignment.particle_targets import Quantity
from hepset_assignment.topology import Topology, make_topology

__all__ = ["AssignmentsJudge"]


class AssignmentsJudge(Judge):
    """Event and particle purities, masses, detection, calibration; by number of objects too.

    An event is right if all its reconstructable particles are, under the best permutation that
    changes nothing. Definitions: section 8 of SPANet's papers (arXiv:2106.03898).

    Fields: those of the particles, by the names that the topology gives them. Options:
    ``topology``, where available; ``quantities``, targets of particles that are evaluated where
    the particle is right.
    """

    def metrics(self) -> list[Metric]:
        """Give purities with binomial errors, masses, and the detection's efficiency."""
        return [
            *metrics(self.topology, self.evaluation, self.cases),
            *quantity_metrics(self.quantities, self.topology, self.evaluation),
        ]

    def baselines(self) -> list[Metric]:
        """Judge the mass χ² on all-hadronic top pairs, elsewhere the leading objects."""
        return [
            *baselines(self.topology, self.evaluation, self.cases),
            *quantity_baselines(self.quantities, self.topology, self.evaluation),
        ]

    def figures(self) -> list[Drawing]:
        """Draw purity by multiplicity, reconstructed masses, and the calibration."""
        from hepset_assignment.evaluation.figures import figures  # noqa: PLC0415  matplotlib

        # By turns, those of the most frequent processes first: a report may not have room for all.
        by_size = sorted(self.cases, key=lambda case: -len(case.judged.rows))
        drawn = [figures(self.topology, self.evaluation, [case]) for case in by_size]
        return [d for turn in zip_longest(*drawn) for d in turn if d is not None]

    @cached_property
    def topology(self) -> Topology:
        """All that is assigned."""
        given = self.prediction.options.get("topology")
        if isinstance(given, Topology):
            return given
        return make_topology(self.evaluation.event, queries=True, where="the prediction")

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Targets of particles and products."""
        found: Sequence[Quantity] = self.prediction.options.get("quantities", ())
        return found

    @cached_property
    def cases(self) -> list[Case]:
        """Every process that can be evaluated."""
        return compared(self.topology, self.evaluation)
