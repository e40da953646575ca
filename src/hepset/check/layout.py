"""Whether the tensors are there, with the right names, sizes and element types."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch, PaddedStream
from hepset.check.findings import Findings, View
from hepset.errors import ContractError, closest, did_you_mean
from hepset.schema.contract import Contract
from hepset.schema.tensors import TensorSpec

Views = dict[str, dict[str, View]]
"""Tensor → column (``""`` for a tensor without features) → its values."""

_LARGEST = {"float32": float(np.finfo(np.float32).max), "float64": float(np.finfo(np.float64).max)}
_EXACT = {"float32": 2**24, "float64": 2**53}


def check_layout(contract: Contract, findings: Findings, *, training: bool, raw: bool) -> Views:
    """Check presence, names, sizes and element types; return what is fit for the rules on values.

    Args:
        contract: What is expected.
        findings: Takes the violations, and holds the batch.
        training: Whether targets that heads learn from are required.
        raw: Whether the batch comes from a reader, before prepare cuts and picks.
    """
    batch = findings.batch
    _ids(findings)
    _names(contract, findings, training=training)
    views: Views = {}
    streams: dict[str, Ragged] = {}
    for spec in contract.of_kind("stream"):
        data = stream_of(batch, spec)
        if data is None:
            if spec.name in batch.arrays:
                _array_is_no_stream(spec, findings)
            continue
        usable = _stream(spec, data, findings, raw=raw)
        if usable is not None:
            streams[spec.name] = usable
            views[spec.name] = _columns(spec, usable, findings, raw=raw)
    of_globals = {spec.mask for spec in contract.of_kind("global")}
    masks = {
        spec.name: _mask(spec.name, batch.arrays[spec.name], findings, axes=1)
        for spec in contract.of_kind("mask")
        if spec.name in of_globals and spec.name in batch.arrays
    }
    for spec in contract.tensors.values():
        if spec.kind in {"stream", "mask"}:
            continue
        view = _tensor(spec, streams, masks, findings, raw=raw)
        if view is not None:
            views[spec.name] = _by_column(spec, view, findings)
    return views


def stream_of(batch: EventBatch, spec: TensorSpec) -> Ragged | None:
    """Return the data of a stream, also where it is given as a plain padded array with a mask."""
    if spec.name in batch.streams:
        return batch.streams[spec.name]
    array, mask = batch.arrays.get(spec.name), batch.arrays.get(f"{spec.name}.mask")
    if array is None or mask is None or array.ndim != 3 or array.shape[2] != len(spec.columns):
        return None
    columns = {name: array[:, :, i] for i, name in enumerate(spec.columns)}
    try:
        return PaddedStream(columns, mask).flat()
    except ContractError:
        return None


def _ids(findings: Findings) -> None:
    batch = findings.batch
    names = batch.ids.dtype.names or ()
    if not {"source", "entry", "sample"} <= set(names):
        findings.tensor(
            "ids",
            "ids",
            expected="a structured array with source, entry, sample",
            found=str(batch.ids.dtype),
            advice="build it with hepset.batch.make_ids",
        )
    for name, values in batch.predictions.items():
        if len(values) != len(batch):
            findings.tensor(
                "length",
                name,
                expected="one row per event",
                found=f"{len(values)} rows for {len(batch)} events",
                advice="give every prediction one row per event",
            )


def _names(contract: Contract, findings: Findings, *, training: bool) -> None:
    present = findings.batch.names()
    found = set(present)
    missing = [
        spec.name
        for spec in contract.tensors.values()
        if spec.name not in found and spec.kind not in {"mask", "prediction"}
    ]
    known = {f"{stream}.counts" for stream in findings.batch.streams}
    extras = [
        name
        for name in present
        if name not in contract
        and name not in known
        and not name.startswith(("extra/", "weight/"))
        and not (name.endswith(".mask") and name.removesuffix(".mask") in found)
    ]
    meant = {name: near for name in extras if (near := _misspelt(name, missing))}
    for name in missing:
        spec = contract[name]
        needed = spec.required and (training or spec.kind in {"stream", "pairs", "global"})
        if not needed:
            continue
        like = [extra for extra, near in meant.items() if near == name]
        others = closest(name, present)
        findings.tensor(
            "missing",
            name,
            expected=f"{spec.describe()}, asked for by {', '.join(spec.wanted_by) or 'the event'}",
            found=f"only {like[0]!r}" if like else "no such tensor",
            advice=(
                f"rename {like[0]!r} to {name!r}"
                if like
                else "add it to the files or leave out what asks for it"
                + (f"; the nearest names are {', '.join(map(repr, others))}" if others else "")
            ),
        )
    for name in extras:
        near = meant.get(name)
        findings.tensor(
            "misspelt" if near else "unknown",
            name,
            severity="error" if near else "note",
            expected=repr(near) if near else "a tensor that the contract knows",
            found=repr(name),
            advice=(
                f"rename it to {near!r}; that one is missing"
                if near
                else "nothing uses it; call it 'extra/…' to keep it along"
            ),
        )


def _misspelt(name: str, missing: Iterable[str]) -> str | None:
    """Return the missing tensor that an unknown name is near to, in its last part or throughout."""
    scored = []
    for candidate in missing:
        space, _, leaf = name.casefold().rpartition("/")
        wanted_space, _, wanted = candidate.casefold().rpartition("/")
        whole = difflib.SequenceMatcher(None, name.casefold(), candidate.casefold()).ratio()
        part = difflib.SequenceMatcher(None, leaf, wanted).ratio()
        if whole >= 0.9 and (part >= 0.6 or space != wanted_space):
            scored.append((whole, candidate))
        elif space == wanted_space and part >= 0.6:
            scored.append((part, candidate))
    return max(scored)[1] if scored else None


def _array_is_no_stream(spec: TensorSpec, findings: Findings) -> None:
    array = findings.batch.arrays[spec.name]
    mask = f"{spec.name}.mask"
    if mask not in findings.batch.arrays:
        findings.tensor(
            "missing",
            mask,
            expected=f"a mask beside the array {spec.name!r}, True = real",
            found="no such tensor",
            advice="add it, or give the stream as FlatStream or PaddedStream",
        )
        return
    if array.ndim == 3 and array.shape[2] == len(spec.columns):
        flags = _mask(mask, findings.batch.arrays[mask], findings, axes=2)
        if flags is None:
            return
    findings.tensor(
        "shape",
        spec.name,
        expected=_shape_text(spec),
        found=f"shape {array.shape}",
        advice=f"its features are {', '.join(spec.columns)}; compare with the event file",
    )


def _stream(spec: TensorSpec, data: Ragged, findings: Findings, *, raw: bool) -> Ragged | None:
    """Check how a stream is held; return it, or None where that is broken."""
    if not _offsets(spec, data, findings):
        return None
    _slots(spec, data, findings, raw=raw)
    counts = findings.batch.arrays.get(f"{spec.name}.counts")
    if counts is not None:
        _counts(spec, data, counts, findings)
    return data


def _offsets(spec: TensorSpec, data: Ragged, findings: Findings) -> bool:
    offsets = data.offsets
    advice = "offsets begin with 0, never fall, and end with the number of objects"
    expected = "offsets that count the objects of each event"
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        found = f"{offsets.dtype} of shape {offsets.shape}"
    elif offsets[0] != 0:
        found = f"first offset {offsets[0]}"
    elif (falling := np.flatnonzero(offsets[1:] < offsets[:-1])).size:
        row = int(falling[0])
        findings.events(
            "counts",
            spec.name,
            falling,
            expected=expected,
            found=f"{offsets[row]} followed by {offsets[row + 1]}",
            advice=advice,
        )
        return False
    else:
        for name, values in {**data.columns, **data.attached}.items():
            if len(values) != offsets[-1]:
                findings.tensor(
                    "counts",
                    f"{spec.name}.{name}" if name in data.columns else name,
                    expected="as many values as the offsets count objects",
                    found=f"{len(values)} values for {offsets[-1]} objects",
                    advice=advice,
                )
                return False
        return True
    findings.tensor("counts", spec.name, expected=expected, found=found, advice=advice)
    return False


def _mask(name: str, mask: Array, findings: Findings, axes: int = 2) -> Array | None:
    """Return the mask as booleans; zeros and ones of another type are fine, other values not."""
    if mask.ndim != axes:
        findings.tensor(
            "shape",
            name,
            expected="axes (event, slot)" if axes == 2 else "axes (event)",
            found=f"shape {mask.shape}",
            advice="a mask has one entry per slot, True = real",
        )
        return None
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf":
        _dtype(name, "bool", mask, findings)
        return None
    flags = (mask != 0) & (mask != 1)
    if flags.any():
        view = View(mask)
        findings.events(
            "dtype",
            name,
            view.rows(flags),
            expected="booleans, or 0 and 1",
            found=view.first(flags),
            advice="give the mask as booleans, True = real (a count or a weight is no mask)",
        )
        return None
    return mask.astype(bool)


def _slots(spec: TensorSpec, data: Ragged, findings: Findings, *, raw: bool) -> None:
    wanted = spec.shape[1]
    if wanted is None:
        return
    name = spec.name
    held = findings.batch.slots.get(name, wanted if data.slots is None else data.slots)
    counts = data.counts
    if data.origin_slot is None or raw:
        excess = np.asarray(counts > wanted)
    else:
        excess = np.zeros(len(data), bool)
        excess[data.event_of[data.origin_slot >= wanted]] = True
    if excess.any():
        rows = np.flatnonzero(excess)
        findings.events(
            "slots",
            name,
            rows,
            severity="warning" if raw else "error",
            expected=f"at most {wanted} objects",
            found=f"{counts[rows[0]]} objects, {int(counts.max())} in the longest event",
            advice=(
                f"objects beyond {wanted} are cut by `order`; "
                if raw
                else "let prepare cut them by `order`, or "
            )
            + f"set streams.{name}.slots: {int(counts.max())}"
            + (" to keep all" if raw else ""),
        )
    elif held != wanted and not raw:
        findings.tensor(
            "slots",
            name,
            expected=f"{wanted} slots",
            found=f"{held} slots",
            advice=f"set streams.{name}.slots: {held}, or pad to {wanted} slots",
        )


def _counts(spec: TensorSpec, data: Ragged, counts: Array, findings: Findings) -> None:
    if counts.shape != (len(findings.batch),):
        found = f"shape {counts.shape}"
        expected = "one number of objects per event"
        findings.tensor(
            "counts",
            f"{spec.name}.counts",
            expected=expected,
            found=found,
            advice="give one integer per event or leave the counts out",
        )
        return
    wrong = counts != data.counts
    if wrong.any():
        rows = np.flatnonzero(wrong)
        real = data.counts[rows[0]]
        findings.events(
            "counts",
            f"{spec.name}.mask",
            rows,
            expected=f"as many real slots as {spec.name}.counts says",
            found=f"{real} real slots where the count is {counts[rows[0]]}",
            advice="one of the two is wrong in the file: compare the mask with the counter",
        )


def _columns(spec: TensorSpec, data: Ragged, findings: Findings, *, raw: bool) -> dict[str, View]:
    found, wanted = list(data.columns), spec.columns
    missing = [name for name in wanted if name not in data.columns]
    extras = [name for name in found if name not in wanted]
    for name in missing:
        findings.tensor(
            "features",
            f"{spec.name}.{name}",
            expected=f"the feature {name!r}",
            found=f"features {', '.join(found)}" if found else "no features",
            advice="add it to the files, to the column map or to prepare.derive"
            + did_you_mean(name, extras),
        )
    if extras:
        findings.tensor(
            "features",
            spec.name,
            severity="note" if raw or missing else "error",
            expected=f"the {len(wanted)} features {', '.join(wanted)}",
            found=f"{len(found)} features, also {', '.join(extras)}",
            advice=f"declare them under streams.{spec.name}.features or leave them out",
        )
    elif not missing and found != wanted and not raw:
        findings.tensor(
            "features",
            spec.name,
            expected=f"the features in the order {', '.join(wanted)}",
            found=", ".join(found),
            advice="the position decides what a number means: put the columns in that order",
        )
    views = {}
    for name in wanted:
        if name not in data.columns:
            continue
        values = data.columns[name]
        label = f"{spec.name}.{name}"
        view = View(values, objects=data)
        if values.ndim != 1:
            findings.tensor(
                "shape",
                label,
                expected="one value per object",
                found=f"shape {values.shape}",
                advice="a feature is one number per object; give vectors as several features",
            )
        elif _convertible(label, spec.dtype, view, findings):
            views[name] = view
    return views


def _tensor(
    spec: TensorSpec,
    streams: dict[str, Ragged],
    masks: dict[str, Array | None],
    findings: Findings,
    *,
    raw: bool,
) -> View | None:
    """Return a tensor that is not a stream, with its mask, where its shape is right."""
    batch = findings.batch
    if spec.name in batch.arrays:
        values = batch.arrays[spec.name]
        # What a reader gives has the slots of the file along the axes of a stream.
        if not _shape_fits(spec, values, findings, free=streams if raw else ()):
            return None
        if spec.is_table:
            return _table(spec, values, streams, findings)
        mask = None
        if spec.mask is not None:
            stream = streams.get(spec.mask.removesuffix(".mask"))
            if stream is None or values.ndim == 1:
                mask = masks.get(spec.mask)
            else:
                slots = values.shape[1] if stream.slots is None else stream.slots
                mask = stream.mask(slots)
            if mask is not None and mask.shape != values.shape[: mask.ndim]:
                findings.tensor(
                    "shape",
                    spec.name,
                    expected=f"the slots of {spec.mask}",
                    found=f"shape {values.shape} beside a mask of shape {mask.shape}",
                    advice="pad the tensor to the slots of its stream",
                )
                return None
        if spec.kind == "pairs" and mask is not None:
            mask = mask[:, :, None] & mask[:, None, :]
        return View(values, mask)
    for stream in streams.values():
        if spec.name in stream.attached:
            return _attached(spec, stream, findings)
    return None


def _table(
    spec: TensorSpec, values: Array, streams: dict[str, Ragged], findings: Findings
) -> View | None:
    """Return a target with axes of its own; real where all its objects are."""
    last = max((axis for axis, dim in enumerate(spec.dims) if dim in streams), default=None)
    if last is None:
        return View(values)
    mask = np.ones((1,) * (last + 1), bool)
    for axis, dim in enumerate(spec.dims[1:], 1):
        stream, size = streams.get(dim), values.shape[axis]
        if stream is None:
            continue
        if size < stream.width or stream.slots not in {None, size}:
            found = f"{size} entries along {dim!r} beside {stream.slots or stream.width} {dim}"
            findings.tensor(
                "shape",
                spec.name,
                expected=f"an entry for every slot of {dim}",
                found=found,
                advice=f"pad the target to the slots of {dim}",
            )
            return None
        real = stream.mask(size)
        mask = mask & real.reshape(len(real), *(1,) * (axis - 1), size, *(1,) * (last - axis))
    return View(values, np.broadcast_to(mask, values.shape[: last + 1]))


def _attached(spec: TensorSpec, stream: Ragged, findings: Findings) -> View | None:
    values = stream.attached[spec.name]
    rest = values.shape[1:]
    wanted = spec.shape[2:]
    fits = len(rest) == len(wanted) and all(
        size is None or size == n for size, n in zip(wanted, rest, strict=True)
    )
    if not fits:
        findings.tensor(
            "shape",
            spec.name,
            expected=_shape_text(spec),
            found=f"shape {values.shape}",
            advice=f"give one entry per object of {spec.dims[1] if spec.dims[1:] else 'the event'}",
        )
        return None
    return View(values, objects=stream)


def _shape_fits(
    spec: TensorSpec, values: Array, findings: Findings, free: Collection[str] = ()
) -> bool:
    fits = values.ndim == len(spec.dims) and all(
        size is None or size == n or dim in free
        for dim, size, n in zip(spec.dims[1:], spec.shape[1:], values.shape[1:], strict=False)
    )
    if not fits:
        columns = f" ({', '.join(spec.columns)})" if spec.columns else ""
        findings.tensor(
            "shape",
            spec.name,
            expected=_shape_text(spec) + columns,
            found=f"shape {values.shape}",
            advice="compare the files with the event file: the sizes have to be the same",
        )
    return fits


def _by_column(spec: TensorSpec, view: View, findings: Findings) -> dict[str, View]:
    if not spec.columns or spec.kind == "index":
        return {"": view} if _convertible(spec.name, spec.dtype, view, findings) else {}
    found = {}
    for index, name in enumerate(spec.columns):
        column = View(view.values[..., index], view.mask, view.objects)
        if _convertible(f"{spec.name}.{name}", spec.dtype, column, findings):
            found[name] = column
    return found


def _shape_text(spec: TensorSpec) -> str:
    return "shape " + spec.describe().removeprefix(spec.name).removesuffix(spec.dtype).strip()


def _dtype(label: str, wanted: str, values: Array, findings: Findings) -> None:
    findings.tensor(
        "dtype",
        label,
        expected=f"numbers that fit {wanted}",
        found=f"dtype {values.dtype}",
        advice="convert it to numbers when the file is written",
    )


def _convertible(label: str, wanted: str, view: View, findings: Findings) -> bool:
    """Whether values reach the contract's dtype without loss (beyond rounding)."""
    values = view.values
    kind = values.dtype.kind
    if kind not in "biuf":
        _dtype(label, wanted, values, findings)
        return False
    if not values.size or values.dtype == wanted or kind == "b":
        return True
    if wanted.startswith("float"):
        return _fits_float(label, wanted, view, findings)
    return _fits_integer(label, wanted, view, findings)


