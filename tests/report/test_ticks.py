"""Ticks of the pictures of a report: enough of them, in the picture, and no two labels that touch."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from recurjac_plugin.plots import new_figure
from recurjac_plugin.report import pictures
from recurjac_plugin.report.runs import Answer, Run, placed
from recurjac_plugin.report.statistics import compared
from recurjac_plugin.report.ticks import candidates, set_ticks


def boxes_of(axis):
    return [label.get_window_extent() for label in axis.get_majorticklabels() if label.get_text()]


def collide(axis):
    return any(one.overlaps(other) for one, other in itertools.combinations(boxes_of(axis), 2))


@pytest.mark.parametrize("size", [(1.8, 1.6), (3.0, 2.0), (8.0, 4.6)])
@pytest.mark.parametrize(
    ("low", "high"), [(0.001, 0.3), (1, 500), (20_000, 3_000_000), (3.1, 3.9), (0.7, 7), (1e-3, 1e9), (98_000, 99_000)]
)
def test_labels_do_not_touch(size, low, high):
    figure = new_figure(*size)
    axes = figure.subplots()
    for which in ("x", "y"):
        pictures._log_axis(axes, which, low, high)
    set_ticks(figure)
    FigureCanvasAgg(figure).draw()
    for axis in (axes.xaxis, axes.yaxis):
        assert not collide(axis)
        assert 1 <= len(boxes_of(axis)) <= 12


def test_candidates_thin_out():
    for low, high in ((0.001, 0.3), (1, 500), (3.1, 3.9), (1e-3, 1e9)):
        found = [*candidates(low, high)]
        assert all(low <= place <= high for places in found for place in places)
        assert [len(places) for places in found] == sorted((len(places) for places in found), reverse=True)
    assert [1.0, 10.0, 100.0] in candidates(1, 500)


@pytest.mark.parametrize("boxes", [(1, 2), (40_000, 90_000), (1, 3_000_000)])
def test_pictures_of_runs(monkeypatch, boxes):
    """The pictures themselves, with numbers that made ticks collide."""
    drawn = []
    monkeypatch.setattr(pictures, "encoded", lambda figure, kind: drawn.append(figure))
    runs = [
        Run(name, name, placed(Answer("c", f"{i}", "p", "unsat", 10.0 ** (i - 3), 60.0, count) for i, count in
                               enumerate(boxes)))
        for name in ("a run with quite a long name", "b")
    ]  # fmt: skip
    pair = compared(*runs)
    pictures.cactus(runs)
    pictures.time_scatter(pair)
    pictures.boxes_scatter(pair)
    assert len(drawn) == 3
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            assert not collide(axes.xaxis) and not collide(axes.yaxis)
