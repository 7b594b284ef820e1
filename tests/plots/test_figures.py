"""Pictures: what is drawn where, what is refused, and colours that can be told apart in grey."""

from __future__ import annotations

import io
import itertools
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

import recurjac_plugin as rj
from recurjac_plugin import plots
from recurjac_plugin.errors import FileError
from recurjac_plugin.plots import figures
from recurjac_plugin.plots.figures import new_figure, save

LOWER = np.array([-2.0, -0.5, 0.25, 0.0])
UPPER = np.array([-1.0, 0.5, 0.75, 1.0])
RADII = [0.01, 0.1]


def grid():
    return LOWER.reshape(2, 2), UPPER.reshape(2, 2)


FIGURES = {
    "intervals": lambda: plots.intervals(LOWER, UPPER, names=["a", "b", "c", "d"], title="t"),
    "many_intervals": lambda: plots.intervals(np.tile(LOWER, 50), np.tile(UPPER, 50)),
    "many_named_intervals": lambda: plots.intervals(
        np.tile(LOWER, 15), np.tile(UPPER, 15), [f"n{i}" for i in range(60)]
    ),
    "heat_map": lambda: plots.heat_map(*grid(), rows=["r", "s"], columns=["a", "b"], title="t"),
    "large_heat_map": lambda: plots.heat_map(np.tile(LOWER, (9, 9)), np.tile(UPPER, (9, 9))),
    "sign_map": lambda: plots.sign_map(np.stack([grid()[0]] * 3), np.stack([grid()[1]] * 3), "t"),
    "lipschitz_curves": lambda: plots.lipschitz_curves(
        RADII, {"a": [1, 2], "sampled": [0.5, 1], "e": [3, 3]}, everywhere=["e"], title="t"
    ),
    "lipschitz_at_0": lambda: plots.lipschitz_curves([0.0, 0.1], {"a": [0.0, 2.0]}),
    "closing_gap": lambda: plots.closing_gap([0, 1], [1, 2], [4, 3], norm="l_2", title="t"),
    "certified_fractions": lambda: plots.certified_fractions({"a": [0.0, 0.1, 0.2], "b": [0.0]}, title="t"),
    "landscape_curves": lambda: plots.landscape_curves(RADII, {"a": [0, 4]}, {"a": [1, 2]}, inputs=4, title="t"),
    "method_bars": lambda: plots.method_bars({"w": {"a": 1.0, "b": None}}, limits={"w": 0.5}, log=["w"], title="t"),
    "comparison": lambda: plots.comparison(
        [
            {"method": f"m{i}", "lower_bound": b, "verdict": v, "lipschitz": c, "seconds": 0.1, "unsupported": None}
            for i, (b, v, c) in enumerate(
                [(-2.0, "unknown", 3.0), (0.02, "unsat", None), (-np.inf, "timeout", 1.0), (-0.5, "sat", 2.0)]
            )
        ],
        "t",
    ),
    "boxes_2d": lambda: plots.boxes_2d([[0, 0], [1, 0]], [[1, 1], [2, 1]], ["unsat", "mine"], points=[[0.5, 0.5]]),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_picture_has_something_on_it_in_every_format(draw):
    figure = draw()
    picture = Image.open(io.BytesIO(plots.encoded(figure, "png")))
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 3
    assert plots.encoded(figure, "pdf").startswith(b"%PDF")
    assert b"<svg" in plots.encoded(figure, "svg")


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_ticks_do_not_collide(draw):
    figure = draw()
    figure.draw_without_rendering()
    for axes in figure.axes:
        for along, axis in enumerate((axes.xaxis, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            labels = [label for label in axis.get_majorticklabels() if low <= label.get_position()[along] <= high]
            shown = [label.get_window_extent() for label in labels if label.get_text()]
            for first, second in itertools.pairwise(shown):
                assert not first.overlaps(second)


def test_intervals_lie_between_their_bounds():
    figure = plots.intervals(torch.from_numpy(LOWER), torch.from_numpy(UPPER).requires_grad_())
    (axes,) = figure.axes
    thick = {
        round(bar.get_y() + bar.get_height() / 2): (bar.get_x(), bar.get_x() + bar.get_width(), bar.get_facecolor())
        for bar in axes.patches
        if bar.get_height() > 0.5
    }
    for i, (low, high) in enumerate(zip(LOWER, UPPER, strict=True)):
        assert thick[i][:2] == pytest.approx((low, high))
    assert [thick[i][2][:3] for i in range(4)] == [
        to_rgb(c) for c in (figures.FALLING, figures.UNKNOWN, figures.RISING, figures.UNKNOWN)
    ]
    assert axes.get_xlim()[0] < LOWER.min() < UPPER.max() < axes.get_xlim()[1]
    assert [text.get_text() for text in figure.legends[0].texts] == ["positive: 1", "negative: 1", "unknown: 2"]


def test_heat_map_has_middles_and_hatches_what_is_unknown():
    figure = plots.heat_map(*grid())
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[-1.5, 0.0], [0.5, 0.5]]
    (hatched,) = axes.patches
    assert hatched.get_hatch()
    assert hatched.get_path().contains_points([(x, y) for y in (0, 1) for x in (0, 1)]).sum() == 2
    assert [text.get_text() for text in figure.legends[0].texts] == ["sign known: 2", "unknown: 2"]


@pytest.mark.parametrize("known", [0.0, 0.5, 0.9, 1.0])
def test_hatches_lie_over_the_unknown_cells_alone_as_one_path(known):
    random = np.random.default_rng(0)
    sign = (random.random((7, 40)) < known) * random.choice([-1, 1], (7, 40))
    figure = plots.heat_map(np.where(sign > 0, 1.0, -2.0), np.where(sign < 0, -1.0, 2.0))
    paths = [patch.get_path() for patch in figure.axes[0].patches]
    assert len(paths) == (sign == 0).any()
    for path in paths:
        within = path.contains_points([(x, y) for y in range(7) for x in range(40)]).reshape(7, 40)
        assert np.array_equal(within, sign == 0)
        beside = (sign[:, 1:] == 0) & (sign[:, :-1] == 0)
        assert (path.codes == path.MOVETO).sum() == (sign == 0).sum() - beside.sum()


def test_tensors_of_any_number_type_are_drawn():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        figure = plots.heat_map(torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype, requires_grad=True))
        assert (figure.axes[0].images[0].get_array() == 0.5).all()


def test_signs_can_be_told_apart_in_grey():
    grey = sorted(
        np.dot(to_rgb(c), (0.2126, 0.7152, 0.0722)) for c in (figures.RISING, figures.FALLING, figures.UNKNOWN)
    )
    assert min(np.diff(grey)) > 0.2


BAD = {
    "shapes": (lambda: plots.intervals(LOWER, UPPER[:2]), "same shape"),
    "dimensions": (lambda: plots.intervals(*grid()), "1 dimension"),
    "no_arrays": (lambda: plots.sign_map(5, 6), "3 dimension"),
    "empty": (lambda: plots.intervals([], []), "elements"),
    "nan": (lambda: plots.heat_map([[np.nan]], [[1.0]]), "NaN"),
    "infinite": (lambda: plots.intervals([0.0], [np.inf]), "infinite"),
    "other_way_round": (lambda: plots.intervals(UPPER, LOWER), "other way round"),
    "names": (lambda: plots.intervals(LOWER, UPPER, names=["a"]), "`names`"),
    "rows": (lambda: plots.heat_map(*grid(), rows="ab"), "`rows`"),
    "channels": (lambda: plots.sign_map(np.zeros((5, 2, 2)), np.zeros((5, 2, 2))), "up to 4 channels"),
    "curves": (lambda: plots.lipschitz_curves(RADII, {"a": [1]}), "`a` has others"),
    "gap": (lambda: plots.closing_gap([], [], []), "one number for each step"),
    "no_inputs": (lambda: plots.certified_fractions({"a": []}), "one input"),
    "landscape": (lambda: plots.landscape_curves(RADII, {"a": [1, 2]}, {"b": [1, 2]}, inputs=3), "same methods"),
    "no_bars": (lambda: plots.method_bars({}), "at least one quantity"),
    "boxes": (lambda: plots.boxes_2d([[0, 0]], [[1, 1]], []), "`verdicts`"),
    "words": (lambda: plots.boxes_2d([[0, 0]] * 5, [[1, 1]] * 5, list("abcde")), "words of its own"),
}


@pytest.mark.parametrize(("draw", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_drawn_is_refused(draw, words):
    with pytest.raises(rj.InputError, match=words):
        draw()


def test_without_matplotlib_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(rj.ExtraError, match=r"recurjac-plugin\[plots\]"):
        plots.intervals(LOWER, UPPER)


def test_the_package_has_it_on_first_use():
    assert rj.plots is plots
    assert set(plots.__all__) <= set(dir(plots))


@pytest.mark.parametrize("ending", ["png", "PDF", "svg"])
def test_pictures_are_saved_in_the_format_of_their_name(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    save(new_figure(1, 1), path)
    begin = {"png": b"\x89PNG", "PDF": b"%PDF", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.foo", "must end in the format of the picture, "),
        ("a", "must end in the format of the picture, "),
        ("missing/a.png", "cannot be written: No such file or directory."),
        ("folder.png", "cannot be written: Is a directory."),
    ],
)
def test_pictures_that_cannot_be_saved_are_refused_in_a_sentence(name, words, tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FileError, match=re.escape(words)):
        save(new_figure(1, 1), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
