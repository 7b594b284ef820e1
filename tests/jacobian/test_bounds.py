"""`Bounds` as an object to hold: what it says, what it draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import hosted
from oracle import Ball, truth
from processes import python

import recurjac_plugin as rj


def example(*shape, dtype=torch.float64):
    low, high = torch.randn(2, *shape, dtype=dtype)
    return rj.Bounds(torch.minimum(low, high), torch.maximum(low, high))


def texts(figure):
    return [axes.get_title() for axes in figure.axes] + [text.get_text() for text in figure.legends[0].get_texts()]


def test_unpacks_and_says_its_shape():
    bounds = example(2, 3, 4, dtype=torch.float32)
    lower, upper = bounds
    assert lower is bounds.lower
    assert upper is bounds.upper
    assert repr(bounds).startswith("Bounds(2 regions x 3 rows x 4 inputs, ")


def test_width_magnitude_and_sign():
    bounds = rj.Bounds(torch.tensor([[[-3.0, 0.0, 1.0, -2.0, 0.0]]]), torch.tensor([[[1.0, 2.0, 1.5, -1.0, 0.0]]]))
    assert bounds.width.tolist() == [[[4.0, 2.0, 0.5, 1.0, 0.0]]]
    assert bounds.magnitude.tolist() == [[[3.0, 2.0, 1.5, 2.0, 0.0]]]
    assert bounds.sign().tolist() == [[[0, 0, 1, -1, 0]]]
    assert bounds.sign().dtype == torch.int8


def test_contains_what_it_bounds_and_nothing_else():
    net, center, model = hosted("tanh")
    region = Ball(center, 0.1)
    with torch.no_grad():
        bounds = rj.jacobian_bounds(model, region.perturbed())
    values = truth(net, region)
    assert bounds.contains(values, slack=1e-9)
    assert bounds.contains(values[3], slack=1e-9)
    assert bounds.contains(values.unsqueeze(1).numpy(), slack=1e-9)
    assert bounds.contains(values[:0])
    for place in ((5, 1, 2, 3), (0, 0, 0, 0)):
        for moved in (bounds.upper[place[1:]] + 1e-3, bounds.lower[place[1:]] - 1e-3, math.nan):
            outside = values.clone()
            outside[place] = moved
            assert not bounds.contains(outside, slack=1e-9)
            assert math.isnan(moved) or bounds.contains(outside, slack=2e-3)


def test_contains_compares_in_the_wider_type():
    bounds = rj.Bounds(torch.tensor([[[0.1]]]), torch.tensor([[[0.1]]]))  # float32, a little above 0.1
    assert not bounds.contains(torch.tensor([[[0.1]]], dtype=torch.float64))
    assert bounds.contains(bounds.lower.double())


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5), (2, 2, 3, 4), (3, 2, 4), ()])
def test_contains_wants_the_same_shape(shape):
    with pytest.raises(rj.InputError, match=r"must have shape \(..., 2, 3, 4\)"):
        example(2, 3, 4).contains(torch.zeros(shape) if shape != (2, 2, 3, 4) else torch.zeros(2, 2, 3, 5))


def test_to_numpy_has_neither_gradient_nor_device():
    bounds = rj.Bounds(torch.zeros(1, 2, 3, requires_grad=True) * 2, torch.ones(1, 2, 3))
    lower, upper = bounds.to_numpy()
    assert isinstance(lower, np.ndarray)
    assert (lower.shape, upper.dtype, float(upper.min())) == ((1, 2, 3), np.float32, 1.0)


@pytest.mark.parametrize(
    ("input_shape", "image_shape", "channels"),
    [((5, 7), None, 1), ((1, 5, 7), None, 1), ((3, 5, 7), None, 3), ((35,), (5, 7), 1), ((70,), (2, 5, 7), 2)],
)
def test_plot_shows_lower_upper_and_sign(input_shape, image_shape, channels):
    bounds = example(2, 3, *input_shape)
    figure = bounds.plot(row=2, sample=1, image_shape=image_shape)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * channels
    assert len(figure.axes) == 3 * channels + 1  # one colour bar
    shown = [np.asarray(axes.images[0].get_array()) for axes in panels]
    lower, upper = (bound[1, 2].reshape(channels, 5, 7).numpy() for bound in bounds)
    sign = bounds.sign()[1, 2].reshape(channels, 5, 7).numpy()
    for channel in range(channels):
        for found, expected in zip(
            shown[3 * channel : 3 * channel + 3], (lower[channel], upper[channel], sign[channel]), strict=True
        ):
            assert np.array_equal(found, expected)
    for axes in panels[:2]:
        scale = axes.images[0].norm
        assert scale.vmin == -scale.vmax == -float(max(np.abs(lower).max(), np.abs(upper).max()))
    assert {"lower bound", "upper bound", "sign"} <= set(texts(figure))
    assert {f"positive: {(sign > 0).sum()}", f"negative: {(sign < 0).sum()}", f"unknown: {(sign == 0).sum()}"} <= set(
        texts(figure)
    )
    assert figure.get_suptitle() == "Jacobian bounds of row 2, region 1"


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_plot_is_saved_in_the_format_of_its_name(tmp_path, form, start):
    path = tmp_path / f"J.{form}"
    example(1, 1, 4, 4).plot(path=path, title="a title")
    assert path.read_bytes().startswith(start)


def test_plot_of_zeros_has_a_scale():
    figure = rj.Bounds(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)).plot()
    assert figure.axes[0].images[0].norm.vmax == 1


@pytest.mark.parametrize(
    ("shape", "options", "word"),
    [
        ((35,), {"inputs": ["a", "b"]}, "`inputs` must be 35 names"),
        ((35,), {"rows": "abc"}, "`rows` must be 3 names"),
        ((35,), {"image_shape": (5, 6)}, "35 elements"),
        ((35,), {"image_shape": (35,)}, "image_shape"),
        ((5, 7), {"row": 3}, "`row` must be from 0 to 2"),
        ((5, 7), {"sample": 2}, "`sample` must be from 0 to 1"),
        ((5, 5, 7), {}, "up to 4 channels"),
    ],
)
def test_plot_refuses_what_does_not_fit(shape, options, word):
    with pytest.raises(rj.InputError, match=word):
        example(2, 3, *shape).plot(**options)


@pytest.mark.parametrize("input_shape", [(35,), (35, 1), (1, 1, 5, 7)])
def test_plot_of_what_is_no_image_is_a_heat_map_of_all_rows(input_shape):
    bounds = example(2, 3, *input_shape)
    figure = bounds.plot(sample=1, rows=["a", "b", "c"])
    (shown,) = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.allclose(np.asarray(shown), bounds.midpoint[1].reshape(3, 35).numpy())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert figure.get_suptitle() == "Jacobian bounds of all rows, region 1"


@pytest.mark.parametrize(("count", "row"), [(3, 2), (1, None)])
def test_plot_of_a_row_over_a_vector_has_a_bar_for_every_input(count, row):
    bounds = example(2, count, 5)
    figure = bounds.plot(row, 1, inputs=list("abcde"))
    (axes,) = figure.axes
    lower, upper = (bound[1, row or 0].tolist() for bound in bounds)
    drawn = {(round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in axes.patches}
    for i, (low, high) in enumerate(zip(lower, upper)):
        assert any(at == i and (x, x + w) == pytest.approx((low, high)) for at, x, w in drawn)
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcde")
    sign = bounds.sign()[1, row or 0]
    assert texts(figure)[1:] == [
        f"{n}: {int((sign == s).sum())}" for n, s in (("positive", 1), ("negative", -1), ("unknown", 0))
    ]
    assert figure.get_suptitle() == f"Jacobian bounds of row {row or 0}, region 1"


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 1, 4), (1, 2, 4)])
def test_plot_refuses_what_has_no_colour(shape):
    bounds = rj.Bounds(torch.full(shape, -math.inf), torch.zeros(shape))
    with pytest.raises(rj.InputError, match="NaN or infinite"):
        bounds.plot()


def test_plot_leaves_pyplot_alone():
    code = (
        "import sys, torch, recurjac_plugin as rj\n"
        "rj.Bounds(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).plot()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert python("-c", code).stdout.strip() == "False"
