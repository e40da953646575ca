"""The contract's rules on arrays: hold a batch against all of them and report everything at once.

Rules and the names they have in a report: ``missing``, ``misspelt``, ``unknown``, ``ids``,
``length``, ``shape``, ``slots``, ``features``, ``counts``, ``dtype`` (`layout`); ``finite``,
``domain``, ``labels``, ``one_hot``, ``non_negative`` (`values`); ``index``, ``padding``, ``twice``
(`indices`); ``mask-inverted``, ``mask-empty``, ``unit`` (`plausibility`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hepset.arrays import Ragged
from hepset.batch import EventBatch
from hepset.check.findings import Findings
from hepset.check.indices import check_indices, place_indices
from hepset.check.layout import check_layout, stream_of
from hepset.check.plausibility import check_masks, check_units
from hepset.check.values import check_target_weights, check_values
from hepset.schema.contract import Contract
from hepset.schema.report import Report

__all__ = ["check_batch"]


def check_batch(
    contract: Contract, batch: EventBatch, *, training: bool = True, raw: bool = False
) -> Report:
    """Check a batch against every rule of its contract and report all violations at once.

    Only real slots are checked: padding may hold anything. The batch is not padded or copied.

    Args:
        contract: What is expected, resolved or not.
        batch: Events of one or several sources; ``<stream>.counts`` among its arrays is held
            against the mask.
        training: Whether tensors that heads learn from are required; streams and globals are
            required always.
        raw: Whether the batch comes straight from a reader, so that prepare still cuts objects
            beyond the slots (a warning instead of an error) and picks features by name (more
            features are a note).

    Returns:
        Violations in the order of the contract's tensors, each with its first event.
    """
    findings = Findings(batch)
    views = check_layout(contract, findings, training=training, raw=raw)
    streams = _streams(contract, batch, views.keys())
    pointers = place_indices(contract, views, streams)
    inverted = check_masks(contract.tensors, streams, pointers, findings)
    for name, columns in views.items():
        spec = contract[name]
        if spec.kind != "index":
            check_values(spec, columns, findings)
            check_units(spec, columns, findings)
    for name, weights in batch.arrays.items():
        if name.startswith("weight/"):
            check_target_weights(name, weights, findings)
    check_indices(pointers, streams, contract.exclusive, inverted, findings)
    places = {name: place for place, name in enumerate(contract.tensors)}
    ordered = sorted(findings.violations, key=lambda v: _place(v.tensor, places))
    return Report(violations=tuple(ordered), events=len(batch))


def _place(label: str, places: Mapping[str, int]) -> int:
    """Position of a tensor in the contract, from its name with or without a column; else last."""
    while label and label not in places:
        label = label.rpartition(".")[0]
    return places.get(label, len(places))


def _streams(contract: Contract, batch: EventBatch, usable: Collection[str]) -> dict[str, Ragged]:
    found: dict[str, Ragged] = {}
    for spec in contract.of_kind("stream"):
        data = stream_of(batch, spec) if spec.name in usable else None
        if data is not None:
            found[spec.name] = data
    return found
