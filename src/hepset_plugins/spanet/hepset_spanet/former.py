"""Modules that hepset-assignment has now: their former names still import, with a deprecation."""

from __future__ import annotations

MODULES = {
    "assignment.balance": "balance",
    "assignment.baseline": "evaluation.baseline",
    "assignment.candidates": "tuple_space",
    "assignment.confidence": "confidence",
    "assignment.config": "config",
    "assignment.decision": "decode",
    "assignment.dense": "dense_scores",
    "assignment.figures": "evaluation.figures",
    "assignment.joint": "joint_likelihood",
    "assignment.judging": "evaluation.metrics",
    "assignment.loss": "loss",
    "assignment.mass_figures": "evaluation.mass_figures",
    "assignment.masses": "evaluation.masses",
    "assignment.objective": "likelihood",
    "assignment.places": "object_axes",
    "assignment.quality": "evaluation.quality",
    "assignment.quantities": "particle_targets",
    "assignment.quantity_quality": "evaluation.particle_target_quality",
    "assignment.scoring": "tuple_scorer",
    "assignment.sculpting": "evaluation.sculpting",
    "assignment.sums": "log_sum_exp",
    "assignment.topology": "topology",
    "assignment.tuples": "tuples",
    "choice.bounds": "selection.bounds",
    "choice.candidates": "selection.candidates",
    "choice.combining": "selection.beam",
    "choice.prices": "selection.lagrangian",
    "choice.problem": "selection.problem",
    "choice.search": "selection.branch_and_bound",
    "head": "head",
    "selection": "selection",
}
"""Former name of a module of hepset_spanet to its name in hepset_assignment."""

PACKAGES = ("assignment", "choice")
"""Former packages of these modules."""
