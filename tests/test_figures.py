"""Histograms with errors, and figures that leave nothing behind."""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hepset.figures import (
    bin_edges,
    draw_histogram,
    draw_points,
    histogram,
    new_figure,
    save,
    start_at_zero,
    styled,
)


def test_histogram_by_hand() -> None:
    x, w = np.array([0.5, 0.5, 1.5, 9.0, np.nan]), np.array([3.0, -1.0, 2.0, 5.0, 1.0])
    content, error = histogram(x, np.array([0.0, 1.0, 3.0]), w)
    assert content.tolist() == [2, 2]
    np.testing.assert_allclose(error, [np.sqrt(10), 2])
    content, error = histogram(x, np.array([0.0, 1.0, 3.0]), w, density=True)
    np.testing.assert_allclose(content, [0.5, 0.25])
    np.testing.assert_allclose(error, [np.sqrt(10) / 4, 0.25])


def test_edges_leave_out_the_tails_and_survive_nothing() -> None:
    x = np.concatenate([np.linspace(0, 1, 1000), [1e9, np.nan]])
    edges = bin_edges(x, 10)
    assert len(edges) == 11
    assert 0 <= edges[0] < edges[-1] < 1.1
    assert len(bin_edges(np.zeros(0), 4)) == 5
    assert (np.diff(bin_edges([np.ones(3), np.ones(2)], 4)) > 0).all()


@styled
def drawn() -> Figure:
    figure, axes = new_figure("x [GeV]", "events")
    values, edges = np.random.default_rng(0).normal(size=500), np.linspace(-3, 3, 21)
    draw_histogram(axes, values, edges, label="line")
    draw_histogram(axes, values, edges, np.full(500, 0.5), points=True, colour="black")
    draw_histogram(axes, values, edges, filled=True)
    points = np.array([0.0, 1.0, np.nan])
    draw_points(axes, points, points, np.array([0.1, np.nan, 0.1]))
    axes.legend()
    return figure


def test_drawing_changes_no_global_setting_and_no_figure_stays_open() -> None:
    before = dict(mpl.rcParams)
    figure = drawn()
    image = BytesIO()
    save(figure, image, format="png", dpi=50)
    assert image.getvalue().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    from matplotlib import pyplot as plt

    assert plt.get_fignums() == []
    tick = figure.axes[0].xaxis.get_major_ticks()[0]
    assert tick.tick1line.get_markersize() == 5
    assert tick.get_tickdir() == "in"


def test_negative_bins_stay_in_sight() -> None:
    lowest = []
    for weight in (np.array([1.0, -3.0]), np.array([1.0, 3.0])):
        _, axes = new_figure()
        draw_histogram(axes, np.array([0.5, 1.5]), np.array([0.0, 1.0, 2.0]), weight)
        start_at_zero(axes, weight)
        lowest.append(axes.get_ylim()[0])
    assert lowest[0] < -3
    assert lowest[1] == 0