def _fits_float(label: str, wanted: str, view: View, findings: Findings) -> bool:
    values = view.values
    if values.dtype.kind == "f":
        if values.dtype.itemsize <= np.dtype(wanted).itemsize:
            return True
        limit = _LARGEST[wanted]
        if max(abs(values.max()), abs(values.min())) <= limit:
            return True
        flags = view.real(np.isfinite(values) & (np.abs(values) > limit))
        expected = f"values that {wanted} can hold (up to {limit:.3g})"
        advice = "change the unit, or mark missing values as padding instead of huge numbers"
    else:
        limit = _EXACT[wanted]
        if values.max() <= limit and values.min() >= -limit:
            return True
        flags = view.real((values > limit) | (values < -limit))
        expected = f"integers that {wanted} holds exactly (up to {limit})"
        advice = "identifiers belong under 'extra/…'; split a bit field into one feature per bit"
    if flags.any():
        found = view.first(flags)
        rows = view.rows(flags)
        findings.events("dtype", label, rows, expected=expected, found=found, advice=advice)
    return not flags.any()


def _fits_integer(label: str, wanted: str, view: View, findings: Findings) -> bool:
    values = view.values
    if wanted == "bool":
        flags = view.real((values != 0) & (values != 1))
        expected = "booleans, or 0 and 1"
        advice = "write truth values; numbers are a target of kind index or regression"
    elif values.dtype.kind == "f":
        limits = np.iinfo(np.dtype(wanted))
        with np.errstate(invalid="ignore"):
            fits = (values >= limits.min) & (values < limits.max + 1.0)
            flags = view.real(~(fits & (values == np.floor(values))))
        expected = "integers"
        advice = "write labels and indices as integers, −1 = missing"
    else:
        limits = np.iinfo(np.dtype(wanted))
        if values.max() <= limits.max and values.min() >= limits.min:
            return True
        flags = view.real((values > limits.max) | (values < limits.min))
        expected = f"integers that {wanted} holds"
        advice = "labels and indices count from 0, −1 = missing"
    if flags.any():
        found = view.first(flags)
        rows = view.rows(flags)
        findings.events("dtype", label, rows, expected=expected, found=found, advice=advice)
    return not flags.any()
