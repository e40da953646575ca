"""``report.html``: what was learnt, from what, how well, and what to be careful about.

The page needs no other file and no network: figures are inside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from hepset.dataset import Dataset
from hepset.dataset.manifest import Manifest
from hepset.dataset.tables import (
    classes_table,
    cutflow_table,
    samples_table,
    sources_table,
    splits_table,
    training_ranges,
)
from hepset.evaluate.result import Judgement, drawn_shares, effective_events
from hepset.evaluate.spectra import (
    Compatibility,
    class_labels,
    compare,
    draw_spectra,
    momentum_guess,
    spectra,
)
from hepset.evaluate.variations import PARTS, Shift
from hepset.files import atomic_file
from hepset.interfaces.judge import Metric
from hepset.judges.labelled import first_events
from hepset.numbers import metric_text, number, with_error
from hepset.report import page
from hepset.report.history import draw_history, losses_of, read_history
from hepset.report.page import Markup, Section, table
from hepset.report.summary import (
    best_baseline,
    compare_metric,
    headline,
    quality,
    verdict,
)

if TYPE_CHECKING:
    from hepset.model import Model

__all__ = ["write_report"]

SUSPICIOUS: Final = 0.001
"""p-value below which a difference between training and evaluated split is pointed out."""
SHOWN_SOURCES: Final = 100
SHOWN_METRICS: Final = 28
"""Metrics of a head that are shown at once; the others on request."""
SHOWN_SHIFTS: Final = 6
"""Metrics of a head whose shifts are shown at once; the others on request."""
NEGATIVE_WARNING: Final = 0.05
MOST_FIGURES: Final = 60
"""Figures of all heads together that are drawn."""
LARGEST_FIGURES: Final = 3_500_000
"""Bytes that the figures of all heads may take."""
SPECTRA_EVENTS: Final = 50_000
"""Events whose inputs are drawn and compared with those of the training."""


def write_report(
    path: Path,
    judgement: Judgement,
    model: Model,
    dataset: Dataset,
    *,
    directory: Path,
    name: str,
    variations: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write the report of a run.

    Args:
        path: The file; it appears complete or not at all.
        judgement: The split with what the heads say of it.
        model: The trained model.
        dataset: What it was trained on.
        directory: Directory of the run, for its configuration and its training history.
        name: Name of the run.
        variations: ``evaluate.variations``, to show what each of them is.
    """
    sections = [
        _summary(judgement, model, directory),
        *_data(dataset, drawn_shares(model)),
        _checks(dataset.manifest),
        *_inputs(judgement),
        _displays(judgement),
        _training(model, directory),
        *_heads(judgement, page.Room(LARGEST_FIGURES)),
        _variations(judgement, variations or {}),
        _notes(judgement, dataset),
    ]
    evaluation = judgement.evaluation
    subtitle = (
        f"{', '.join(judgement.heads)} · {number(len(evaluation))} events of the split "
        f"“{judgement.split}”"
    )
    lead = page.cards(
        (
            f"{head}: {metric.name}",
            metric_text(metric),
            "no baseline" if baseline is None else f"{metric_text(baseline)} ({baseline.of})",
        )
        for head, metric, baseline in headline(
            {head: (r.metrics, r.baselines) for head, r in judgement.heads.items()}
        )
    )
    document = page.page(
        name, subtitle, lead, [section for section in sections if section is not None]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(document.encode())


def _summary(judgement: Judgement, model: Model, directory: Path) -> Section:
    evaluation = judgement.evaluation
    weight = evaluation.weight
    parameters = sum(p.numel() for p in model.parameters())
    backbone = ", ".join(f"{k} {v}" for k, v in model.config.backbone.items() if k != "name")
    versions = model.record()["versions"]
    rows: list[tuple[str, str]] = [
        ("evaluated on", f"split “{judgement.split}”, {number(len(evaluation))} events"),
        ("backbone", f"{model.config.backbone['name']} ({backbone or 'default options'})"),
        (
            "heads",
            "; ".join(f"{key}: {value['name']}" for key, value in model.config.heads.items()),
        ),
        ("parameters", number(parameters)),
        ("versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
    ]
    if evaluation.weighted:
        rows[1:1] = [
            ("effective sample size", f"{number(effective_events(weight))} events, (Σw)²/Σw²"),
            ("negative weights", f"{100 * float((weight < 0).mean()):.2f} % of the events"),
        ]
    body = table(("", ""), rows)
    config = directory / "config.yaml"
    text = (
        config.read_text(encoding="utf-8")
        if config.is_file()
        else yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False)
    )
    body += page.details("complete configuration", page.pre(text))
    return Section("Summary", body)


def _data(dataset: Dataset, drawn: Mapping[str, Sequence[float]]) -> Iterator[Section]:
    manifest = dataset.manifest
    skipped = table(
        ("skipped file", "reason"), [(part.key, part.reason) for part in manifest.skipped]
    )
    sources = sources_table(manifest, SHOWN_SOURCES).to_html()
    body = samples_table(dataset).to_html() + splits_table(manifest).to_html() + skipped
    body += page.details(f"{len(manifest.sources)} sources", sources)
    yield Section("Data", body)
    yield Section("Feature ranges (train)", _ranges(manifest, drawn), level=3)
    cutflow = _cutflow(manifest)
    if cutflow:
        yield Section("Cutflow", cutflow, level=3)


def _ranges(manifest: Manifest, drawn: Mapping[str, Sequence[float]]) -> str:
    body = training_ranges(manifest, " ").to_html() + classes_table(manifest, drawn).to_html()
    momenta = [
        (stream, momentum_guess(manifest.event, stream)) for stream in manifest.event.streams
    ]
    return body + table(("stream", "four-momentum"), momenta)


def _cutflow(manifest: Manifest) -> str:
    if not manifest.cutflow:
        return ""
    body = cutflow_table(manifest).to_html()
    for stream, cut in manifest.truncated.items():
        if cut.objects:
            body += page.note(
                f"{stream}: {cut.objects} objects of {cut.events} events were beyond the last "
                f"slot and were cut (the longest event has {cut.longest}); {cut.targets} targets "
                "pointed at them and are missing."
            )
    return body


def _checks(manifest: Manifest) -> Section:
    report = manifest.report
    if not report.violations:
        body = page.paragraph(f"{number(report.events)} events were checked: every rule holds.")
        return Section("Contract check", body)
    body = page.paragraph(f"{number(report.events)} events were checked.")
    return Section("Contract check", body + report.table().to_html())


def _inputs(judgement: Judgement) -> Iterator[Section]:
    whole = judgement.evaluation
    evaluation = replace(first_events(whole, SPECTRA_EVENTS), train=whole.train)
    found: list[Compatibility] = []
    figures = []
    names, _ = class_labels(evaluation)
    per = "per class" if len(names) > 1 else "of all events"
    for name, block in spectra(evaluation).items():
        drawing = draw_spectra(block, evaluation, judgement.split)
        caption = (
            f"Distributions {per}, each of unit area: lines the split “{judgement.split}” "
            f"({number(len(evaluation))} events)"
        )
        if evaluation.train is not None:
            caption += (
                f", points {number(len(evaluation.train))} training events with statistical errors"
            )
        caption += "; the outermost bins take what lies beyond."
        figures.append(page.figure(drawing, f"Inputs: {name}", caption))
        found += compare(block, evaluation)
    yield Section("Inputs", "".join(figures))
    if found:
        yield Section(f"Training against {judgement.split}", _compatibility(found), level=3)


def _displays(judgement: Judgement) -> Section | None:
    if not judgement.displays:
        return None
    figures = [page.figure(d.figure, d.title, d.caption) for d in judgement.displays]
    return Section("Displays", "".join(figures))


def _compatibility(found: list[Compatibility]) -> str:
    known = [part for part in found if math.isfinite(part.p_value)]
    low = [part for part in known if part.p_value < SUSPICIOUS]
    expected = SUSPICIOUS * len(known)
    text = (
        f"{len(known)} pairs of histograms compared by χ²; {len(low)} have p < {SUSPICIOUS:g}, "
        f"{expected:.2g} are expected by chance. Objects of one event are counted as independent."
    )
    rows = []
    for name, parts in groupby(found, key=lambda part: part.name):
        for part in parts:
            mark = Markup(f'<span class="{"bad" if part in low else "soft"}">{_p(part)}</span>')
            ratio = f"{part.chi2:.1f} / {part.ndf}" if part.ndf else "–"
            rows.append((name, part.group or "all events", ratio, mark))
    body = table(("quantity", "class", "χ² / ndf", "p"), rows, numbers=(2, 3))
    return page.note(text, warning=len(low) > 3 * expected + 2) + page.details(
        "all comparisons", body
    )


def _p(part: Compatibility) -> str:
    return f"{part.p_value:.3f}" if math.isfinite(part.p_value) else "–"


def _training(model: Model, directory: Path) -> Section | None:
    curves = read_history(directory)
    shown = losses_of(curves, list(model.heads))
    if not shown:
        return None
    sampled = bool(drawn_shares(model))
    figures = [
        page.figure(
            draw_history(name, curves[name]),
            "Total loss" if name == "loss" else f"Loss {name}",
            "Mean over the events of each epoch; the training loss is taken while the weights "
            "still change, and with dropout and augmentation where these are on."
            + (" Training events are drawn by sampling, those of validation are not." * sampled),
        )
        for name in shown
    ]
    return Section("Training", page.gallery(figures))


def _heads(judgement: Judgement, room: page.Room) -> Iterator[Section]:
    for name, result in judgement.heads.items():
        columns = ("metric", "model", "baseline", "difference")
        rows = list(_metric_rows(result.metrics, result.baselines))
        body = table(columns, rows[:SHOWN_METRICS], numbers=(1, 3))
        if len(rows) > SHOWN_METRICS:
            more = table(columns, rows[SHOWN_METRICS:], numbers=(1, 3))
            body += page.details(f"{len(rows) - SHOWN_METRICS} more metrics of {name}", more)
        shown = result.drawings[: MOST_FIGURES // len(judgement.heads)]
        figures = [room.figure(d) for d in shown]
        drawn = [figure for figure in figures if figure]
        body += page.gallery(drawn)
        left = len(result.drawings) - len(drawn)
        if left:
            body += page.note(
                f"{left} of {len(result.drawings)} figures of {name} are left out, for which the "
                "report has no room; their numbers are in metrics.json."
            )
        yield Section(f"Head {name}", body)


def _variations(
    judgement: Judgement, expressions: Mapping[str, Mapping[str, str]]
) -> Section | None:
    """How far the numbers move when inputs are changed."""
    names = list(judgement.variations)
    if not names:
        return None
    body = page.paragraph(
        "The evaluated events again with changed inputs; objects neither enter nor leave, and the "
        "model is the same. Shifts are differences to the unchanged events; their errors come from "
        f"the spread over {PARTS} parts of the events, each compared with itself."
    )
    body += table(
        ("variation", "feature", "expression"),
        [
            (name if first else "", feature, text)
            for name in names
            for first, (feature, text) in _firsts(expressions.get(name, {}).items())
        ],
    )
    for head, result in judgement.heads.items():
        shown = [metric for metric in result.metrics if math.isfinite(metric.value)]
        rows = []
        for metric in shown:
            row: list[object] = [metric.name, metric_text(metric)]
            for name in names:
                parts = judgement.variations[name].get(head, [])
                same = [part for part in parts if part.nominal.name == metric.name]
                row.append(_shift(same[0]) if same else "–")
            rows.append(row)
        title = f"Head {head}: shift under"
        columns = ("metric", "unchanged", *names)
        numbers = range(1, len(columns))
        body += table(columns, rows[:SHOWN_SHIFTS], numbers=numbers, caption=title)
        if len(rows) > SHOWN_SHIFTS:
            more = table(columns, rows[SHOWN_SHIFTS:], numbers=numbers)
            body += page.details(f"{len(rows) - SHOWN_SHIFTS} more metrics of {head}", more)
    return Section("Robustness", body)


def _firsts(items: Iterable[tuple[str, str]]) -> Iterator[tuple[bool, tuple[str, str]]]:
    for index, item in enumerate(items):
        yield index == 0, item


def _shift(part: Shift) -> Markup:
    """A shift with its sign; marked where it is worse by more than twice its error."""
    value, error = part.shift
    if not math.isfinite(value):
        return Markup("–")
    text = with_error(value, error, part.nominal.unit)
    text = text if text.startswith("−") or not value else f"+{text}"
    worse = quality(part.varied) < quality(part.nominal)
    bad = worse and math.isfinite(error) and abs(value) > 2 * error
    return Markup(f'<span class="{"bad" if bad else "soft"}">{page.escape(text)}</span>')


def _metric_rows(metrics: list[Metric], baselines: list[Metric]) -> Iterator[tuple[object, ...]]:
    for metric in metrics:
        same = [baseline for baseline in baselines if baseline.name == metric.name]
        beside = Markup(
            "<br>".join(
                Markup(
                    f"{page.escape(metric_text(b))} "
                    f'<span class="soft">{page.escape(b.of)}{" (limit)" if b.limit else ""}</span>'
                )
                for b in same
            )
            or '<span class="soft">none</span>'
        )
        best = best_baseline(metric, baselines)
        sigma = math.nan if best is None else compare_metric(metric, best)
        kind = "good" if sigma > 1 else "bad" if sigma < -1 else "soft"
        arrow = "→ 0" if "bias" in metric.name else "↑" if metric.better == "higher" else "↓"
        yield (
            f"{metric.name} {arrow}",
            metric_text(metric),
            beside,
            Markup(f'<span class="{kind}">{verdict(sigma)}</span>'),
        )


def _notes(judgement: Judgement, dataset: Dataset) -> Section:
    evaluation = judgement.evaluation
    weight = evaluation.weight
    lines = [
        (
            "Errors are statistical only: they come from the number of evaluated events. Nothing "
            "accounts for systematic uncertainties, for the choice of the seed, or for differences "
            "between simulation and data."
        ),
        (
            "Baselines are simple methods on the same events. The errors of model and baseline are "
            "treated as independent where a difference in σ is given; they are correlated, so the "
            "true significance is usually larger."
        ),
        f"The evaluated split has {number(len(evaluation))} events"
        + (
            f", worth {number(effective_events(weight))} unweighted ones."
            if evaluation.weighted
            else "."
        ),
    ]
    if judgement.split != "test":
        lines.append(
            f"The split “{judgement.split}” may have been looked at during training (choice of the "
            "best epoch): its numbers are slightly optimistic."
        )
    negative = float((weight < 0).mean()) if len(weight) else 0.0
    if negative > NEGATIVE_WARNING:
        lines.append(
            f"{100 * negative:.1f} % of the events have negative weights: errors are large and "
            "ratios may leave their usual range."
        )
    generators = [source.key for source in dataset.manifest.sources if ":" in source.key[:12]]
    if generators:
        lines.append(
            "Events come from a generator with a parametrised detector: leading order plus parton "
            "shower, one smearing model, no pile-up and no detector simulation, unless the sample "
            "says otherwise."
        )
    arrows = "↑ larger is better, ↓ smaller is better, → 0 nearer to zero is better."
    items = "".join(f"<li>{page.escape(line)}</li>" for line in [*lines, arrows])
    return Section("Notes", f"<ul>{items}</ul>")
